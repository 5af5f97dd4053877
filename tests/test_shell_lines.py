"""The lines that all batch systems' scripts have: what the shell makes of them."""

import shlex
import subprocess

import pytest

from cw.launch import shell_lines
from cw.launch.plan import Plan, ScriptRequest


def test_the_programs_of_a_script_find_their_cluster_and_no_other(monkeypatch):
    monkeypatch.setenv("CW_HOME", "/home of/x")
    monkeypatch.setenv("CW_MASTER", "elsewhere:1")
    show = 'printf "%s " "$CW_CLUSTER" "$CW_HOME" "${CW_MASTER-none}"'

    def shown(plan):
        script = "\n".join([*shell_lines.head(plan, "A test."), show])
        return subprocess.check_output(["bash", "-c", script], text=True)

    assert shown(Plan("x", 1)) == "x /home of/x none "
    assert shown(Plan("x", 1, of_cluster="other")) == "other /home of/x none "
    assert shown(Plan("x", 1, foreign_master="h:1")) == "x /home of/x h:1 "


def run_with_setup(*lines):
    script = "\n".join([*shell_lines.setup(Plan("x", 1, setup=lines)), 'echo "program: $A"', "f"])
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True)


def test_lines_of_the_user_run_before_the_program_in_its_shell():
    done = run_with_setup("export A='it is'", 'f() { echo "a function $#"; }', "cd / # and so on")
    assert (done.stdout, done.stderr, done.returncode) == ("program: it is\na function 0\n", "", 0)
    assert shell_lines.setup(Plan("x", 1)) == []


@pytest.mark.parametrize(
    ("line", "status"),
    [("(exit 3)", 3), ("exit 4", 4), ("exit 0", 1), ("no-such-program x", 127), ("echo 'x", 2)],
)
def test_a_line_of_the_user_that_fails_ends_the_job_and_is_named(line, status):
    done = run_with_setup("A=1", line, "echo not reached")
    assert done.returncode == status
    said = 0 if line == "exit 0" else status
    assert done.stdout == f"{shell_lines.SETUP_FAILED} (exit status {said}): {line}\n"


@pytest.mark.parametrize(
    ("kill_wait", "grace"), [(30.0, "20"), (90.0, "20"), (15.0, "10"), (6.0, "2"), (3.0, "0")]
)
def test_a_worker_ends_before_the_batch_system_kills_it(kill_wait, grace):
    request = ScriptRequest(
        "workers", Plan("x", 1, worker_options=["--max-jobs=3"]), "t0", "/logs", kill_wait
    )
    words = shlex.split(shell_lines.worker_command(request))
    assert words[words.index("--grace") + 1] == grace
    assert words[-1] == "--max-jobs=3"  # what the user says comes last, and counts


def test_a_job_is_followed_by_another_only_if_that_is_wanted():
    request = ScriptRequest("workers", Plan("x", 1), "t0", "/logs")
    assert shell_lines.renewal(request) == []
    lines = shell_lines.renewal(request._replace(plan=Plan("x", 1, is_renewed=True)))
    command = lines[0].removesuffix("; status=$?")
    assert shlex.split(command)[-5:] == ["cw.slurm.sidecar", "renew", "x", "t0", "workers"]
    for status, printed in (
        (0, "renew job"),
        (1, "renew renew again job"),
        (shell_lines.IS_IMPOSSIBLE, "renew"),
    ):
        script = "\n".join(["sidecar() { echo renew ${*:2}; return $1; }", *lines, "wait; echo job"])
        script = script.replace(command, f"sidecar {status}").replace("--again", "again")
        process = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert process.stdout.split() == printed.split(), process.stderr
        assert process.returncode == (status == shell_lines.IS_IMPOSSIBLE)


def test_workers_look_for_their_master_while_their_script_runs(monkeypatch):
    monkeypatch.setattr(shell_lines, "ORPHAN_LOOK_SECONDS", 0.1)
    request = ScriptRequest("workers", Plan("x", 1), "t0", "/logs")
    (line,) = shell_lines.end_of_orphans(request)
    script = line.replace(shell_lines.sidecar("orphan", request), "echo looked") + "\nsleep 0.55"
    printed = subprocess.check_output(
        ["timeout", "20", "bash", "-c", script], text=True
    )  # until all have ended
    assert 1 <= printed.count("looked") <= 6
    by_hand = request._replace(plan=Plan("x", 1, foreign_master="n1:5494"))
    assert shell_lines.end_of_orphans(by_hand) == []
