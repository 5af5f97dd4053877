"""Start of a run's steward, where it lasts.

    start_steward --- has the run a cluster of its own? --yes--> that cluster's keeper starts it (on this machine)
                  |-- is a keeper beside the cluster's master? --yes--> it finds the request in the folder, and starts
                  |                                                    the steward in the master's job
                  '-- no, or none has come in time ---> on this machine, out of reach of the terminal's end

Two stewards of one run may be started at once: the second one sees the first one's lease, and ends.
"""

from __future__ import annotations

import time

from cw import program
from cw.events import EventLogger
from cw.launch import out_of_reach
from cw.launch.launcher import Process
from cw.runs import keeping, lease, own
from cw.runs.folder import RunFolder

logger = EventLogger("cw.runs")

KEEPER_SECONDS = 8.0
"""Time for the keeper beside a master to start a steward (seconds); it looks every two. Longer: a program ends late
where a keeper is gone. Shorter: the steward runs on this machine, which may be a login node."""

LOOK_SECONDS = 0.1
"""Time between looks for the steward that the keeper starts (seconds)."""

STEWARD_LOG = "steward.log"


def start_steward(folder: RunFolder) -> None:
    """Start the steward of a run where it lasts; does not wait until it holds the run. Raises DetachError, OSError."""
    keeping.ask_for_steward(folder)
    description = folder.description()
    if description.own_cluster:
        own.start_keeper(folder)
        return
    if not keeping.has_keeper(keeping.folder_of_cluster(description.cluster)):
        start_steward_here(folder)
        return
    before, deadline = lease.holder(folder), time.monotonic() + KEEPER_SECONDS
    while lease.holder(folder) in ("", before):
        if time.monotonic() > deadline:
            logger.info(
                "runs.keeper_silent",
                "nobody beside the cluster's master has started the steward: it starts here",
            )
            start_steward_here(folder)
            return
        time.sleep(LOOK_SECONDS)


def start_steward_here(folder: RunFolder) -> Process:
    """Start the steward of a run on this machine. Raises OSError."""
    keeping.withdraw(folder)
    command = program.command("cw.detached.steward", folder.path)
    return out_of_reach.start(command, folder.place(STEWARD_LOG), cwd=folder.path)
