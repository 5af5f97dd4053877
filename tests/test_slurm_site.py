"""What a site asks of its users, in a real Slurm: accounts, modules, profiles; and what it never gives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_slurm import run, slots, used

import cw
from cw.launch.launcher import LaunchError

if os.environ.get("CI") != "true":  # there it is installed, and a test that cannot run is a failure
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)


@pytest.fixture(scope="module")
def shared():
    with sandbox.Sandbox(nodes=2, cpus=2, settings=["PartitionName=short Nodes=ALL MaxTime=10"]) as shared:
        yield shared


@pytest.fixture
def slurm(shared, monkeypatch):
    yield from used(shared, monkeypatch)


def write_settings(text):
    home = Path(os.environ["CW_HOME"])
    home.mkdir(0o700, exist_ok=True)
    (home / "slurm.toml").write_text(text)


def remaining(slurm):
    return [job for job in slurm.queue() if job[1] != "COMPLETING"]


def test_what_the_site_needs_is_in_both_jobs_and_their_programs(slurm):
    write_settings(
        "[defaults]\naccount = 'physics'\nsetup = 'export WHERE=defaults COUNT=1'\n"
        "[profiles.gpu]\nsetup = ['export WHERE=profile', 'COUNT=$((COUNT + 1))']\nbatch_options = ['--comment=all']\n"
    )
    run("start", "-n", 2, "--profile", "gpu", "--setup", "COUNT=$((COUNT + 1))", "--Xmaster", "--comment=one")
    with cw.ClusterExecutor() as executor:
        assert list(executor.map(os.getenv, ["WHERE", "COUNT"])) == ["profile", "3"]
    found = {job[0].split("-")[2]: job[1:] for job in slurm.queue("%j|%a|%k")}
    assert found == {"master": ["physics", "one"], "workers": ["physics", "all"]}
    out, _ = run("status")
    assert re.search(r"^\(Slurm's answer is \d+ s old; it is asked once in 15 s\)$", out, re.MULTILINE)
    run("stop")


def test_a_line_of_setup_that_fails_is_named_and_ends_the_start(slurm):
    line = "load-no-such-module gcc"
    _, error = run("start", "-n", 1, "--setup", "true", "--setup", line, status=1)
    failed = rf"Slurm job \d+ \(master\) has failed: a line of --setup failed \(exit status 127\): {line}\n"
    assert re.search(failed, error) and not remaining(slurm)


@pytest.mark.parametrize("asked", [["--partition=short", "--time=60"], ["-i", "-n", "99"]])
def test_what_slurm_never_gives_ends_the_start_and_leaves_nothing_in_the_queue(slurm, asked):
    _, error = run("start", *asked, status=1)
    assert re.match(
        r"slurm.py: Slurm job \d+ \((master|workers)\) can never start: it waits in the queue: ", error
    )
    assert error.count("\n") == 1 and not remaining(slurm) and cw.slurm.status() is None


def test_a_refusal_names_the_job_and_its_options(slurm):
    with pytest.raises(
        LaunchError, match=r"sbatch: .*\(refused is the job of the workers, with --account=a .*=gold\)$"
    ):
        cw.slurm.start(2, account="a", worker_options=["--constraint=gold"])
    assert not remaining(slurm)


def test_what_a_dry_run_shows_can_be_pasted(slurm):
    write_settings("[defaults]\nsetup = 'export A=5'\n")
    shown, _ = run("start", "-n", 2, "--account=it's me", "--dry-run")
    assert f"# [defaults] of {os.environ['CW_HOME']}/slurm.toml gives setup\n" in shown
    assert subprocess.run(["bash"], input=shown, text=True, capture_output=True, timeout=30).stderr == ""
    wait_until(lambda: slots() == 2, LIMIT, slurm.queue)
    with cw.ClusterExecutor() as executor:
        assert executor.submit(os.getenv, "A").result(LIMIT) == "5"
    assert {tuple(job) for job in slurm.queue("%a")} == {("it's me",)}
    slurm.run("scancel", "-u", str(os.getuid()))
    wait_until(lambda: not remaining(slurm), LIMIT, slurm.queue)


def test_a_dry_run_with_the_master_on_this_machine_can_be_pasted_too(slurm):
    shown, _ = run("start", "-W", "--local-master", "--Xmaster=--port=0", "--dry-run")
    command = f"{shown}\nfor i in {{1..100}}; do {sys.executable} -m cw status && break; sleep 0.1; done; kill $!; wait"
    done = subprocess.run(["bash", "-c", command], text=True, capture_output=True, timeout=50)
    assert "slots connected: 0" in done.stdout, done.stdout + done.stderr
