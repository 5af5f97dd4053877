"""The keeper beside a cluster's master: it comes with the first run, and starts the stewards of this cluster's runs."""

import os
from pathlib import Path

from conftest import wait_until
from programs import LIMIT

from cw.runs import keeping, lease, names
from cw.runs.folder import HANDING_OVER, Description, RunFolder, RunState
from cw.runs.starting import STEWARD_LOG
from cw.slurm.keeping import RunKeeper


def make_run(directory, name, **description):
    folder = RunFolder(names.claim(name, str(directory / f"{name}.cw"), lambda path: False)[1])
    folder.create(Description(name, str(directory / f"{name}.cw"), **description))
    folder.write_state(RunState(HANDING_OVER))
    keeping.ask_for_steward(folder)
    return folder


def test_it_comes_with_the_first_run_serves_its_cluster_and_ends_with_the_sidecar(tmp_path):
    keeper, place = RunKeeper("second"), keeping.folder_of_cluster("second")
    keeper.look()
    assert keeper._process is None  # this user has had no run
    ours = make_run(tmp_path, "ours", cluster="second")
    others = [
        make_run(tmp_path, "elsewhere", cluster="default"),
        make_run(tmp_path, "own", cluster="second", own_cluster={"master": "127.0.0.1:1", "slots": 1}),
        make_run(tmp_path, "named", cluster="second", master="node7:5494"),
    ]
    keeper.look()
    process = keeper._process
    wait_until(lambda: lease.holder(place) == f"pid {process.pid} on {os.uname().nodename}", LIMIT)
    log = Path(ours.place(STEWARD_LOG))
    wait_until(
        lambda: log.exists() and "was not handed over" in log.read_text(), LIMIT
    )  # a steward was there
    assert not any(Path(folder.place(STEWARD_LOG)).exists() for folder in others)
    keeper.look()
    assert keeper._process is process
    process.stdin.close()  # as when the sidecar ends
    assert process.wait(LIMIT) == 0
    assert not keeping.has_keeper(place)
