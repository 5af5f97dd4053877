"""`cw run` in a real Slurm: a whole script in a job of its own."""

import os
import sys
import textwrap

import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_slurm import run, used

from cw.runs import names
from cw.scripts import places, status
from cw.scripts.folder import ScriptFolder
from cw.slurm import squeue

pytestmark = [pytest.mark.slow]
if os.environ.get("CI") != "true":  # there it is installed, and a test that cannot run is a failure
    pytestmark.append(pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT))

CW_RUN = "-m", "cw", "run"


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(squeue, "QUEUE_SECONDS", 0.5)
    monkeypatch.setattr(places, "QUIET_SECONDS", 1.0)
    with sandbox.Sandbox(nodes=2, cpus=2) as slurm:
        yield from used(slurm, monkeypatch)


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path.name


def detach(name, *words):
    out, _ = run("--detach", "--slurm", *words, program=CW_RUN)
    assert out.startswith(f"{name} waits (Slurm job ")
    return ScriptFolder(name)


def begun(folder):
    wait_until(
        lambda: os.path.exists(folder.file("output")) and os.path.getsize(folder.file("output")), LIMIT
    )


def test_a_script_runs_in_a_job_of_its_own_and_each_of_its_ends_is_told(slurm, tmp_path):
    where = write(tmp_path / "where.py", """
        import os, sys
        print(sys.argv, os.getcwd(), os.environ["WHERE"], "CW_UNTIL" in os.environ, os.environ["SLURM_JOB_NAME"])
        sys.exit(7)
    """)  # fmt: skip
    folder = detach("where", "--setup", "export WHERE=setup", "--X", "--comment=mine", where, "--X")
    found = status.wait(folder.path, LIMIT)
    assert (found.phase, found.exit_status) == ("ended", 7)
    argv = f"['where.py', '--X'] {tmp_path} setup False cw-run-where-"
    assert open(found.output).read().startswith(argv)
    assert slurm.run("squeue", "-h", "-t", "all", "-o", "%k").split() == ["mine"]

    waits = write(tmp_path / "waits.py", "import time; print('ready', flush=True); time.sleep(600)")
    cancelled, killed, lost = (
        detach(name, "--name", name, waits) for name in ("cancelled", "killed", "lost")
    )
    for each in (cancelled, killed, lost):
        begun(each)
    full = detach(
        "full", "--name", "full", "--X", "--exclusive", waits
    )  # not before one of the others has ended
    wait_until(
        lambda: "is waiting" in status.look(full.path).how or "waits" in status.look(full.path).how, LIMIT
    )
    status.cancel(full.path)
    found = status.wait(full.path, LIMIT)
    assert (found.phase, found.exit_status, found.how) == ("cancelled", 143, "cancelled while it waited")

    status.cancel(cancelled.path)
    found = status.wait(cancelled.path, LIMIT)
    assert (found.phase, found.exit_status) == ("cancelled", 143)

    slurm.run("scancel", str(killed.place().job))
    found = status.wait(killed.path, LIMIT)
    assert (found.phase, found.exit_status, found.how) == ("ended", 143, "its job was cancelled or preempted")

    bad = detach("bad", "--name", "bad", "--setup", "load-no-such-module", waits)
    found = status.wait(bad.path, LIMIT)
    assert (
        found.phase == "lost"
        and "a line of --setup failed (exit status 127): load-no-such-module" in found.how
    )

    node = slurm.run("squeue", "-h", "-j", str(lost.place().job), "-o", "%N").strip()
    slurm.crash(node)
    slurm.run(
        "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost"
    )  # (it would notice after 20 s)
    found = status.wait(lost.path, 2 * LIMIT)
    assert (found.phase, found.exit_status) == ("lost", 137)
    assert found.how.startswith(f"Slurm job {lost.place().job} on ") and "node" in found.how, found.how


def test_where_the_cluster_is_in_slurm_the_script_goes_there_and_finds_it(slurm, tmp_path):
    run("start", "-n", 1)
    script = write(tmp_path / "squares.py", """
        import os
        import cw
        def where(number):
            return number * number, os.environ["SLURM_JOB_ID"]
        if __name__ == "__main__":
            print(list(cw.map(where, range(3))), os.environ["SLURM_JOB_ID"])
    """)  # fmt: skip
    out, error = run(script, program=CW_RUN)
    assert "squares waits (Slurm job " in error
    results, _, own = out.rpartition(" ")
    assert eval(results) == [(number * number, eval(results)[0][1]) for number in (0, 1, 2)]
    assert eval(results)[0][1] != own.strip()
    assert names.folders().keys() == {"squares"} and sys.executable
    run("stop")
