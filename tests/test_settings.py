"""Settings of the user's own modules: noticed in the client, in force in the runner."""

import importlib
import json
import math
import os
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import events
from programs import LIMIT, ROOT, run_script

import cw
from cw.payloads import settings


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a module of the user's own and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    made = []

    def make(text, name=None):
        name = name or f"own_params_{time.monotonic_ns()}"
        made.append(name)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)
        settings._sent.difference_update([each for each in settings._sent if each[0] == name])


def found(module):
    return settings.settings_of_modules().get(module.__name__, {})


def test_what_the_source_says_is_no_setting(make):
    module = make("""
        '''A docstring.'''
        import math
        __version__ = "1"
        T, N = 10, 20
        dt: float = 0.1
        steps = T / dt
        half = -dt / 2 if dt > 0 else None
        text, flag, nothing = "a", True, None
        nan = float("nan")
        if dt:
            chosen = 3
        for i in range(3): pass
        total = 0
        total += 5
        def f(): local = 5
        class C: attribute = 7
    """)
    assert found(module) == {}


def test_what_was_set_from_outside_is_found_with_its_value(make):
    module = make("T = 10\ndt = T / 100\nname = 'a'\nflag = False\nnothing = 1.5\nlist = [1]\nother = 2\n")
    module.dt, module.name, module.flag, module.nothing, module.new = 0.5, "b", True, None, math.inf
    module.list, module.other = [2], 2
    assert found(module) == {"dt": 0.5, "name": "b", "flag": True, "nothing": None, "new": math.inf}
    module.dt = math.nan
    assert math.isnan(found(module)["dt"]) and settings.settings_of_modules()
    module.dt = "a word"
    module.other = 2.0  # another type
    assert found(module)["dt"] == "a word" and type(found(module)["other"]) is float
    del module.new
    module.list = 5
    assert "new" not in found(module)


def test_a_setting_goes_on_to_travel_when_it_is_what_it_was(make):
    """Runners may have had the other value."""
    module = make("dt = 0.1\n")
    assert found(module) == {}
    module.dt = 0.5
    assert found(module) == {"dt": 0.5}
    module.dt = 0.1
    assert found(module) == {"dt": 0.1}


def test_what_the_module_computes_itself_counts_from_the_first_look_on(make):
    module = make("import os\npid = os.getpid()\nmode = 1\nif pid: mode = 2\nkind = 1\nkind = 2\n")
    assert found(module) == {}
    module.pid, module.mode = 5, 3
    assert found(module) == {"pid": 5, "mode": 3}


def test_a_flag_of_the_modules_own_stays_at_home_and_a_setter_works(make):
    module = make("""
        dt = 0.1
        _count = 0
        ready = None
        def set_up(value):
            global dt, ready, _count
            dt, ready, _count = value, True, 1
    """)
    module.set_up(0.5)
    assert found(module) == {"dt": 0.5}


def test_a_module_that_makes_names_up_is_looked_at_from_the_first_time_on(make):
    module = make("globals().update(made=5)\nfixed = 1\n")
    assert found(module) == {}
    module.made, module.fixed, module.later = 6, 2, 3
    assert found(module) == {"made": 6, "fixed": 2, "later": 3}


def test_a_copy_of_a_setting_in_another_module_travels_with_it(make):
    first = make("dt = 0.1\nother = 1\n", "own_first")
    copies = make("from own_first import dt, other\n")
    renamed = make("from own_first import dt as step\n")
    stars = make("from own_first import *\nmine = 5\n")
    assert found(copies) == {}
    first.dt = 0.5
    assert (found(first), found(copies), found(renamed)) == ({"dt": 0.5}, {"dt": 0.1}, {"step": 0.1})
    assert found(stars) == {"dt": 0.1}


def test_the_same_settings_are_the_same_bytes(make):
    assert settings.dump_settings({"b": {"y": 1, "x": 2.5}, "a": {}}) == settings.dump_settings(
        {"a": {}, "b": {"x": 2.5, "y": 1}}
    )


def test_a_number_without_end_and_a_text_in_no_encoding(make):
    module = make("n = 1\nt = ''\n")
    module.n, module.t = 1 << 100_000, "\udcff"
    assert found(module) == {"t": "\udcff"}
    assert (
        json.loads(settings.dump_settings(settings.settings_of_modules()))[module.__name__]["t"] == "\udcff"
    )


# --- in the runner ---


def in_process(tmp_path, code):
    done = subprocess.run(
        [sys.executable, "-c", f"from cw.payloads import settings\n{textwrap.dedent(code)}"], cwd=tmp_path,
        capture_output=True, text=True, timeout=LIMIT, env={**os.environ, "PYTHONPATH": f"{ROOT}:."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_settings_are_set_in_loaded_modules_and_after_the_import_of_others_and_taken_back(tmp_path):
    (tmp_path / "params.py").write_text("dt = 0.1\nT = 10\n")
    (tmp_path / "model.py").write_text("import params\nsteps = params.T / params.dt\nscale = 1\n")
    out = in_process(tmp_path, """
        def apply(**values): settings.apply_settings(settings.dump_settings(values))
        apply(params={"dt": 0.5, "new": 7}, model={"scale": 2})
        import model, params
        print(params.dt, params.new, model.scale, model.steps)  # computed before it is set, as at home
        apply(params={"dt": 0.25})
        print(params.dt, hasattr(params, "new"), model.scale)
        apply()
        print(params.dt, params.T)
        apply(params={"dt": 2})
        import importlib
        importlib.reload(params)
        print(params.dt)
    """)  # fmt: skip
    assert out == "0.5 7 2 100.0\n0.25 False 1\n0.1 10\n2\n"


# --- with a cluster ---


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


def test_each_job_sees_the_settings_of_its_own_submit(cluster, tmp_path):
    (tmp_path / "params.py").write_text("dt = 0.1\nname = 'a'\n")
    (tmp_path / "model.py").write_text("import params\ndef f(*_): return params.dt\n")
    out, _ = run_script(
        tmp_path,
        """
import model, params, cw
params.dt = 0.5
def g(): return params.dt, params.name
with cw.ClusterExecutor() as executor:
    print(executor.submit(model.f).result())
    futures = []
    for dt in [*range(50), 3, 2, 1]:
        params.dt = dt
        futures.append(executor.submit(model.f))
    assert [f.result() for f in futures] == [*range(50), 3, 2, 1]
    results = executor.map(model.f, range(3))
    params.dt, params.name = 0.1, "b"
    print(list(results), list(executor.map(model.f, range(4), chunksize=2)), executor.submit(g).result())
    thread = cw.ClientThread(print)
    thread.start()
    thread.submit(1, g)
    thread.stop() if thread.wait() else thread.stop()
""",
        CW_MASTER=cluster.master,
    )
    assert out == "0.5\n[1, 1, 1] [0.1, 0.1, 0.1, 0.1] (0.1, 'b')\n1 (0.1, 'b')\n"


def test_a_setting_that_changes_after_a_long_run_without_is_seen_when_nothing_is_under_way(cluster, tmp_path):
    (tmp_path / "params.py").write_text("dt = 0.1\n")
    out, _ = run_script(
        tmp_path,
        """
import params, cw
def g(): return params.dt
with cw.ClusterExecutor() as executor:
    print({f.result() for f in [executor.submit(g) for _ in range(3000)]})
    params.dt = 5
    print(executor.submit(g).result())
""",
        CW_MASTER=cluster.master,
    )
    assert out == "{0.1}\n5\n"


def test_what_is_seen_late_is_told_once(make, caplog):
    module = make("dt = 0.1\nother = 1\n")
    watch = settings.Watch()
    for number in range(settings.EAGER + 1):
        watch.look(number)
    assert watch.due > time.monotonic() - LIMIT and not watch.look(number + 1)[1]
    module.dt = 0.5
    assert watch.look(number + 30)[1] and watch.due == 0
    module.other = 2
    assert watch.look(number + 60)[1]
    assert events(caplog) == ["client.setting_changed"]
    assert f"{module.__name__}.dt " in caplog.text and "the last 28 of them" in caplog.text
