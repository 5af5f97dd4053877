"""Results that arrive while the module that they need is being imported by the thread that waits for them."""

import importlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from programs import LIMIT, ROOT

import cw
from cw.payloads import deferred, serialize

MADE = """
def make(x):
    import study
    return study.Point(x)

def fail(x):
    import study
    raise study.Trouble(x)

def part(x):
    import study.parts
    return study.parts.Part(x)
"""

STUDY = """
import sys
class Point:
    def __init__(self, x): self.x = x
class Trouble(Exception): pass
if sys.argv[0] == "go.py":  # at home
    import cw, made
    {code}
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.fixture
def study(tmp_path, cluster):
    """What a program prints whose module `study` uses the cluster while it is being imported."""

    def run(code):
        (tmp_path / "made.py").write_text(MADE)
        package = tmp_path / "study"
        package.mkdir()
        (package / "__init__.py").write_text(
            STUDY.format(code=textwrap.indent(textwrap.dedent(code), "    ").strip())
        )
        (package / "parts.py").write_text("import study\nclass Part(study.Point): pass\n")
        (tmp_path / "go.py").write_text("import made, study\n")
        done = subprocess.run(
            [sys.executable, "go.py"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CW_MASTER": cluster.master},
        )  # fmt: skip
        return done.stdout + done.stderr

    return run


def test_who_waits_in_an_import_for_its_own_classes_gets_the_value(study):
    told = study("""
        import asyncio, concurrent.futures
        async def later():
            return await asyncio.wrap_future(submit(1))
        def submit(x): return executor.submit(made.make, x)
        with cw.ClusterExecutor() as executor:
            map = lambda items, **how: [p.x for p in executor.map(made.make, items, **how)]
            print("submodule", executor.submit(made.part, 1).result().x)
            print("submit", submit(1).result().x, submit(2).exception())
            print("map", map([1, 2]), map([3, 4], chunksize=2))
            print("as completed", map([1], as_completed=True, progress="always"))
            print("in chunks", map([2], as_completed=True, chunksize=2))
            print("stored", map([1], store="store"), map([1], store="store"))
            print("wait", [f.result().x for f in concurrent.futures.as_completed([submit(1)])])
            print("asyncio", asyncio.run(later()).x)
        print("stored before", [p.x for p in cw.map(made.make, [5], store="store")])
        stored = next(r for r in cw.results("store") if r.args == (1,))
        print("read", stored.value.x)
    """)
    for line in (
        "submodule 1", "submit 1 None", "map [1, 2] [3, 4]", "as completed [1]", "in chunks [2]", "stored [1] [1]",
        "wait [1]", "asyncio 1", "stored before [5]", "read 1",
    ):  # fmt: skip
        assert f"{line}\n" in told, told


def test_an_exception_comes_with_its_text_at_least(study):
    told = study(
        """
        with cw.ClusterExecutor() as executor:
            for _ in range(3):
                print("error", type(executor.submit(made.fail, 7).exception()), executor.failed)
    """.replace(", executor.failed", "")
    )
    assert told.count("error <class 'cw.errors.RemoteException'>") == 3, told


def test_a_callback_gets_an_error_instead_of_waiting_for_ever(study):
    told = study("""
        errors, results = [], []
        on_error = lambda number, error: errors.append(error)
        with cw.ClientThread(lambda *result: results.append(result), on_error=on_error) as thread:
            for _ in range(5):
                thread.submit(made.make, 1)
            thread.submit(abs, -1)
        print("told", len(errors), results[0][1], errors[0])
    """)
    assert "told 5 1 the result of job 1 cannot be unpickled here: ImportDeadlock" in told


def test_the_callback_of_a_future_does_not_wait_for_ever(study):
    told = study("""
        import threading
        is_called = threading.Event()
        found = []
        def note(future):
            found.append(future.exception())
            is_called.set()
        with cw.ClusterExecutor() as executor:
            future = executor.submit(made.make, 1)
            future.add_done_callback(note)
            is_called.wait()
            print("told", found[0], future.result().x)
    """)
    assert "ImportDeadlock: it needs a module whose import waits for it 1\n" in told


# --- one process, no cluster ---


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """A module whose import goes on until it is told: (its class's pickle, go on, wait for its import)."""
    (tmp_path / "slowly_imported.py").write_text(
        "import test_deferred\ntest_deferred.hold()\nclass Thing: pass\n"
    )
    (tmp_path / "quick.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "test_deferred", sys.modules[__name__])
    import quick

    payload = serialize.dump([quick.Thing, quick.Thing]).replace(b"\x8c\x05quick", b"\x8c\x0fslowly_imported")
    thread = threading.Thread(target=importlib.import_module, args=["slowly_imported"])
    _go.clear()
    _is_held.clear()
    thread.start()
    assert _is_held.wait(LIMIT)
    yield payload
    _go.set()
    thread.join()
    sys.modules.pop("slowly_imported", None)


_go, _is_held = threading.Event(), threading.Event()


def hold():
    _is_held.set()
    while not _go.is_set():  # it works
        pass


def test_an_import_that_goes_on_is_waited_for(slow_module, monkeypatch):
    monkeypatch.setattr(deferred, "PATIENCE", 0.05)
    value = serialize.load_result_soon(slow_module, "job 1")
    assert type(value) is deferred.Deferred
    threading.Timer(0.3, _go.set).start()
    assert value.load()[0].__name__ == "Thing"


def test_what_needs_no_import_is_not_deferred(slow_module):
    for value in (1, "text", b"bytes", [1.5, {"a": (None, True)}]):
        assert serialize.load_result_soon(serialize.dump(value), "job 1") == value
    other = serialize.load_result_soon(serialize.dump(range(3)), "job 1")
    assert other.load() == range(3)


def test_without_an_import_nothing_is_deferred():
    assert not deferred.is_importing()
    assert serialize.load_result_soon(serialize.dump(range(3)), "job 1") == range(3)
