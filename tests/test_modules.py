"""The user's own modules: reloads and edits are noticed."""

import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import textwrap

import pytest
from programs import LIMIT, ROOT, run_script

import cw
from cw.payloads import modules


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes modules of the user's own, and takes them away again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    made = []

    def make(name, text):
        made.append(name)
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return path

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_own_modules_are_those_that_nobody_installed(module):
    module("own_one", "")
    import own_one

    assert modules.is_own("own_one", own_one)
    for other in (json, sys, pytest, cw.errors, sys.modules["__main__"], os.path):
        assert not modules.is_own(other.__name__, other)
    assert modules.own_modules()["own_one"] is own_one


def test_a_reload_is_noticed_once_by_each_who_looks(module):
    module("own_reloaded", "")
    import own_reloaded

    modules.start_watching()
    since = other = modules.count_anew()
    before = modules.version
    assert modules.loaded_anew(since) == ([], since)
    importlib.reload(own_reloaded)
    assert modules.version != before
    names, since = modules.loaded_anew(since)
    assert names == ["own_reloaded"] and modules.loaded_anew(since)[0] == []
    assert modules.loaded_anew(other)[0] == ["own_reloaded"]


def test_a_reload_is_noticed_though_it_has_only_begun(module):
    """Another thread may look in the middle of it."""
    module("own_begun", "import sys\nif 'own_begun_go' in vars(sys): sys.own_begun_go()\n")
    import own_begun

    modules.start_watching()
    since = modules.count_anew()
    spec = own_begun.__spec__
    for finder in sys.meta_path:
        found = finder.find_spec("own_begun", None, own_begun)
        if found is not None:
            break
    assert modules.loaded_anew(since)[0] == []
    own_begun.__spec__ = found
    assert spec is not found and modules.loaded_anew(since)[0] == ["own_begun"]


def test_a_module_that_is_imported_again_is_noticed_and_one_that_is_not_found_again_is_not(module):
    module("own_again", "")
    import own_again

    modules.start_watching()
    modules.own_modules()
    since = modules.count_anew()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_at_all")
    assert modules.loaded_anew(since)[0] == []
    del sys.modules["own_again"]
    assert importlib.import_module("own_again") is not own_again
    assert modules.loaded_anew(since)[0] == ["own_again"]


def test_an_import_of_another_module_is_no_reload(module):
    modules.start_watching()
    since = modules.count_anew()
    module("own_new", "")
    import own_new  # noqa: F401

    assert modules.loaded_anew(since)[0] == []


# --- files ---


def imported_by(path, files):
    """The notes of a process that imports a module when its client's files are these."""
    code = (
        "import json, sys; from cw.payloads import modules\n"
        "sys.path.insert(0, sys.argv[1]); modules.expect_files(json.loads(sys.argv[2]))\n"
        "import own_file; print(json.dumps(modules.notes))\n"
        "assert 'exec_module' not in vars(own_file.__loader__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path.parent), json.dumps(files)], capture_output=True, text=True,
        timeout=LIMIT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_that_was_edited_is_noticed_when_it_is_imported(module):
    path = module("own_file", "x = 1\n")
    import own_file  # noqa: F401

    found = {"own_file": modules.files_of_modules()["own_file"]}
    assert imported_by(path, found) == []
    os.utime(path, (1, 1))  # another time, the same text: a copy of it
    assert imported_by(path, found) == []
    path.write_text("x = 2\n")
    (note,) = imported_by(path, found)
    assert str(path) in note and "edited" in note


def test_a_file_that_was_edited_before_anybody_looked_is_noticed(module, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = module("own_file", "x = 1\n")
    import own_file  # noqa: F401

    path.write_text("x = 22\n")
    found = {"own_file": modules.files_of_modules()["own_file"]}
    assert len(imported_by(path, found)) == 1


def test_compiled_code_counts_only_if_the_module_was_loaded_from_it(module, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = module("own_file", "x = 1\n")
    import own_file

    class Rewriting(importlib.machinery.SourceFileLoader):
        """As that of pytest, which has compiled code of its own."""

    path.write_text("x = 22\n")
    monkeypatch.setattr(own_file.__spec__, "loader", Rewriting("own_file", str(path)))
    found = {"own_file": modules.files_of_modules()["own_file"]}
    assert imported_by(path, found) == []


# --- with a cluster ---


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.fixture
def run(cluster, tmp_path):
    def run(source):
        return run_script(tmp_path, textwrap.dedent(source), CW_MASTER=cluster.master)

    return run


WRITE = """
import importlib, os, sys, cw
sys.path.insert(0, os.getcwd())
def write(name, text):
    with open(f"{name}.py", "w") as file: file.write(text)
    importlib.invalidate_caches()
"""


def test_what_was_reloaded_is_what_runs(run):
    out, err = run(
        WRITE
        + """
write("helper", "def number(): return 1\\n")
write("model", "import helper\\ndef value(): return helper.number()\\n")
import helper, model
def through_the_script(): return model.value()
with cw.ClusterExecutor() as executor:
    thread = cw.ClientThread(lambda number, value: print("thread", value))
    thread.start()
    for text in ("1", "2 ", "3  "):
        if text != "1":
            write("helper", f"def number(): return {text}\\n")
            importlib.reload(helper)
        print(executor.submit(model.value).result(), executor.submit(through_the_script).result(),
              list(executor.map(model.value.__class__.__call__, [model.value])), model.value())
        thread.submit(model.value)
        thread.wait()
    thread.stop()
"""
    )
    assert out == "1 1 [1] 1\nthread 1\n2 2 [2] 2\nthread 2\n3 3 [3] 3\nthread 3\n"
    assert err.count("helper was loaded anew: jobs run in fresh runners") == 4  # two reloads, two clients
    assert "edited" not in err


def test_jobs_before_a_reload_run_the_old_code(run):
    out, _ = run(
        WRITE
        + """
write("model", "import time\\ndef value(): time.sleep(0.01); return 'old'\\n")
import model
with cw.ClusterExecutor() as executor:
    before = [executor.submit(model.value) for _ in range(20)]
    before[0].result()
    write("model", "def value(): return 'new'\\n")
    importlib.reload(model)
    after = executor.submit(model.value)
    print({f.result() for f in before}, after.result())
"""
    )
    assert out == "{'old'} new\n"


def test_an_edit_without_a_reload_is_told_once(run):
    out, err = run(
        WRITE
        + """
write("model", "def value(): return 'old'\\n")
write("broken", "def value(): return 'old'\\n")
import broken, model
with cw.ClusterExecutor(store="store") as executor:
    write("model", "def value(): return 'new' \\n")
    write("broken", "1/0\\n")
    print([executor.submit(model.value).result() for _ in range(3)])
    try: executor.submit(broken.value).result()
    except ZeroDivisionError as error: print("broken.py was edited" in str(error.__cause__))
print([r.value for r in cw.results("store") if not r.failed][0])
"""
    )
    assert out == "['new', 'new', 'new']\nTrue\nnew\n"
    assert err.count("model.py was edited after this program imported it") == 1
