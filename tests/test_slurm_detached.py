"""A detached run in a real Slurm: its steward is in the master's job, and another one comes when it dies."""

import os
import signal
from pathlib import Path

import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_detaching import Run
from test_slurm import run, used

import cw
from cw.runs import keeping, lease
from cw.runs.folder import STEWARD

if os.environ.get("CI") != "true":  # there it is installed, and a test that cannot run is a failure
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)


@pytest.fixture
def slurm(monkeypatch):
    with sandbox.Sandbox(nodes=2, cpus=2) as slurm:
        yield from used(slurm, monkeypatch)


def job_of(pid):
    """The Slurm job in which a process runs."""
    variables = dict(
        part.partition(b"=")[::2] for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )
    return int(variables.get(b"SLURM_JOB_ID", b"0"))


@pytest.mark.slow
def test_the_steward_is_in_the_masters_job_and_is_started_again_there(slurm, tmp_path):
    run("start", "-n", "2")
    Path(os.environ["CW_HOME"], "runs").mkdir()  # the user has had a run before
    place = keeping.folder_of_cluster("default")
    wait_until(lambda: lease.holder(place), LIMIT, slurm.queue)
    detached = Run(tmp_path, None)
    detached.hand_over()
    first = detached.folder.state().pid
    job = job_of(first)
    assert str(job) in [ident for ident, _, name in slurm.queue() if "master" in name], slurm.queue()
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: detached.phase() == STEWARD and detached.folder.state().pid != first,
        LIMIT,
        lambda: detached.folder.state(),
    )
    assert job_of(detached.folder.state().pid) == job
    assert len(detached.began()) == 2
    detached.goes_on()
    assert cw.slurm.stop()
