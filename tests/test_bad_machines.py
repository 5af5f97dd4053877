"""Machines that cannot run a program's jobs: real workers, from some of which a directory is hidden."""

import importlib
import logging
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker

import cw

HIDDEN = [
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs none "$1" && shift && exec "$@"',
    "-",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A directory that one of the workers does not see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def two(shared):
    """The address of a master with two workers: from one of them `shared` is hidden."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    with (
        Master() as master,
        Worker(master.address, cwd="/", before=(*HIDDEN, str(shared))),
        Worker(master.address, cwd="/"),
    ):
        yield master.address


@pytest.fixture
def tool(tmp_path, shared, monkeypatch):
    """Makes a module of the user's, `tool`, which all machines see; what it needs, in `shared`, they may not.

    Gives the module, and the directory of what it needs.
    """

    def make(kind):
        needs = shared / tmp_path.name
        needs.mkdir()
        (needs / "part.py").touch()
        (needs / "table.txt").touch()
        (library,) = re.findall(r"/\S+/libc[.-]\S+", Path("/proc/self/maps").read_text())[:1]
        shutil.copy(library, needs / "table.so")
        source = NEEDS[kind].format(needs=str(needs))
        (tmp_path / "tool.py").write_text(f"{source}\nclass Value: pass\ndef work(): return 'done'\n")
        monkeypatch.syspath_prepend(str(needs))
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in ("tool", "part"):  # those that are there now go with the test
            monkeypatch.setitem(sys.modules, name, None)
            del sys.modules[name]
        return importlib.import_module("tool"), needs

    return make


NEEDS = {
    "a module": "import part",
    "a file": "open({needs!r} + '/table.txt').close()",
    "a processor": "import os; os.path.exists({needs!r}) or os.kill(os.getpid(), 4)",  # SIGILL
    "a library": "import ctypes; ctypes.CDLL({needs!r} + '/table.so')",
}


def warnings_in(caplog):
    """But for those of modules that a test has loaded anew."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and getattr(record, "event", "-") != "client.modules_reloaded"
    ]


def pause(n):
    time.sleep(0.02)
    return n, os.getcwd()


def test_jobs_go_to_the_machine_that_has_their_directory_and_one_warning_names_the_other(
    two, shared, monkeypatch, caplog
):
    (shared / "here").mkdir()
    monkeypatch.chdir(shared / "here")
    with cw.ClusterExecutor(two) as executor:
        assert list(executor.map(pause, range(40))) == [(n, os.getcwd()) for n in range(40)]
    (text,) = warnings_in(caplog)
    assert text.startswith(f"worker {os.uname().nodename}:") and os.getcwd() in text
    assert (
        " is set aside for this program: working directory: " in text and "No such file or directory" in text
    )
    assert text.endswith("Its jobs go to other workers, and in 3 minutes one is tried there again")


@pytest.mark.parametrize("kind", NEEDS)
def test_what_is_missing_on_one_machine_for_a_function_or_its_arguments_is_no_error(kind, two, tool, caplog):
    module, _ = tool(kind)
    with cw.ClusterExecutor(two) as executor:
        if (
            kind != "a processor"
        ):  # (what is imported later takes down a runner that has worked: that is charged)
            assert list(executor.map(jobs.echo, range(4))) == [0, 1, 2, 3]  # both run what they can
        futures = [executor.submit(module.work) for _ in range(20)]
        futures += [executor.submit(type, module.Value()) for _ in range(20)]
        assert [future.exception(LIMIT) for future in futures] == [None] * 40
    (text,) = warnings_in(caplog)
    assert "is set aside for this program: " in text and re.search(
        "No module|No such file|killed by SIGILL", text
    )


def test_what_is_missing_on_all_machines_is_the_error_of_each_job_and_no_machine_is_blamed(two, tool, caplog):
    module, needs = tool("a module")
    shutil.rmtree(needs)
    with cw.ClusterExecutor(two) as executor:
        futures = [executor.submit(module.work) for _ in range(50)]
        errors = [future.exception(LIMIT) for future in futures]
        assert all(isinstance(error, ModuleNotFoundError) for error in errors)
        assert "job 50, whose call no worker could enter: what it needs" in str(errors[-1].__cause__)
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    assert warnings_in(caplog) == []


def test_calls_that_can_be_unpickled_nowhere_leave_the_machines_to_the_others(two, tool):
    module, needs = tool("a module")
    shutil.rmtree(needs)
    with cw.ClusterExecutor(two) as executor:
        futures = [executor.submit(jobs.echo, module.Value() if n % 3 == 2 else n) for n in range(60)]
        for n, future in enumerate(futures):
            if n % 3 == 2:
                assert isinstance(future.exception(LIMIT), ModuleNotFoundError)
            else:
                assert future.result(LIMIT) == n


def test_an_error_of_a_call_that_was_not_entered_is_not_stored(cluster, tool, tmp_path):
    module, needs = tool("a module")
    with cw.ClusterExecutor(store=tmp_path / "store", retry_errors=False) as executor:
        (needs / "part.py").unlink()
        assert isinstance(executor.submit(module.work).exception(LIMIT), ModuleNotFoundError)
        each = executor.map(lambda n: module.work(), range(2), chunksize=2, return_exceptions=True)
        assert [type(value) for value in each] == [ModuleNotFoundError] * 2
    with cw.ClusterExecutor(store=tmp_path / "store", retry_errors=False) as executor:
        (needs / "part.py").touch()
        assert executor.submit(module.work).result(LIMIT) == "done"


def test_a_machine_that_is_well_again_is_used_again(tmp_path, monkeypatch):
    """The runner that failed before is the one that tries."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(tmp_path / "later"))
    with cw.mp.allocate(1), cw.ClusterExecutor(workdir=here) as executor:
        here.rmdir()
        with pytest.raises(cw.EnvironmentMismatch, match=r"workdir=, a path that is there or 'scratch'"):
            executor.submit(jobs.pid).result(LIMIT)
        here.mkdir()
        first = executor.submit(jobs.pid).result(LIMIT)
        load = b"cmodule_of_later\nwork\n."
        with pytest.raises(ModuleNotFoundError):
            executor.submit(jobs.echo, Pickled(load)).result(LIMIT)
        (tmp_path / "later").mkdir()
        (tmp_path / "later/module_of_later.py").write_text("def work(): pass\n")
        assert executor.submit(str, Pickled(load)).result(LIMIT).startswith("<function work")
        assert executor.submit(jobs.pid).result(LIMIT) == first


class Pickled:
    """What is unpickled from these bytes, which name something that may not be there."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return pickle.loads, (self.data,)


@pytest.mark.slow  # makes a virtual environment
def test_a_worker_whose_interpreter_is_gone_says_so_and_the_others_do_its_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "5")  # so that its runners need a forkserver of their own
    bin = tmp_path / "venv/bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", bin.parent], check=True)
    path = os.pathsep.join(filter(None, sys.path))
    with cw.mp.allocate(1) as cluster:
        other = "env", "-u", "PYTHONHASHSEED", "sh", "-c", 'shift && exec "$0" "$@"', str(bin / "python")
        bad = Worker(cluster.master, before=other, PYTHONPATH=path)
        with bad, cw.ClusterExecutor() as executor:
            for name in bin.glob("python*"):
                name.unlink()
            futures = [executor.submit(time.sleep, 0.05) for _ in range(20)]
            assert {future.exception(LIMIT) for future in futures} == {None}
            bad.wait_for_event("worker.runner_died", "could not be started: No such file")
            assert bad.process.poll() is None


# --- workdir ----------------------------------------------------------------------------------


def test_jobs_run_where_the_client_says(cluster, tmp_path):
    with cw.ClusterExecutor(workdir=tmp_path) as executor:
        assert executor.submit(os.getcwd).result(LIMIT) == str(tmp_path)
    assert list(cw.map(lambda n: os.getcwd(), [1], workdir=str(tmp_path))) == [str(tmp_path)]
    found = []
    with cw.client.ClientThread(lambda number, value: found.append(value), workdir=tmp_path) as client:
        client.submit(os.getcwd)
    assert found == [str(tmp_path)]


def leave(name):
    if name:
        Path(name).write_text("kept?")
    return os.getcwd(), stat.S_IMODE(os.stat(".").st_mode), sorted(os.listdir("."))


def test_a_scratch_directory_is_a_runners_own_and_goes_with_it(cluster, monkeypatch, tmp_path, caplog):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    with cw.ClusterExecutor(workdir="scratch") as executor:
        home.rmdir()
        found = [executor.submit(leave, "").result(LIMIT) for _ in range(5)]
        assert {mode for _, mode, _ in found} == {0o700} and {tuple(names) for _, _, names in found} == {()}
        assert warnings_in(caplog) == []
        place, _, names = executor.submit(leave, "out.csv").result(LIMIT)
        assert names == ["out.csv"] and os.path.dirname(place).startswith(tempfile.gettempdir())
        wait_until(lambda: warnings_in(caplog), LIMIT)
        for n in range(20):
            executor.submit(leave, f"{n:02}").result(LIMIT)
    (text,) = warnings_in(caplog)
    assert text.startswith("jobs leave files in their scratch directory ('out.csv', on ")
    wait_until(lambda: not os.path.exists(place), LIMIT)


def test_the_warning_of_files_left_behind_comes_before_the_result(cluster, caplog):
    for _ in range(3):
        with cw.ClusterExecutor(workdir="scratch") as executor:
            executor.submit(leave, "a").result(LIMIT)
            assert len(warnings_in(caplog)) == 1
        caplog.clear()


def test_a_scratch_directory_goes_with_its_worker_however_that_ends():
    for number in (signal.SIGTERM, signal.SIGKILL):
        with Master() as master, Worker(master.address) as worker:
            with cw.ClusterExecutor(master.address, workdir="scratch", reconnect_timeout=0) as executor:
                place, _, _ = executor.submit(leave, "a").result(LIMIT)
                assert os.path.exists(place)
                worker.end(number)
                wait_until(lambda place=place: not os.path.exists(os.path.dirname(place)), LIMIT)


def test_a_scratch_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "temporary").mkdir()
    with (
        Master() as master,
        Worker(master.address, TMPDIR=str(tmp_path / "temporary")),
        cw.ClusterExecutor(master.address, workdir="scratch") as executor,
    ):
        (tmp_path / "temporary").rmdir()
        with pytest.raises(cw.EnvironmentMismatch, match="the scratch directory .* cannot be made on "):
            executor.submit(jobs.pid).result(LIMIT)


@pytest.mark.parametrize(
    "workdir, error", [("here", ValueError), ("", ValueError), (b"/tmp", TypeError), (3, TypeError)]
)
def test_a_workdir_that_cannot_be_is_refused(workdir, error):
    with pytest.raises(error, match="^workdir must be "):
        cw.ClusterExecutor(workdir=workdir)
