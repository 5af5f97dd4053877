"""A whole script in a slot of a cluster: it waits for jobs of its own, and the slot is lent."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
from conftest import wait_until
from programs import LIMIT, ROOT

import cw
from cw import processes, userdir
from cw.launch.launcher import LaunchError
from cw.runs import names
from cw.scripts import in_slot, status
from cw.scripts.folder import ScriptFolder
from cw.scripts.script import Script


@pytest.fixture(scope="module")
def one_slot():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.fixture
def executor(one_slot):
    with cw.ClusterExecutor(one_slot.master) as executor:
        yield executor.options(attempts=1)


def made(directory, text, *words):
    """The run of a script with this text."""
    (directory / "crunch.py").write_text(textwrap.dedent(text))
    name = names.claim(None, "crunch.py", lambda path: True, is_script=True)[0]
    script = Script(name, ["crunch.py", *words], sys.executable, str(directory), time.time(), "here")
    ScriptFolder(name).write(script)
    return script


NESTED = """
    import os, sys, time
    import cw

    def square(number):
        return number * number, os.getpid()

    if __name__ == "__main__":
        for _ in range(3):
            pairs = list(cw.map(square, range(5)))
            assert [square for square, _ in pairs] == [0, 1, 4, 9, 16]
        with cw.ClusterExecutor() as executor:
            futures = [executor.submit(time.sleep, seconds) for seconds in (0, 0.3)]
            try:
                futures[1].result(timeout=0.05)
            except TimeoutError:
                print("not yet")
            print([future.result() for future in futures])
        print(os.environ["MINE"], sys.argv, "CW_SLOT_OF_JOB" in os.environ)
        sys.exit(4)
"""


def test_a_script_on_the_only_slot_waits_for_jobs_of_its_own(executor, tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", "mine")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = made(tmp_path, NESTED, "a b")
    future = executor.submit(in_slot.run, userdir.home_directory(), script, in_slot.environment())
    assert future.result(2 * LIMIT) == 4, ScriptFolder(script.name).last_log_line()
    found = status.look(ScriptFolder(script.name).path)
    assert (found.phase, found.exit_status) == ("ended", 4)
    assert open(found.output).read() == "not yet\n[None, None]\nmine ['crunch.py', 'a b'] False\n"


def test_a_cancelled_job_ends_the_script(executor, tmp_path):
    script = made(tmp_path, "import time; print('ready'); time.sleep(600)")
    future = executor.submit(in_slot.run, userdir.home_directory(), script, in_slot.environment())
    folder = ScriptFolder(script.name)
    wait_until(
        lambda: os.path.exists(folder.file("output")) and os.path.getsize(folder.file("output")), LIMIT
    )
    status.cancel(folder.path)
    assert future.result(LIMIT) == 143
    assert status.look(folder.path).phase == "cancelled"


def test_a_machine_that_does_not_share_the_home_says_so(executor, tmp_path):
    script = made(tmp_path, "")
    with pytest.raises(LaunchError, match="does not see .*--here runs it on this one"):
        executor.submit(in_slot.run, str(tmp_path / "another"), script, {}).result(LIMIT)


def test_variables_of_this_machine_do_not_travel(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CW_MASTER", "x")
    monkeypatch.setenv("MINE", "mine")
    found = in_slot.environment()
    assert found["MINE"] == "mine" and not {"SLURM_JOB_ID", "CW_MASTER", "CW_HOME"} & found.keys()


def run(*words, master=""):
    return subprocess.run(
        [sys.executable, "-m", "cw", "run", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **({"CW_MASTER": master} if master else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.mark.slow
def test_cw_run_stays_with_a_script_in_a_slot_or_leaves_it_to_a_steward(one_slot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "mine")
    (tmp_path / "crunch.py").write_text(textwrap.dedent(NESTED))
    done = run("--slot", "crunch.py", "a", master=one_slot.master)
    assert done.returncode == 4, done.stderr
    assert done.stdout == "not yet\n[None, None]\nmine ['crunch.py', 'a'] False\n"

    (tmp_path / "waits.py").write_text("import time; print('ready', flush=True); time.sleep(600)")
    first, second = (
        run("--slot", "--detach", name, master=one_slot.master) for name in ("waits.py", "crunch.py")
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    waits, crunch = ScriptFolder("waits"), ScriptFolder("crunch")
    assert f"crunch waits (for a slot of {one_slot.master})" in second.stdout
    wait_until(lambda: os.path.exists(waits.file("output")) and os.path.getsize(waits.file("output")), LIMIT)
    assert status.look(crunch.path).phase == "waits"  # there is but one slot
    status.cancel(waits.path)
    assert status.wait(waits.path, LIMIT).phase == "cancelled"
    found = status.wait(crunch.path, 2 * LIMIT)
    assert (found.phase, found.exit_status) == ("ended", 4), found
    for folder in (waits, crunch):  # their stewards
        wait_until(lambda folder=folder: folder.run().state().is_over, LIMIT)
        pid = folder.run().state().pid
        wait_until(lambda pid=pid: not processes.identity(pid), LIMIT)


@pytest.mark.slow
def test_a_script_that_is_cancelled_while_it_waits_for_a_slot_never_begins(one_slot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "never.py").write_text("print('no')")
    with cw.ClusterExecutor(one_slot.master) as other:
        future = other.submit(time.sleep, 600)
        wait_until(future.running, LIMIT)
        assert run("--slot", "--detach", "never.py", master=one_slot.master).returncode == 0
        folder = ScriptFolder("never")
        status.cancel(folder.path)
        assert status.look(folder.path).how == "cancelled while it waited"
        wait_until(lambda: folder.run().state().is_over, LIMIT)
        other.terminate_workers()
    pid = folder.run().state().pid
    wait_until(lambda: not processes.identity(pid), LIMIT)
    assert not os.path.exists(folder.file("output"))


def test_without_a_cluster_there_is_no_slot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("")
    done = run("--slot", "x.py")
    assert (
        done.returncode == 1
        and "no cluster of yours is known here" in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert names.folders() == {}
