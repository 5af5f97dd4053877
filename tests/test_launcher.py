"""The local launcher, on real masters, workers and programs: what starts is ready, and what ends is gone."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import events, wait_until

import cw.client.executor
import cw.mp
from cw.launch import launcher, local_state
from cw.launch.launcher import LaunchError, Process
from cw.net import address
from cw.processes import look_at

ROOT = Path(cw.mp.__file__).parent.parent
TIMEOUT = 30


def processes_of(home):
    """{pid: command line} of all processes but this one that have this CW_HOME in their environment."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if f"CW_HOME={home}".encode() in environment and int(name) != os.getpid():
                found[int(name)] = (
                    Path(f"/proc/{name}/cmdline")
                    .read_bytes()
                    .rstrip(b"\0")
                    .replace(b"\0", b" ")
                    .decode()[-200:]
                )
    return found


def pids_of(home, module):
    return [pid for pid, command in processes_of(home).items() if f" {module} " in f"{command} "]


def workers_of(home):
    return pids_of(home, "cw.worker")


def one_that_kills_its_worker_once(worker):
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
        time.sleep(TIMEOUT)
    return "done"


@pytest.fixture(autouse=True)
def home(monkeypatch):
    """The user's own directory of the test; programs find cw; what `start` has started ends with the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(address, "_started_here", [])
    yield Path(os.environ["CW_HOME"])
    cw.mp.stop()


@pytest.fixture
def run_program(tmp_path):
    """Start a program of the user, given as text; its output is read through a pipe."""
    programs = []

    def run(text, **settings):
        path = tmp_path / "program.py"
        path.write_text("import os, sys, time, signal\nimport cw, cw.mp\n" + text)
        program = subprocess.Popen(
            [sys.executable, "-u", path],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **settings,
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        program.kill()
        program.wait()
        program.stdout.close()


@pytest.fixture
def sleeper():
    """A process that no launcher has started."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def identify(pid):
    return Process(pid, look_at(pid)[1])


def run_job(function, *arguments, host=None):
    with cw.client.executor.ClusterExecutor(host) as executor:
        return executor.submit(function, *arguments).result(TIMEOUT)


def run_shell(*arguments, cwd=None):
    command = [sys.executable, "-m", "cw.mp", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=2 * TIMEOUT)


def assert_gone(home):
    wait_until(lambda: not processes_of(home), TIMEOUT, lambda: processes_of(home))


def state_file():
    return f"mp-{os.uname().nodename}/state.json"


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("nworkers", [0, -1, True, 1.0, "2", None])
@pytest.mark.parametrize("launch", [cw.mp.start, lambda n: cw.mp.allocate(n).__enter__()])
def test_a_wrong_number_of_workers_is_refused(launch, nworkers):
    with pytest.raises((ValueError, TypeError), match="nworkers"):
        launch(nworkers)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"docker_image": "debian"}, ValueError, "belong to clusters in Slurm"),
        ({"docker_args": ["--rm"]}, ValueError, "belong to clusters in Slurm"),
        ({"master": False, "workers": False}, ValueError, "nothing to start"),
        ({"worker_options": "-v"}, TypeError, r"\['-v'\]"),
        ({"master_options": ["--host", "0.0.0.0"]}, ValueError, "loopback"),
        ({"master_options": ["--port=x"]}, ValueError, "no port"),
        ({"master_options": ["--port"]}, ValueError, "no port"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_started(home, arguments, error, text):
    for launch in (cw.mp.start, lambda n, **given: cw.mp.allocate(n, **given).__enter__()):
        with pytest.raises(error, match=text):
            launch(1, **arguments)
    assert cw.mp.status() is None
    assert not home.exists()


# --- allocate -------------------------------------------------------------------------------


def test_a_cluster_is_ready_in_its_block_and_gone_after_it(home):
    with cw.mp.allocate(2) as cluster:
        assert cluster.slots == 2
        assert [(c.host, c.port) for c in address.find_master()] == [address.parse(cluster.master)]
        assert run_job(os.getpid) != os.getpid()
        assert len(processes_of(home)) >= 2
    assert not processes_of(home)
    assert address.started_here() == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address.parse(cluster.master))


def test_a_worker_that_dies_is_started_again_and_runs_what_waits(home, caplog):
    with cw.mp.allocate(1) as cluster, cw.client.executor.ClusterExecutor() as executor:
        (worker,) = workers_of(home)
        future = executor.submit(one_that_kills_its_worker_once, worker)
        assert future.result(2 * TIMEOUT) == "done"
        wait_until(lambda: len(workers_of(home)) == 1, TIMEOUT)
        (following,) = workers_of(home)
        wait_until(lambda: "launch.worker_restarted" in events(caplog), TIMEOUT)
        (line,) = [r.getMessage() for r in caplog.records if r.name == "cw.launch"]
        for field in (worker, "killed by SIGKILL", following, f"{cluster.logs}/worker.log"):
            assert str(field) in line
    assert not processes_of(home)


def test_a_worker_that_is_told_to_end_stays_away_and_so_does_one_without_its_master(home):
    with cw.mp.allocate(1):
        (worker,) = workers_of(home)
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not any(t.name == "cw supervisor" for t in threading.enumerate()), TIMEOUT)
        assert not workers_of(home)
    with cw.mp.allocate(1, master_options=["--silence", "30"]):  # each has a process of its own
        (worker,) = workers_of(home)
        (master,) = pids_of(home, "cw.master")
        os.kill(master, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(t.name == "cw supervisor" for t in threading.enumerate()), TIMEOUT)
        assert not workers_of(home)


def test_every_program_of_the_user_finds_the_cluster_of_start(home, run_program, monkeypatch):
    code = "print(cw.ClusterExecutor(connect_timeout=1).submit(abs, -3).result())"
    with cw.mp.start(1):
        assert run_program(code).communicate(timeout=TIMEOUT)[0] == "3\n"
        monkeypatch.setenv("CW_CLUSTER", "another")
        assert run_program(code, stderr=subprocess.DEVNULL).communicate(timeout=TIMEOUT)[0] == ""
    assert [c.source for c in address.find_master() if c.source != address.NOTHING_KNOWN] == []


def test_nothing_is_said_to_other_programs(home):
    with cw.mp.allocate(1):
        assert not list(home.glob("address-*"))
        assert cw.mp.status() is None
        assert not cw.mp.stop()
        assert len(processes_of(home)) >= 2


def test_the_inner_of_two_clusters_is_used():
    with cw.mp.allocate(1) as outer, cw.mp.allocate(1) as inner:
        assert address.started_here() == inner.master != outer.master
        inner.stop()
        assert address.started_here() == outer.master
        assert run_job(abs, -1) == 1


def test_an_exception_goes_through_the_block_and_the_cluster_is_gone(home):
    with pytest.raises(ZeroDivisionError), cw.mp.allocate(1):
        raise ZeroDivisionError
    assert not processes_of(home)


def test_cw_master_in_the_environment_is_warned_of(monkeypatch, caplog):
    monkeypatch.setenv("CW_MASTER", "elsewhere")
    with cw.mp.allocate(1, workers=False):
        assert "mp.other_master_set" in events(caplog) and "elsewhere" in caplog.text


def test_what_a_job_prints_for_the_log_is_there():
    with cw.mp.allocate(1) as cluster:
        with cw.ClusterExecutor() as executor:
            executor.options(output="log").submit(os.system, "echo printed by a job").result(TIMEOUT)
        log = Path(cluster.logs, "worker.log")
        wait_until(lambda: "printed by a job" in log.read_text(), TIMEOUT, log.read_text)


def test_a_port_can_be_chosen():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(LaunchError, match=f"port {port} of 127.0.0.1"),
            cw.mp.allocate(1, master_options=["--port", str(port)]),
        ):
            pass
    with cw.mp.allocate(1, workers=False, master_options=[f"--port={port}"]) as cluster:
        assert cluster.master == f"127.0.0.1:{port}"
        assert cluster.slots == 0


def test_a_worker_can_join_a_master_that_is_there():
    with cw.mp.allocate(1, workers=False) as first, cw.mp.allocate(2, master=False) as second:
        assert second.master == first.master
        assert run_job(abs, -1, host=first.master) == 1


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_part_that_fails_is_told_with_the_end_of_its_log(home, role):
    with (
        pytest.raises(LaunchError, match=rf"the {role} ended .*\n(.*\n)*.*--no-such-option"),
        cw.mp.allocate(1, **{f"{role}_options": ["--no-such-option"]}),
    ):
        pass
    assert not processes_of(home)
    assert address.started_here() == ""


def test_a_cluster_is_an_object_that_lasts_until_it_is_closed(home):
    cluster = cw.mp.allocate(2)
    assert cluster.slots == 2 and run_job(abs, -1) == 1 and cluster.is_alive()
    with cluster:
        assert run_job(abs, -2) == 2
    assert not processes_of(home) and address.started_here() == "" and not cluster.is_alive()
    cluster.close()  # does nothing the second time
    assert cw.allocate(1, workers=False).close() is None
    assert not processes_of(home)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "1 / 0"])
def test_a_cluster_without_a_block_ends_with_its_program(home, run_program, ending):
    """Also if nothing refers to it; and not with a fork of the program."""
    program = run_program(
        "cw.allocate(1)\n"
        "if not os.fork(): sys.exit()\n"
        "os.wait()\n"
        "with cw.ClusterExecutor() as executor: print(executor.submit(abs, -7).result())\n" + ending,
        stderr=subprocess.DEVNULL,
    )
    assert program.stdout.readline() == "7\n"
    program.wait(TIMEOUT)
    assert_gone(home)


def test_a_program_that_is_killed_takes_its_cluster_along(home, run_program):
    program = run_program("with cw.mp.allocate(2): print('in', flush=True); time.sleep(1000)")
    assert program.stdout.readline() == "in\n"
    assert len(processes_of(home)) >= 3
    program.kill()
    assert_gone(home)


def test_a_killed_program_takes_its_cluster_along_though_its_forked_children_live(home, run_program):
    program = run_program(
        "with cw.mp.allocate(1):\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(1000)\n"
        "    print(child, flush=True); time.sleep(1000)\n"
    )
    child = int(program.stdout.readline())
    program.kill()
    wait_until(lambda: set(processes_of(home)) <= {child}, TIMEOUT, lambda: processes_of(home))
    os.kill(child, signal.SIGKILL)
    assert_gone(home)


@pytest.mark.parametrize("ending", ["os._exit(3)", "sys.exit(3)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_however_a_program_ends_its_cluster_is_gone(home, run_program, ending):
    program = run_program(f"with cw.mp.allocate(1): {ending}")
    program.wait(TIMEOUT)
    assert program.returncode in (3, -signal.SIGTERM)
    assert_gone(home)


def test_ctrl_c_reaches_only_the_program(home, run_program):
    # (Many short sleeps: a signal in the moment before a long one begins would be seen only when that is over.)
    program = run_program(
        "with cw.mp.allocate(1) as cluster:\n"
        "    try:\n"
        "        print('in', flush=True)\n"
        "        while True: time.sleep(0.1)\n"
        "    except KeyboardInterrupt: pass\n"
        "    with cw.ClusterExecutor() as executor: print(executor.submit(abs, -5).result())\n"
    )
    assert program.stdout.readline() == "in\n"
    os.killpg(program.pid, signal.SIGINT)
    assert program.communicate(timeout=TIMEOUT)[0] == "5\n"
    assert program.returncode == 0


def test_a_forked_child_that_leaves_the_block_ends_nothing():
    with cw.mp.allocate(1) as cluster:
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                cluster.stop()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert run_job(abs, -1) == 1


# --- start and stop -------------------------------------------------------------------------


def test_a_cluster_lasts_until_it_is_stopped_from_another_program(home, run_program):
    program = run_program("cluster = cw.mp.start(2); print(cluster.master, flush=True)")
    master = program.communicate(timeout=TIMEOUT)[0].strip()
    assert program.returncode == 0
    status = cw.mp.status()
    assert (status.master, status.slots, status.ended) == (master, 2, [])
    assert set(status.running) == {"master", "worker"}
    assert run_job(abs, -1, host=master) == 1
    assert cw.mp.stop()
    assert not processes_of(home)
    assert cw.mp.status() is None
    assert not cw.mp.stop()


def test_a_cluster_is_used_by_the_program_that_started_it(home):
    cluster = cw.mp.start(1)
    assert run_job(os.getpid) != os.getpid()
    cluster.stop()
    assert not processes_of(home)
    assert address.started_here() == ""
    cluster.stop()


def test_a_second_start_says_what_runs_already():
    first = cw.mp.start(1)
    try:
        with pytest.raises(LaunchError, match=f"runs already.*{first.master}.*stop"):
            cw.mp.start(2)
        assert cw.mp.status().slots == 1
    finally:
        cw.mp.stop()


def test_of_two_starts_at_a_time_one_wins(home):
    starts = [
        subprocess.Popen(
            [sys.executable, "-m", "cw.mp", "start", "-n", "1"], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [start.communicate(timeout=2 * TIMEOUT)[1] for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1]
    assert sum("runs already" in error for error in errors) == 1
    assert "Traceback" not in "".join(errors)
    assert cw.mp.stop()


def test_a_stop_during_a_start_waits_for_it(home):
    with subprocess.Popen(
        [sys.executable, "-m", "cw.mp", "start", "-n", "1"], stdout=subprocess.DEVNULL
    ) as start:
        wait_until(lambda: processes_of(home).keys() - {start.pid}, TIMEOUT)
        assert cw.mp.stop()
    assert start.returncode == 0
    assert not processes_of(home)


def test_the_halves_can_be_started_one_after_the_other():
    first = cw.mp.start(1, workers=False)
    try:
        assert set(cw.mp.status().running) == {"master"}
        second = cw.mp.start(2, master=False)
        assert second.master == first.master
        assert cw.mp.status().slots == 2
        assert run_job(abs, -1) == 1
        with pytest.raises(LaunchError, match="runs already"):
            cw.mp.start(2, master=False)
        second.stop()
        assert set(cw.mp.status().running) == {"master"}
    finally:
        cw.mp.stop()


def test_a_worker_that_was_killed_is_told_and_can_be_replaced(home):
    cw.mp.start(1)
    try:
        worker = cw.mp.status().running["worker"]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: cw.mp.status().ended == ["worker"], TIMEOUT, cw.mp.status)
        with pytest.raises(LaunchError, match="its worker has ended"):
            cw.mp.start(1)
        cw.mp.start(1, master=False)
        assert not cw.mp.status().ended
        assert run_job(abs, -1) == 1
    finally:
        cw.mp.stop()


def test_a_cluster_that_was_killed_is_forgotten(home):
    cw.mp.start(1)
    for pid in cw.mp.status().running.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cw.mp.status() is None, TIMEOUT, cw.mp.status)
    assert not cw.mp.stop()
    cw.mp.start(1)
    assert cw.mp.stop()
    assert_gone(home)


@pytest.mark.parametrize("case", ["another start time", "another boot"])
def test_a_process_that_took_over_the_pid_is_not_touched(sleeper, case):
    process = identify(sleeper.pid)
    boot_id = launcher.boot_id()
    if case == "another boot":
        boot_id = "00000000-0000-0000-0000-000000000000"
    else:
        process = process._replace(start_time=process.start_time - 1)
    noted = {"boot_id": boot_id, "master": "127.0.0.1:1", "slots": 1, "since": 0.0, "logs": ""}
    local_state.directory()
    address.write_private(state_file(), json.dumps({**noted, "processes": {"master": process}}).encode())
    assert cw.mp.status() is None
    assert not cw.mp.stop()
    address.write_private(state_file(), json.dumps({**noted, "processes": {"worker": process}}).encode())
    cw.mp.start(1, workers=False)
    assert cw.mp.stop()
    assert sleeper.poll() is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"boot_id": 1}', '{"processes": {"master": [1]}}'])
def test_a_state_that_makes_no_sense_is_passed_over(content):
    local_state.directory()
    address.write_private(state_file(), content.encode())
    assert cw.mp.status() is None
    assert not cw.mp.stop()


def test_a_start_that_fails_leaves_nothing(home):
    with pytest.raises(LaunchError, match="--no-such-option"):
        cw.mp.start(1, worker_options=["--no-such-option"])
    assert cw.mp.status() is None
    assert not processes_of(home)


def test_what_is_started_holds_no_descriptor_of_the_program(run_program):
    read_end, write_end = os.pipe()
    program = run_program("cw.mp.start(1)", pass_fds=[write_end])
    os.close(write_end)
    try:
        assert program.communicate(timeout=TIMEOUT)[0] == ""  # Nor its output, or this would not return.
        assert os.read(read_end, 1) == b""
    finally:
        os.close(read_end)
        assert cw.mp.stop()


def test_all_files_are_private_whatever_the_umask_is(home):
    old = os.umask(0)
    try:
        cw.mp.start(1)
        cw.mp.stop()
        with cw.mp.allocate(1):
            pass
    finally:
        os.umask(old)
    paths = [home, *home.rglob("*")]
    assert {path.name for path in paths} >= {"master.log", "worker.log", "started", "allocated", "lock"}
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# --- the shell ------------------------------------------------------------------------------


def test_start_status_and_stop_from_the_shell():
    before = run_shell("status")
    assert (before.returncode, before.stdout) == (1, "no local cluster is running\n")
    started = run_shell("-n", "2", "start")
    try:
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith("export CW_MASTER=127.0.0.1:")
        assert started.stdout.count("\n") == 1
        master = started.stdout.strip().partition("=")[2]
        assert run_job(abs, -1, host=master) == 1
        status = run_shell("status")
        assert status.returncode == 0
        assert f"master: {master}\nslots: 2\n" in status.stdout
        again = run_shell("start", "-n", "2")
        assert again.returncode == 1
        assert again.stderr.startswith("cw.mp: a local cluster of 2 slots runs already")
        assert again.stderr.count("\n") == 1
    finally:
        stopped = run_shell("stop")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    again = run_shell("stop")
    assert (again.returncode, again.stdout) == (0, "no local cluster was running\n")


def test_files_where_the_user_stands_do_not_break_a_cluster(tmp_path):
    for name in (
        "signal",
        "socket",
        "json",
        "logging",
        "selectors",
        "linecache",
        "tokenize",
        "pickle",
        "random",
    ):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported where the user stands: {name}')")
    started = run_shell("start", "-n", "1", cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    assert run_job(abs, -1, host=cw.mp.status().master) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["start", "-n", "0"], "nworkers is the number of slots, from 1 on, not 0"),
        (["start", "-n", "x"], "invalid int value"),
        (["start", "-M", "-W"], "nothing to start"),
        (["begin"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_has_exit_status_2(arguments, text):
    done = run_shell(*arguments)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


# --- the parts ------------------------------------------------------------------------------


def test_a_process_is_known_by_its_start_time(sleeper):
    process = identify(sleeper.pid)
    other = process._replace(start_time=process.start_time + 1)
    assert process.is_alive()
    assert not other.is_alive()
    other.send_signal(signal.SIGKILL)
    launcher.end_processes([other])
    assert process.is_alive()
    launcher.end_processes([process])
    assert not process.is_alive()
    assert not os.path.exists(f"/proc/{process.pid}")  # Reaped.


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(launcher, "END_SECONDS", 0.05)
    command = "trap '' TERM; echo set; while :; do sleep 0.01; done"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout.readline() == b"set\n"
        told = []
        launcher.end_processes([identify(stubborn.pid)], before_kill=lambda: told.append("cut"))
        assert told == ["cut"]
        assert not os.path.exists(f"/proc/{stubborn.pid}")


def test_a_process_that_does_not_become_ready_is_told(sleeper, tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("first\n" + "x" * 10_000 + "\nlast words\n")
    ready, write_end = os.pipe()
    child = launcher.Child("worker", identify(sleeper.pid), str(log), ready)
    with pytest.raises(LaunchError, match="is not ready after 0 s") as caught:
        launcher.wait_until_ready([child], seconds=0.1)
    os.close(write_end)
    assert str(caught.value).endswith("last words")
    assert len(str(caught.value)) < 3000


def test_old_logs_go_but_not_those_of_programs_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "LOGS_KEPT", 3)
    base = tmp_path / "logs"
    running = base / f"20200101-000000-aaaa-{os.getpid()}"
    running.mkdir(parents=True)
    for day in range(14, 19):
        (base / f"202001{day}-000000-bbbb-0").mkdir()
    assert len(list(base.iterdir())) == 6
    new = launcher.make_logs(str(base))
    assert sorted(base.iterdir()) == [
        running,
        *(base / f"202001{day}-000000-bbbb-0" for day in (17, 18)),
        Path(new),
    ]
