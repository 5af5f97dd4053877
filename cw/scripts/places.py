"""The places where a script's host runs: this machine, or a job of the batch system. Start, look, signal.

start_here(folder) ---------> host: a process in a session of its own, which the end of a terminal does not reach
submit(folder, plan) -------> host: a job of its own, with the environment of this shell
                               place.json
lost_because(folder, place) <--- is it still there?     send(folder, place, SIGUSR1, "cancel")
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from typing import NamedTuple

from cw import processes, program
from cw.launch import launcher, out_of_reach
from cw.launch.batch_system import ListedJob
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan, ProgramRequest
from cw.net import address
from cw.results import open_results
from cw.runs import keeping, starting
from cw.runs.folder import HANDING_OVER, STEWARD
from cw.scripts.folder import ScriptFolder
from cw.scripts.script import CANCELLED, WAITS, Outcome, Place, Script
from cw.slurm.submitted import State

START_SECONDS = 60.0
"""Time after which a run on this machine that has no host will never have one (seconds): its starter was killed."""

BEGIN_SECONDS = 30.0
"""Time for the host on this machine to begin (seconds). Shorter: on a machine with much to do, a run that begins late
is taken for one that does not."""

BEGIN_LOOK_SECONDS = 0.02
"""Time between two looks whether it has begun (seconds)."""

QUIET_SECONDS = 30.0
"""Time without a sign of life after which the end of a job means that its host ended without a word (seconds). Longer:
a lost run is noticed later. Shorter: one whose last note a network file system still holds back is taken for lost."""

SILENT_SECONDS = 300.0
"""Time without a sign of life from another machine after which a run is taken for lost (seconds)."""


class _Job(NamedTuple):
    """A run's job, as the batch system's methods take it."""

    ident: int
    cluster: str
    name: str


# --- start ---


def start_here(folder: ScriptFolder) -> None:
    """Start the host on this machine, and wait until the script has begun. Raises LaunchError."""
    command = program.command("cw.scripts.host", folder.name)
    host = out_of_reach.start(command, folder.file("host.log"), cwd=folder.path)
    deadline = time.monotonic() + BEGIN_SECONDS
    while folder.outcome().phase == WAITS:
        is_gone = not host.is_alive() or time.monotonic() > deadline
        if is_gone and folder.outcome().phase == WAITS:
            raise LaunchError(_last_words(folder, "the script could not begin on this machine"))
        time.sleep(BEGIN_LOOK_SECONDS)


def is_cluster_in_slurm() -> bool:
    """True if the user's cluster, as a program would find it here, is in the batch system."""
    if os.environ.get("CW_MASTER") or not State.system.is_installed():
        return False
    return bool(State.load(address.cluster_name()).jobs)


def submit(folder: ScriptFolder, script: Script, plan: Plan) -> Place:
    """Submit the host as a job of its own; returns where it will run. Raises LaunchError with the system's message."""
    State.system.check_present()
    name = f"cw-run-{script.name}-{secrets.token_hex(3)}"
    place = Place(job_name=name)
    folder.write(place)  # by its name, a job can be ended whose id was never noted
    request = ProgramRequest(
        plan._replace(foreign_master=os.environ.get("CW_MASTER", "")),
        name,
        f"The script {script.as_typed()}, the run {script.name!r} of cw.".replace("\n", " "),
        folder.path,
        program.command("cw.scripts.host", folder.name),
    )
    ident, cluster = State.system.submit(State.system.program_script(request))
    place = place._replace(job=ident, cluster=cluster)
    if not folder.place().process:  # otherwise it has begun, and knows more
        folder.write(place)
    return place


# --- look ---


def lost_because(folder: ScriptFolder, place: Place) -> tuple[str, bool]:
    """Return (why nothing of a run is there any more that has not noted its end, whether that is certain); '' if it may
    be there."""
    if place.job_name:
        return _job_lost(folder, place), True
    here = os.uname().nodename
    if place.slot and (why := _slot_lost(folder, place)):
        return why, True
    if not place.process:
        if place.slot:
            return "", True
        script = folder.script()
        is_late = script.host == here and time.time() - script.created > START_SECONDS
        return ("it was never started; start it again" if is_late else ""), True
    if place.host == here:
        if place.boot != launcher.boot_id():
            return f"{here} was restarted meanwhile", True
        pid = int(place.process.partition(" ")[0])
        return (
            "" if processes.identity(pid) == place.process else _last_words(folder, "its host died")
        ), True
    silence = folder.silence()
    if silence is not None and silence > SILENT_SECONDS:
        return f"no sign of life from {place.host} for {silence:.0f} s", False
    return "", False


def _slot_lost(folder: ScriptFolder, place: Place) -> str:
    """Return why nobody has the job any more that is a run in a slot. A steward that has died is started again."""
    if place.owner:
        host, boot, *process = place.owner.split()
        is_gone = host == os.uname().nodename and (
            boot != launcher.boot_id() or processes.identity(int(process[0])) != " ".join(process)
        )
        return "the program that had handed it in has ended" if is_gone else ""
    run = folder.run()
    state = run.state()
    if not state.is_over:
        is_silent = time.time() - state.written > keeping.SILENT_SECONDS
        if state.phase in (HANDING_OVER, STEWARD) and not keeping.is_held(run, is_silent):
            starting.start_steward(run)
        return ""
    failures = [str(result.error) for result in open_results(folder.store) if result.failed]
    return failures[0] if failures else state.text or "its job has ended"


def job_state(folder: ScriptFolder, place: Place) -> str:
    """Return the state of a run's job in words, if the batch system lists it: 'is waiting (Resources)'."""
    row, _ = _row(folder, place)
    return "" if row is None else row.describe()


def _job_lost(folder: ScriptFolder, place: Place) -> str:
    row, may_be_new = _row(folder, place)
    if may_be_new or (row is not None and row.is_active):
        return ""
    silence = folder.silence()
    if silence is not None and silence < QUIET_SECONDS:
        return ""
    job = place.describe(State.system.title) if place.job else f"its {State.system.title} job"
    how = "is not in the queue any more" if row is None else row.describe()
    return _last_words(folder, f"{job} {how}")


def _row(folder: ScriptFolder, place: Place) -> tuple[ListedJob | None, bool]:
    """Return the batch system's row of a run's job, and whether its absence says nothing."""
    try:
        listing = State.system.list_jobs(place.cluster)
    except LaunchError:
        return None, True
    row = next((row for row in listing.rows.values() if row.name == place.job_name), None)
    is_known = not listing.failure and listing.asked_at > folder.script().created + State.system.list_seconds
    return row, row is None and not is_known


def _last_words(folder: ScriptFolder, how: str) -> str:
    """Return how it was lost, and the last line of the host's log, which may say why."""
    line = folder.last_log_line()
    return f"{how}: {line}" if line else how


# --- tell ---


def send(folder: ScriptFolder, place: Place, number: signal.Signals) -> None:
    """Let the host cancel (SIGUSR1) or interrupt (SIGINT) the script. Raises LaunchError."""
    is_cancel, is_waiting = number == signal.SIGUSR1, folder.outcome().phase == WAITS
    is_here = bool(place.process) and place.host == os.uname().nodename and not place.job_name
    if is_cancel or not (is_here or place.job_name):
        # A host on another machine gets no signal, and one that is about to begin none yet.
        folder.request("cancel" if is_cancel else "interrupt")
    if is_here:
        pid, start = map(int, place.process.split())
        launcher.Process(pid, start).send_signal(number)
    elif place.job_name and not is_waiting:
        State.system.signal_program([_Job(place.job, place.cluster, place.job_name)], number)
    elif is_waiting:
        folder.request("cancel")
        _take_back(folder, place)
        folder.write(Outcome(CANCELLED, 128 + signal.SIGTERM, "cancelled while it waited", 0.0, time.time()))


def _take_back(folder: ScriptFolder, place: Place) -> None:
    """Take a run out of the queue in which it waits. Raises LaunchError."""
    if place.job:
        State.system.cancel([_Job(place.job, place.cluster, place.job_name)])
    elif place.job_name:
        State.system.cancel_named(place.job_name, place.cluster)
    elif place.slot and folder.run().exists():
        folder.run().request("cancel")
