"""A local cluster's processes are forked from one that Python started for, and none has what belongs to another."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_until
from programs import LIMIT, children_of, is_running, worker_of

import cw
from cw.launch import launcher, local_parts, spawning, zygote
from cw.launch.launcher import Lifeline
from cw.worker.runners import early
from cw.worker.runners.forkserver import Forkserver

APART = {"master_options": ["--silence", "30"]}
"""Options of `allocate` with which the master has a process of its own."""


@pytest.fixture
def cluster():
    with cw.mp.allocate(1, **APART) as cluster:
        yield cluster


def test_parts_come_back_from_an_argument():
    master = zygote.MasterPart(["--listen-fd", "5"], [5], 6, 7)
    both = zygote.BothPart([5, 8], 6, "records")
    for parts in (
        zygote.Parts(["h:1", "-n", "2"], [3, 4], master),
        zygote.Parts([], [3], both=both),
        zygote.Parts([], []),
    ):
        assert zygote.Parts.from_text(parts.to_text()) == parts


@pytest.mark.parametrize("options", [{}, APART], ids=["one process", "two processes"])
def test_a_runner_has_the_modules_of_a_forkserver_that_python_starts(options):
    code = (
        "from cw.worker.runners import forkserver; from cw.payloads import serialize;"
        "serialize.load_what_errors_take(); import sys; print(*sys.modules)"
    )
    program = (  # (a program of its own: a runner takes some of what its client has)
        "import cw, sys; executor = cw.ClusterExecutor(sys.argv[1]);"
        "print(*executor.submit(eval, \"[*__import__('sys').modules]\").result())"
    )
    with cw.mp.allocate(1, **options) as cluster:
        alone, here = (
            subprocess.run(
                [sys.executable, "-c", text, cluster.master], capture_output=True, text=True, check=True
            ).stdout
            for text in (code, program)
        )
    of_zygote = {"cw.launch", "cw.launch.zygote", "cw.worker.runners.early", "gc", "__mp_main__"}
    assert {*here.split()} - {*alone.split()} <= of_zygote


def test_python_looks_for_garbage_in_runners_but_not_among_modules(cluster):
    def looks():
        import gc

        return gc.isenabled(), gc.get_freeze_count(), sum(gc.get_count())

    with cw.ClusterExecutor() as executor:
        is_enabled, frozen, rest = executor.submit(looks).result(LIMIT)
    assert is_enabled and frozen > 20_000 and rest < 5_000


def test_a_program_that_collects_rarely_leaves_its_modules_out():
    code = (
        "import gc; gc.disable(); from cw import program; program.collect_rarely();"
        "print(gc.isenabled(), gc.get_freeze_count() > 5000, gc.get_count()[0] < 500, gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True", "20000"]


def test_no_process_holds_what_another_was_given(cluster):
    worker = worker_of(cluster)
    (forkserver,) = children_of(worker)
    (master,) = cluster._master
    of_master, of_worker, of_forkserver = map(_descriptors, (master.pid, worker, forkserver))
    (lifeline,) = of_master & of_worker & _descriptors(os.getpid())
    assert lifeline == os.readlink(f"/proc/self/fd/{cluster._lifeline.read_end}")
    # The worker's end of the forkserver's socket is another socket than the forkserver's.
    assert of_worker & of_forkserver == {os.path.realpath(launcher.log_file("worker", cluster.logs))}
    assert not of_master & of_forkserver


def test_the_forkserver_holds_nothing_of_a_process_that_is_both():
    cluster = cw.mp.start_own(1)
    try:
        (process,) = cluster._workers
        (forkserver,) = children_of(process.pid)
        shared = _descriptors(process.pid) & _descriptors(forkserver)
        assert shared == {os.path.realpath(launcher.log_file("worker", cluster.logs))}
    finally:
        cluster.stop()


def test_the_master_is_no_child_of_the_worker(cluster):
    (master,) = cluster._master
    assert master.pid not in children_of(worker_of(cluster))
    os.kill(worker_of(cluster), signal.SIGKILL)
    with cw.ClusterExecutor() as executor:  # the next worker comes to the same master
        assert executor.submit(pow, 2, 3).result(LIMIT) == 8
    assert cluster.is_alive()


def test_each_process_is_shown_with_its_own_command(cluster):
    (master,) = cluster._master
    worker = worker_of(cluster)
    (forkserver,) = children_of(worker)
    host = cluster.master.encode()
    assert _command(master.pid)[1:5] == [
        b"-m",
        b"cw.master",
        *(each.encode() for each in APART["master_options"]),
    ]
    assert _command(worker)[1:4] == [b"-m", b"cw.worker", host]
    assert _command(forkserver)[1:] == [b"-m", b"cw.worker.runners.forkserver"]


def test_a_start_that_fails_before_the_master_exists_is_reported(monkeypatch):
    monkeypatch.setattr(local_parts, "_worker_environment", lambda *_: {**os.environ, "PYTHONHASHSEED": "x"})
    with pytest.raises(
        cw.LaunchError, match=r"(?s)worker ended before it had forked the master.*PYTHONHASHSEED"
    ):
        cw.mp.allocate(1, **APART)
    with pytest.raises(
        cw.LaunchError, match=r"(?s)worker ended before the cluster was ready.*PYTHONHASHSEED"
    ):
        cw.mp.allocate(1)


def test_a_master_with_a_wrong_option_is_reported_with_its_own_log():
    with pytest.raises(cw.LaunchError, match=r"(?s)the master ended before.*master\.log.*--no-such-option"):
        cw.mp.allocate(1, master_options=["--no-such-option"])


def test_both_end_with_a_lifeline_that_is_cut_before_they_are_ready(tmp_path):
    lifeline = Lifeline()
    listener = socket.create_server(("127.0.0.1", 0))
    where = "{}:{}".format(*listener.getsockname())
    forked = spawning.spawn_both(
        [where, "-n", "1"], ["--no-address-file"], str(tmp_path),
        lifeline=lifeline, listeners={"--listen-fd": listener},
    )  # fmt: skip
    master = forked.wait_for_master()
    lifeline.cut()
    wait_until(lambda: not master.process.is_alive() and not forked.worker.process.is_alive(), LIMIT)
    os.close(master.ready)
    os.close(forked.worker.ready)


@pytest.mark.parametrize("number", [signal.SIGTERM, 0])
def test_a_worker_that_ends_before_it_has_taken_the_forkserver_waits_for_it(number):
    """It is signalled while it imports, or its options are wrong."""
    code = """if True:
        import os, signal, sys
        from cw.launch import zygote
        from cw.worker.runners import early
        def become(name, arguments):
            print(early.waiting[0].pid, flush=True)
            os.kill(os.getpid(), int(sys.argv.pop()))
            sys.argv[:] = [name, "--no-such-option"]
        zygote._become = become
        zygote.main()
    """
    parts = zygote.Parts([], [], None).to_text()
    command = [sys.executable, "-c", code, parts, str(int(number))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        assert started.wait(LIMIT) == (128 + number if number else 2)
        assert not is_running(int(started.stdout.readline()))


def test_a_forkserver_takes_the_variables_of_its_worker(monkeypatch):
    monkeypatch.setenv("CW_TEST_REMOVED", "1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Forkserver(ours)._obey(
            {"do": "environ", "variables": {"CW_TEST_SET": "2", "CW_TEST_REMOVED": None}}, []
        )
    assert os.environ.pop("CW_TEST_SET") == "2"
    assert "CW_TEST_REMOVED" not in os.environ


def test_an_early_forkserver_is_taken_once_by_runners_of_its_hash_seed(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        one = early.EarlyForkserver(0, ours)
        monkeypatch.setattr(early, "waiting", [one])
        assert early.take("8") is None
        assert early.take("7") is one
        assert early.take("7") is None


def test_the_end_of_an_early_forkserver_is_awaited():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if not (pid := os.fork()):
            select.select([], [], [])
        one = early.EarlyForkserver(pid, ours)
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0.0)
        assert is_running(pid)
        one.kill()
        one.wait()
        one.wait()  # it is known to be gone
        assert not is_running(pid)


@pytest.mark.parametrize("words", [["short"], ["x" * 100_000]])
def test_a_process_shows_another_command_as_far_as_there_is_room(words):
    code = "import sys; from cw.processes import show_as; show_as(sys.stdin.read().split()); print(); sys.stdin.read()"
    code += "; print(open('/proc/self/cmdline').read(), end='')"
    found = subprocess.run(
        [sys.executable, "-c", code], input=words[0], capture_output=True, text=True, check=True
    )
    shown = found.stdout.strip("\n").rstrip("\0")
    assert shown == words[0][: len(shown)] and len(shown) >= min(len(words[0]), 50)


def _descriptors(pid):
    """What a process holds, but /dev/null."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself
            links.append(os.readlink(path))
    return {link for link in links if link != "/dev/null" and not link.startswith("anon_inode")}


def _command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
