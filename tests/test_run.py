"""`cw run`: a whole script on this machine, with real processes."""

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import wait_until
from programs import LIMIT, ROOT, Program

import cw.cli.run
from cw import processes, program
from cw.launch.launcher import LaunchError
from cw.runs import names
from cw.scripts import status
from cw.scripts.folder import ScriptFolder

CW = "-m", "cw"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with scripts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path
    for name in names.folders():
        status.cancel(ScriptFolder(name).path)
        status.wait(ScriptFolder(name).path, LIMIT)
        wait_until(lambda name=name: not processes.identity(host_of(name)), LIMIT)


def host_of(name):
    return int(ScriptFolder(name).place().process.partition(" ")[0] or 0)


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path.name


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *CW, "run", *map(str, arguments)],
        env={**os.environ, **environment},
        input="not for the script",
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


WAITS = """
    import signal, sys, time
    print("ready", flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(5)
"""


def begin(name, *arguments):
    """Start a detached run whose script has printed something; returns its folder."""
    done = run("--detach", *arguments)
    assert done.returncode == 0, done.stderr
    folder = ScriptFolder(name)
    wait_until(lambda: os.path.getsize(folder.file("output")), LIMIT)
    return folder


def test_a_script_runs_as_in_a_shell_and_its_output_comes_in_order(here):
    seen = """
        import json, os, subprocess, sys
        json.dump([sys.argv, os.getcwd(), os.environ["PWD"], os.environ["MINE"], sys.stdin.read(), sys.path[0]],
                  open("seen.json", "w"))
        print("one")
        print("two", file=sys.stderr)
        subprocess.run("echo three; echo four >&2", shell=True)
        print("five")
        sys.exit(3)
    """
    name = write(here / "seen.py", seen)
    done = run(name, "--detach", "-m", "x y", MINE="mine")
    assert (done.returncode, done.stdout, done.stderr) == (3, "one\ntwo\nthree\nfour\nfive\n", "")
    argv, *others = json.loads((here / "seen.json").read_text())
    assert argv == ["seen.py", "--detach", "-m", "x y"]
    assert others == [str(here), str(here), "mine", "", str(here)]

    os.unlink("seen.json")
    done = run("-m", "seen", "a", MINE="mine")
    assert done.returncode == 3
    assert json.loads((here / "seen.json").read_text())[0] == [str(here / "seen.py"), "a"]
    assert list(names.folders()) == ["seen"]  # nobody has asked to keep the first one


def test_a_detached_run_goes_on_by_itself_and_keeps_output_and_exit_status(here):
    script = write(
        here / "crunch.py", "import sys, time; print('begun', flush=True); sys.exit(int(sys.argv[1]))"
    )
    done = run("--detach", script, 7)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("crunch ") and "`cw runs status crunch`" in done.stdout.replace(
        f"{sys.executable} -m cw", "cw"
    )
    found = status.wait(ScriptFolder("crunch").path, LIMIT)
    assert (found.phase, found.exit_status, found.command) == ("ended", 7, "crunch.py 7")
    assert open(found.output).read() == "begun\n"

    assert run("--detach", script, 0).returncode == 0  # its first output is kept
    assert status.wait(ScriptFolder("crunch-2").path, LIMIT).exit_status == 0
    assert run("--detach", "--name", "crunch", script, 1).returncode == 0  # as the name was asked for
    assert status.wait(ScriptFolder("crunch").path, LIMIT).exit_status == 1


def test_a_run_is_cancelled_with_all_that_it_has_started(here):
    script = write(here / "deaf.py", """
        import os, signal, subprocess, time
        child = subprocess.Popen(["sleep", "600"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(child.pid, flush=True)
        time.sleep(600)
    """)  # fmt: skip
    folder = begin("deaf", "--name", "deaf", script)
    child = int(open(folder.file("output")).read())
    done = run("--detach", "--name", "deaf", script)
    assert done.returncode == 1 and "has not ended" in done.stderr
    status.cancel(folder.path)
    wait_until(lambda: not processes.identity(child), LIMIT)
    assert status.look(folder.path).phase == "runs"  # it does not obey; SIGKILL follows some seconds later
    os.kill(int(pid_of_script(folder)), signal.SIGKILL)
    found = status.wait(folder.path, LIMIT)
    assert (found.phase, found.exit_status) == ("cancelled", 137)


def pid_of_script(folder):
    host = host_of(folder.name)
    return open(f"/proc/{host}/task/{host}/children").read().split()[0]


def test_a_request_by_file_reaches_the_host_from_another_machine(here):
    folder = begin("waits", write(here / "waits.py", WAITS))
    folder.request("interrupt")
    found = status.wait(folder.path, LIMIT)
    assert (found.phase, found.exit_status) == ("ended", 5)
    assert open(found.output).read() == "ready\ninterrupted\n"


def test_a_script_does_not_outlive_its_host_unknown(here):
    folder = begin("waits", write(here / "waits.py", WAITS))
    pid = int(pid_of_script(folder))
    os.kill(host_of("waits"), signal.SIGKILL)
    wait_until(lambda: not processes.identity(pid), LIMIT)
    found = status.wait(folder.path, LIMIT)
    assert (found.phase, found.exit_status, found.how) == ("lost", 137, "its host died")


def test_how_a_script_was_killed_is_told(here):
    done = run(write(here / "killed.py", "import os; print('x', flush=True); os.kill(os.getpid(), 9)"))
    assert (done.returncode, done.stdout) == (137, "x\n")
    assert done.stderr.endswith("with exit status 137: killed by SIGKILL\n")


def test_the_end_of_an_allocation_is_told_from_another_sigterm(here, monkeypatch):
    script = write(here / "waits.py", WAITS)
    for until, how in (("", "its host was told to end (SIGTERM), as when the machine is shut down"),
                       (str(int(time.time()) + 30), "killed by the time limit of its job")):  # fmt: skip
        monkeypatch.setenv("CW_UNTIL", until)
        folder = begin("waits", "--name", "waits", script)
        os.kill(host_of("waits"), signal.SIGTERM)
        found = status.wait(folder.path, LIMIT)
        assert (found.phase, found.exit_status, found.how) == ("ended", 143, how)


def test_ctrl_c_interrupts_the_script_and_once_more_ends_it(here):
    script = write(here / "waits.py", WAITS)
    with Program(*CW, "run", script) as one:
        one.wait_for("ready", in_out=True)
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(LIMIT) == 5
        assert one.out == "ready\ninterrupted\n"
    script = write(
        here / "deaf.py", "import signal\nsignal.signal(2, signal.SIG_IGN)" + textwrap.dedent(WAITS)
    )
    with Program(*CW, "run", script) as one:
        one.wait_for("ready", in_out=True)
        one.process.send_signal(signal.SIGINT)
        one.wait_for("Ctrl-C again ends it")
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(LIMIT) == 143
        assert "deaf was cancelled" in one.err


def test_the_end_of_the_terminal_does_not_end_the_script(here):
    script = write(here / "waits.py", WAITS)
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, *CW, "run", script])
    try:
        assert b"ready" in os.read(terminal, 4096)
    finally:
        os.close(terminal)  # with it goes SIGHUP to all that belongs to the terminal
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    assert status.look(ScriptFolder("waits").path).phase == "runs"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nope.py"], "there is no script nope.py in "),
        ([], "run which script?"),
        (["-"], "- is no option of"),
        (["-m"], "-m needs the name of a module"),
        (["--here", "--slurm", "x.py"], "give one of them"),
        (["--time", "5", "x.py"], "--time is for a job of Slurm"),
        (["--name", "a/b", "x.py"], "cannot be the name of a run"),
        (
            ["--slurm", "x.py"],
            "SLURM_CONF names /nonexistent/slurm.conf|there is no sbatch|is Slurm installed",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(here, monkeypatch, words, text):
    write(here / "x.py", "")
    monkeypatch.setattr(sys, "argv", ["cw run", *words])
    with pytest.raises(program.UserError, match=text):
        cw.cli.run.main()
    assert names.folders() == {}


def test_a_host_that_dies_at_once_says_why_and_leaves_no_run(here, monkeypatch, capsys):
    monkeypatch.setattr(
        program, "command", lambda *words: [sys.executable, "-c", "raise SystemExit('no room')"]
    )
    monkeypatch.setattr(sys, "argv", ["cw run", write(here / "x.py", "")])
    with pytest.raises(LaunchError, match="the script could not begin on this machine: no room"):
        cw.cli.run.main()
    assert names.folders() == {}
