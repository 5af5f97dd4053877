"""Keepers: a program's own cluster outlives the program until its run is over; and who lacks a steward gets one."""

import os
import signal

import pytest
from conftest import wait_until
from programs import LIMIT, free_port, is_running, run_script

import cw
from cw.runs import keeping, own
from cw.runs.folder import ENDED, HANDING_OVER, Description, RunFolder, RunState

LEAVE_A_CLUSTER = """
    import sys
    import cw
    from cw import mp
    from cw.runs import own
    from cw.runs.folder import HANDING_OVER, Description, RunFolder, RunState

    cluster = mp.start_own(1)
    folder = RunFolder("sweep.cw/runs/sweep")
    folder.create(Description("sweep", "sweep.cw", own_cluster=own.describe(cluster.master)))
    folder.write_state(RunState(HANDING_OVER))
    own.start_keeper(folder)
    print(*[process.pid for process in (*cluster._master, *cluster._workers)], sep="\\n")
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_programs_own_cluster_goes_on_with_its_run_is_kept_up_and_ends_with_it(home):
    out, _ = run_script(home, LEAVE_A_CLUSTER)
    process = int(out)
    folder = RunFolder(home / "sweep.cw" / "runs" / "sweep")
    wait_until(lambda: keeping.has_keeper(keeping.folder_of_run(folder)), LIMIT)
    address = folder.description().own_cluster["master"]
    assert is_running(process)
    with cw.ClusterExecutor(address) as executor:
        assert executor.submit(pow, 2, 3).result(LIMIT) == 8
        os.kill(process, signal.SIGKILL)
        assert executor.submit(pow, 2, 4).result(LIMIT) == 16  # by the next one, at the same address
    assert folder.description().own_cluster == {"master": address, "slots": 1}
    folder.write_state(RunState(ENDED))
    wait_until(lambda: not keeping.has_keeper(keeping.folder_of_run(folder)), LIMIT)


@pytest.mark.slow
def test_a_cluster_of_an_ended_program_can_be_made_again(home):
    """As after a reboot: there is no process left of it."""
    folder = RunFolder(home / "sweep.cw" / "runs" / "sweep")
    address = f"127.0.0.1:{free_port()}"
    folder.create(Description("sweep", "sweep.cw", own_cluster={"master": address, "slots": 1}))
    folder.write_state(RunState(HANDING_OVER))
    own.start_keeper(folder)
    with cw.ClusterExecutor(address) as executor:
        assert executor.submit(pow, 2, 3).result(LIMIT) == 8
    folder.write_state(RunState(ENDED))
    wait_until(lambda: not keeping.has_keeper(keeping.folder_of_run(folder)), LIMIT)
