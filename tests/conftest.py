"""Fixtures of all tests: a local cluster, the wait for a condition, and the check for what a test leaves behind."""

import contextlib
import faulthandler
import fcntl
import functools
import gc
import importlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pipe_runner
import pytest
import templates
from hypothesis import HealthCheck, settings

import cw

_MARKER = "CW_TEST_RUN"
# Every process that a test starts inherits it, however far it strays from its parent.
os.environ[_MARKER] = secrets.token_hex(8)

# A busy machine may take any time for an example.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

# Programs print the ids of events, which the tests match, not the wording.
os.environ["CW_LOG_EVENTS"] = "1"

# Programs keep their bytecode, as they do for most users: compiling cw is half of the time that they take to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell's background job is started with Ctrl-C ignored, and so would be all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

_SCRIPTS = templates.Template(
    "cw.client.functions.functions", "cw.payloads.chunks", "cw.payloads.environment"
)

LEAVE_SECONDS = 20.0
"""Time that a test's processes may take to disappear after it (seconds)."""

END_SECONDS = 60
"""Time that the end of its fixtures may take, after a test that took too long (seconds)."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Begin with another share of the modules in each process of `-n`: then a fresh clone's are compiled once, and not
    in all processes at the same time."""
    if session.config.args_source != pytest.Config.ArgsSource.TESTPATHS:
        return
    worker, count = (os.environ.get(f"PYTEST_XDIST_WORKER{name}") for name in ("", "_COUNT"))
    if worker and count:
        for path in sorted(Path(__file__).parent.glob("test_*.py"))[int(worker[2:]) :: int(count)]:
            with contextlib.suppress(Exception, pytest.skip.Exception):  # pytest says it in its place
                importlib.import_module(path.stem)


gc.disable()  # until the tests are collected: what is loaded before stays


def pytest_collection_finish() -> None:
    """Take what all test modules have loaded out of garbage collection: half a million objects, a third of a second
    each time, and it is collected at the end of most tests."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Give what follows a test a time limit of its own, if the test has used up the one that it had.

    (Executors wait for their jobs, which a test that failed may have left without a worker.)"""

    def fail(*_: object) -> None:
        pytest.fail(f"what follows the test takes longer than {END_SECONDS} s")

    if signal.getitimer(signal.ITIMER_REAL)[0]:
        return (yield)
    signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def wait_until(
    condition: Callable[[], Any], timeout: float = 10.0, state: Callable[[], Any] | None = None
) -> Any:
    """Return the first true value of `condition()`. After `timeout` seconds, fail with the stacks of all threads.

    `state()`, if given, adds to the message.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            told = "" if state is None else f"state: {state()!r}\n"
            pytest.fail(f"not so within {timeout} s\n{told}processes: {_processes()}\n{_stacks()}")
        time.sleep(0.005)
    return value


def import_recipe(name: str) -> Any:
    """Import a library of setup.py's extra `recipes`. Without it the test is skipped; with RECIPES=all it fails."""
    if os.environ.get("RECIPES") == "all":
        return importlib.import_module(name)
    return pytest.importorskip(name)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of what was logged in this process."""
    return [getattr(record, "event", "-") for record in caplog.records]


@pytest.fixture
def cluster() -> Iterator[cw.mp.Cluster]:
    """Start a local cluster with two slots. Clients of this process find it by themselves, others by `.master`."""
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def usual_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No other test with this fixture runs meanwhile: each starts a program that takes the usual port if it can."""
    with open(tmp_path_factory.getbasetemp().parent / "usual-port", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Run code as the user's script, and return its global names."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def run(code: str) -> dict[str, Any]:
        exec(textwrap.dedent(code), vars(module))
        return vars(module)

    return run


@pytest.fixture(scope="session")
def runner_template(_whole_run: None) -> Iterator[pipe_runner.Template]:
    """The process that all `runner`s are forked from."""
    with pipe_runner.Template() as template:
        yield template


@pytest.fixture
def run_forked(runner_template: pipe_runner.Template) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script to its end. (A fork of a process that has loaded what it imports.)"""
    return functools.partial(templates.run_script, _SCRIPTS, runners=runner_template)


@pytest.fixture
def runner(runner_template: pipe_runner.Template) -> Iterator[pipe_runner.ForkedRunner]:
    """A runner without a cluster, which calls what it is sent."""
    with pipe_runner.ForkedRunner() as runner:
        yield runner


@pytest.fixture(scope="session", autouse=True)
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the user's own directory and cluster; fail if a process outlives the run."""
    temporary = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        patch.setenv("CW_HOME", str(tmp_path_factory.mktemp("user") / "home"))
        # One credential for all, since each test has another CW_HOME and some clusters serve a whole module.
        patch.setenv("CW_CREDENTIAL", str(tmp_path_factory.mktemp("user") / "credential.pem"))
        patch.delenv("CW_MASTER", raising=False)
        patch.delenv("CW_CLUSTER", raising=False)
        # Nor the user's Slurm: `cw.allocate` would go there.
        patch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
        patch.delenv("SLURM_JOB_ID", raising=False)
        pids, files = _pids(), _files()
        yield
        templates.close_all()
        _check_nothing_left(pids, files, set())


@pytest.fixture(autouse=True)
def _each_test(
    _whole_run: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give each test its own `CW_HOME`; fail if it leaves a process, a client or a file behind.

    It is the first of a test's fixtures, so what others start must be gone too; but not what a fixture for the
    whole module has started before, with all its descendants.
    """
    monkeypatch.setenv("CW_HOME", str(tmp_path_factory.mktemp("user") / "home"))
    # Commands that a test runs in this process set it for good.
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    pids, files, clients = _pids(), _files(), _clients()
    yield
    _check_nothing_left(pids, files, clients)


def _check_nothing_left(pids: set[int], files: set[Path], clients: set[threading.Thread]) -> None:
    deadline = time.monotonic() + LEAVE_SECONDS
    while (left := _new_processes(pids)) or _files() - files or _clients() - clients:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, 9)  # so that the next tests are not blamed for it
            pytest.fail(
                f"left over: processes {left}, files {sorted(map(str, _files() - files))}, "
                f"clients {_clients() - clients}\n{_stacks()}"
            )
        time.sleep(0.01)
        gc.collect()  # an error that a test has caught keeps what its frames had, in a circle


def _clients() -> set[threading.Thread]:
    """Return the threads of this process's clients: one that looks for a lost master goes on for minutes."""
    return {thread for thread in threading.enumerate() if thread.name == "cw-client"}


def _new_processes(known: set[int]) -> dict[int, str]:
    """Those of ours that are neither known nor descend from one of ours that is known.

    Only what is new is looked at: looking at all processes of the machine would be half of the time of most tests.
    """
    return {
        pid: line
        for pid in _pids() - known
        if (line := _command_line(pid))
        and not any(ancestor in known and _command_line(ancestor) for ancestor in _ancestors(pid))
    }


def _processes() -> dict[int, str]:
    """Command lines by pid: of this process's children, and of all processes that carry the marker."""
    return {pid: line for pid in _pids() if (line := _command_line(pid))}


def _pids() -> set[int]:
    return set(map(int, filter(str.isdigit, os.listdir("/proc"))))


def _command_line(pid: int) -> str:
    """That of a process of ours; nothing for others."""
    marker = f"{_MARKER}={os.environ[_MARKER]}".encode()
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if pid == os.getpid() or marker not in environment.split(b"\0") and _parent(pid) != os.getpid():
            return ""
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # It is gone, or another user's.
        return ""
    # Python's own helper stays for the life of the process that used shared memory; templates stay for others.
    if "multiprocessing.resource_tracker" in line or any(
        pid == each.process.pid for each in templates.opened
    ):
        return ""
    return line if len(line) < 300 else f"{line[:100]} ... {line[-200:]}"


def _ancestors(pid: int) -> Iterator[int]:
    while pid := _parent(pid):
        yield pid


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _files() -> set[Path]:
    """Return the files in the temporary directory, which is this run's own, and those that may be cw's in /dev/shm."""
    return {*Path(tempfile.gettempdir()).iterdir(), *Path("/dev/shm").glob("*cw*")}


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()
