"""The cluster that cw has made for a program, where a run of the program outlives it: its keeper has it then.

    program --hand_on: the pipe that keeps it alive, what to know of it--> keeper --take_over--> ends it with the run
    after a reboot, say:                                                   keeper --start_own--> another one of its size

The run's description says where its master is. Stewards read it there, each time that they look for their master.
"""

from __future__ import annotations

import json
from typing import Any

from cw import mp, program
from cw.launch import out_of_reach
from cw.launch.launcher import LaunchError, Process
from cw.mp import HandedOn, LocalCluster
from cw.net import address
from cw.runs import keeping
from cw.runs.folder import RunFolder

KEEPER_LOG = "keeper.log"


def describe(master: str) -> dict[str, Any]:
    """Return what a run's description says of the cluster with this master, if it ends with this program; or {}."""
    cluster = mp.find_local(master)
    return {} if cluster is None else {"master": cluster.master, "slots": cluster.slots}


def master_of(folder: RunFolder) -> str:
    """Return the address of the master of a run's own cluster, as it is now; '': the run uses another cluster."""
    return str(folder.description().own_cluster.get("master", ""))


def start_keeper(folder: RunFolder) -> None:
    """Start the keeper of a run's own cluster, with the cluster if this program has it. Raises DetachError, OSError."""
    if keeping.has_keeper(keeping.folder_of_run(folder)):
        return
    cluster = mp.find_local(master_of(folder))
    handed = None if cluster is None else cluster.hand_on()
    command = program.command("cw.runs.keeper", "run", folder.path)
    if handed is not None:
        command += ["--cluster", json.dumps(handed), "--lifeline-fd", str(handed.lifeline)]
    out_of_reach.start(
        command,
        folder.place(KEEPER_LOG),
        cwd=folder.path,
        pass_fds=() if handed is None else (handed.lifeline,),
    )


def take_over(text: str, lifeline: int) -> LocalCluster:
    """Take over the cluster that `start_keeper` has handed on."""
    master, slots, logs, processes, _, is_one = json.loads(text)
    return mp.take_over(
        HandedOn(master, slots, logs, [Process(*each) for each in processes], lifeline, is_one)
    )


def start(folder: RunFolder) -> LocalCluster:
    """Start a cluster in place of one that is gone, at the same address if that is free. Raises LaunchError."""
    noted = folder.description().own_cluster
    slots, master = int(noted["slots"]), str(noted["master"])
    try:
        cluster = mp.start_own(slots, address.parse(master)[1] or 0)
    except LaunchError:
        cluster = mp.start_own(slots)
    folder.change(master=cluster.master, own_cluster=describe(cluster.master))
    return cluster
