"""A script handed in to a slot of the user's cluster, by a client that stays or whose run a steward takes over.

begin() ---> a client with one job, cw.scripts.in_slot.run; its store lies in the run's folder
detach() --> the client's session goes to a steward (cw.runs.handing_over), and this program ends
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future

from cw import processes, userdir
from cw.client.executor import ClusterExecutor
from cw.client.session.handover import Handover
from cw.errors import DetachError
from cw.launch import known, launcher
from cw.launch.launcher import LaunchError
from cw.net import address
from cw.runs import starting
from cw.runs.folder import SCRIPT, Description, RunState
from cw.runs.handing_over import hand_over
from cw.scripts import in_slot
from cw.scripts.folder import ScriptFolder
from cw.scripts.script import KILLED, LOST, Outcome, Place, Script


def check_cluster() -> None:
    """Raise LaunchError if no cluster is known whose slot a script could have."""
    if known.decide(known.collect()) is not known.Decision.USE:
        raise LaunchError(
            "no cluster of yours is known here, so there is no slot for a script: start one first"
        )


@contextlib.contextmanager
def begin(folder: ScriptFolder, script: Script) -> Iterator[ClusterExecutor]:
    """Hand the script in, for the duration of a block. One that still waits for a slot at its end is taken back."""
    candidates = address.find_master()
    where = address.join(candidates[0].host, candidates[0].port) if candidates else address.sought_cluster()
    owner = f"{os.uname().nodename} {launcher.boot_id()} {processes.identity(os.getpid())}"
    folder.write(Place(slot=where, owner=owner))
    with ClusterExecutor(local=False, store=folder.store, output="drop") as executor:
        future: Future[int] = executor.options(attempts=1).submit(
            in_slot.run, userdir.home_directory(), script, in_slot.environment()
        )
        future.add_done_callback(functools.partial(_note_failure, folder))
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def detach(folder: ScriptFolder, executor: ClusterExecutor) -> None:
    """Hand the run over to a steward. Raises DetachError."""
    run = folder.run()
    run.create(
        Description(
            folder.name,
            folder.store,
            master=os.environ.get("CW_MASTER", ""),
            cluster=address.sought_cluster(),
            created=time.time(),
            host=os.uname().nodename,
            argv=list(sys.argv),
            executable=sys.executable,
        )
    )
    run.write_state(RunState(SCRIPT, os.uname().nodename, os.getpid(), processes.identity(os.getpid())))
    folder.write(folder.place()._replace(owner=""))
    try:
        hand_over(Handover(executor._session), run, starting.start_steward)
    except DetachError:
        executor.terminate_workers()  # the script: nobody would look after it
        raise


def _note_failure(folder: ScriptFolder, future: Future[int]) -> None:
    """Note how a run was lost whose job has failed, if its host could not note its end."""
    if future.cancelled() or not folder.place().owner or folder.outcome().is_over:
        return  # (a steward has it)
    error = future.exception()
    if error is not None:
        folder.write(Outcome(LOST, KILLED, str(error) or repr(error), folder.outcome().started, time.time()))
