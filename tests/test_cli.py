"""The command `cw`: answers are lines for users, a mistake is one line; the programs behind it stay as they were."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import wait_until
from programs import free_port

import cw.mp
from cw import advice
from cw.cli.main import COMMANDS
from cw.net import address
from cw.version import VERSION

ROOT = Path(cw.mp.__file__).parent.parent
ENTRY_POINT = re.search(r'"cw = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command as pip installs it: a script of the entry point in setup.py."""
    path = tmp_path_factory.mktemp("bin") / "cw"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {ENTRY_POINT[1]} import {ENTRY_POINT[2]}\n"
        f"if __name__ == '__main__':\n    sys.exit({ENTRY_POINT[2]}())\n"
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def _programs_find_cw(monkeypatch, usual_port):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(address, "_started_here", [])


@pytest.fixture
def run(installed):
    """Run the command to its end."""

    def run(*arguments, command=(installed,), **environment):
        return subprocess.run(
            [*command, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def local(installed):
    """Start `cw local` with these arguments; it has said where it is when it is returned."""
    programs = []

    def start(*arguments):
        program = subprocess.Popen(
            [installed, "local", *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        programs.append(program)
        program.lines = [program.stdout.readline()]
        while not program.lines[-1].startswith(("programs on", "export")):
            assert program.lines[-1], program.lines
            program.lines.append(program.stdout.readline())
        return program

    yield start
    for program in programs:
        program.kill()
        program.wait()
        program.stdout.close()
    cw.mp.stop()


def one_line(done, status):
    """The only line that a mistake is answered with."""
    assert done.returncode == status, done
    assert done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


# --- cw -------------------------------------------------------------------------------------


def test_without_a_cluster_it_names_each_command_and_the_next_one_to_type(run):
    done = run()
    assert done.returncode == 0 and done.stderr == ""
    for command in COMMANDS:
        assert re.search(rf"^  cw {command}\b", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith(
        f"No cluster of yours was found. `{advice.command('local')}` starts one on this machine"
    )


def test_it_says_where_the_cluster_is_and_how_large(cluster, run):
    last = run(CW_MASTER=cluster.master).stdout.splitlines()[-1]
    assert f"its master answers at {cluster.master} (from CW_MASTER); 1 worker with 2 slots" in last
    assert "0 jobs run, 0 wait" in last


def test_a_cluster_that_was_named_and_is_not_there_is_not_taken_for_none(run):
    last = run(CW_MASTER="localhost:1").stdout.splitlines()[-1]
    assert last.startswith("Your cluster does not answer: localhost:1 (from CW_MASTER): Connection refused.")


def test_a_cluster_that_was_there_is_not_taken_for_none(run):
    address.write_address("127.0.0.1", 1)
    assert "Your cluster does not answer: 127.0.0.1:1 (from " in run().stdout
    last = run(CW_CLUSTER="other").stdout.splitlines()[-1]
    assert last.startswith("Your cluster does not answer: no master of the cluster 'other' is known")


def test_what_makes_the_search_impossible_is_said_in_its_sentence(run):
    done = run(CW_MASTER="a b")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith(
        "Your cluster cannot be found: in the environment variable"
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_looks_for_no_cluster(run, option):
    done = run(option, CW_MASTER="a b")
    assert done.returncode == 0 and "cw local" in done.stdout and "a b" not in done.stdout


def test_its_version_is_that_of_the_package(run):
    assert run("--version").stdout == f"cw {VERSION}\n"
    assert run("master", "--version").stdout == f"cw {VERSION}\n"


def test_python_dash_m_is_the_same(run):
    as_module = (sys.executable, "-m", "cw")
    for arguments in ([], ["--version"], ["nothing"], ["status", "--help"], ["master", "--port", "x"]):
        one, other = run(*arguments), run(*arguments, command=as_module)
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_a_command_loads_no_other_one(run):
    code = "import sys; from cw.cli.main import help_text; help_text(); print(*sys.modules)"
    loaded = set(run("-c", code, command=(sys.executable,)).stdout.split())
    assert not loaded & {
        "cw.mp",
        "cw.slurm",
        "cw.client",
        "cw.master",
        "cw.worker",
        "argparse",
        "socket",
        "bluelet",
    }


# --- mistakes -------------------------------------------------------------------------------


def test_an_unknown_command_is_a_mistake_that_names_those_that_there_are(run):
    assert one_line(run("wroker"), 2).startswith(
        "cw: there is no command 'wroker': give one of local, slurm,"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_of_its_own(run, command):
    done = run(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: cw {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_is_answered_in_one_line(run, command):
    required = {"slurm": ["status"], "results": ["store"], "report": ["store"]}.get(command, [])
    line = one_line(run(command, *required, "--nonsense"), 2)
    assert line.startswith(f"cw {command}: ") and "--nonsense" in line and f"cw {command} --help" in line


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["local", "-n", "0"], 2, "number of slots"),
        (["local", "--port", "x"], 2, "no port"),
        (["results", "/nowhere"], 1, "/nowhere"),
        (["status", "a b"], 1, "no address"),
        (["master", "--host", "256.1.1.1"], 1, "256.1.1.1"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(run, arguments, status, text):
    assert text in one_line(run(*arguments), status)


def test_the_programs_by_themselves_answer_as_ever(run):
    done = run("-m", "cw.master", "--port", "x", command=(sys.executable,))
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m cw.master ")
    assert "python -m cw.master: error: argument --port: 'x' is no port" in done.stderr


# --- cw status ------------------------------------------------------------------------------


def test_the_status_of_a_cluster_names_its_master_and_workers(cluster, run):
    done = run("status", cluster.master)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        f"master: {cluster.master} (as given)", "slots connected: 2", "clients: 0",
        "jobs: 0 running, 0 waiting, 0 done, 0 failed, 0/s",
    ]  # fmt: skip
    assert re.search(r"^\S+:\d+ +0 of 2 +0", done.stdout, re.MULTILINE)


def test_the_status_is_there_as_json_lines_and_for_prometheus(cluster, run, tmp_path):
    kinds = [json.loads(line)["kind"] for line in run("status", cluster.master, "--json").stdout.splitlines()]
    assert kinds == ["master", "totals", "worker", "host"]
    file = tmp_path / "cw.prom"
    assert run("status", cluster.master, "--prometheus", str(file)).stdout == ""
    assert "\ncw_workers 1.0\n" in file.read_text()
    assert "does not end with .prom" in one_line(run("status", "--prometheus", "cw.txt"), 2)
    done = run("status", "--prometheus", str(file))
    assert done.returncode == 1 and "no master answers" in done.stderr
    assert file.read_text().endswith("\ncw_up 0.0\n")


def test_the_status_is_shown_again_and_again_until_ctrl_c(cluster):
    command = [sys.executable, "-m", "cw", "status", cluster.master, "--every", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        assert program.stdout is not None
        shown = 0
        while shown < 2:
            shown += program.stdout.readline().startswith("master: ")
        program.send_signal(signal.SIGINT)
        assert "Traceback" not in program.communicate(timeout=30)[0]
    assert program.returncode == 128 + signal.SIGINT


def test_the_status_of_no_cluster_says_where_it_was_looked_for_and_what_to_do(run):
    done = run("status")
    assert done.returncode == 1
    # (Why there is none may differ: a test of the pages may have a master at that port, with another credential.)
    assert done.stdout.startswith("no master answers\n  localhost:5494 (nothing else is known): ")
    assert f"`{advice.command('local')}`" in done.stdout


def test_a_stranger_at_the_port_is_told_from_no_master_at_all(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run("status", address.join(*silent.getsockname()))
    assert done.returncode == 1 and "Connection refused" not in done.stdout


# --- cw local -------------------------------------------------------------------------------


def test_a_local_cluster_is_there_until_ctrl_c(local, run):
    port = free_port()
    program = local("-n", "2", "--port", str(port))
    assert program.lines[0].startswith("2 slots on this machine, until Ctrl-C; logs in ")
    assert program.lines[-1].startswith("programs on this machine find the cluster")
    assert f"master: 127.0.0.1:{port} (started on this machine)\nslots connected: 2" in run("status").stdout
    assert f"Your cluster: its master answers at 127.0.0.1:{port} " in run().stdout
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 0
    assert cw.mp.status() is None


def test_a_local_cluster_whose_worker_dies_has_another_and_goes_on(local):
    program = local("-n", "1", "--port", str(free_port()))
    before = cw.mp.status()
    worker = before.running["worker"]
    os.kill(worker, signal.SIGKILL)

    def replaced():
        running = cw.mp.status().running
        return running if running.get("worker", worker) != worker else None

    running = wait_until(replaced, 30, cw.mp.status)
    assert running["master"] == before.running["master"]
    with cw.ClusterExecutor(before.master) as executor:
        assert executor.submit(abs, -5).result(30) == 5
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 0
    assert cw.mp.status() is None


def test_it_takes_the_usual_port_if_that_is_free(local, run):
    def started():
        program = local("-n", "1")
        if cw.mp.status().master == f"127.0.0.1:{address.PORT}":
            return program
        program.send_signal(signal.SIGINT)  # another test had that port
        program.wait(30)

    program = wait_until(started, 50)
    assert "slots connected: 1" in run("status").stdout
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 0


def test_where_the_usual_port_is_taken_programs_find_it_all_the_same(local, run):
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another test has it
            stack.enter_context(socket.create_server(("127.0.0.1", address.PORT)))
        program = local("-n", "1")
        assert program.lines[-1].startswith("programs on this machine find the cluster")
        found = run("status").stdout
        assert "slots connected: 1" in found and f":{address.PORT} " not in found


def test_where_programs_would_find_another_it_says_what_to_set(local, run, monkeypatch):
    monkeypatch.setenv("CW_CLUSTER", "another")
    program = local("-n", "1", "--port", str(free_port()))
    setting = program.lines[-1].removeprefix("export CW_MASTER=").strip()
    assert setting in run().stdout  # `cw` knows of it, too
    assert "slots connected: 1" in run("status", CW_MASTER=setting).stdout


def test_a_second_one_is_a_mistake(local, run):
    local("-n", "1", "--port", str(free_port()))
    assert "runs already" in one_line(run("local"), 1)


def test_it_is_gone_with_its_program_however_that_ends(local):
    program = local("-n", "1", "--port", str(free_port()))
    pids = list(cw.mp.status().running.values())
    program.kill()
    program.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 30)
    assert cw.mp.status() is None


def test_it_says_so_when_the_cluster_is_stopped_from_elsewhere(local):
    program = local("-n", "1", "--port", str(free_port()))
    began = time.monotonic()
    cw.mp.stop()
    assert program.wait(30) == 1, time.monotonic() - began


def test_sigterm_ends_it_in_order(local):
    program = local("-n", "1", "--port", str(free_port()))
    program.terminate()
    assert program.wait(30) == 128 + signal.SIGTERM
    assert cw.mp.status() is None
