"""Requests to Slurm: its programs, and the queue.

    call("sbatch", ...)     a program of Slurm; its own message becomes the error's text
    listing(), ...          squeue, at most once in 15 seconds for all of the user's scripts together
    is_there()              is this a machine of a Slurm cluster whose controller answers?

The answer of squeue is kept in `~/.cw/slurm-queue….json`, under a lock for which other processes of the user wait.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cw import userdir
from cw.launch.launcher import LaunchError
from cw.slurm import reasons

if TYPE_CHECKING:
    import subprocess

QUEUE_SECONDS = 15.0
"""Time between calls of squeue (seconds). Longer: states are older. Shorter: hundreds of scripts overload the
controller that all users share."""

THERE_SECONDS = 300.0
"""Time for which the presence of Slurm is remembered (seconds)."""

NOT_THERE_SECONDS = 30.0
"""Time for which its absence is remembered (seconds)."""

PING_SECONDS = 2.0
"""Time for the controller to answer if the user did not ask for Slurm (seconds)."""

WANTED_SECONDS = 15.0
"""Time for the controller to answer if the user did (seconds). Without settings, Slurm's programs try for a minute;
Slurm 26.05 tries for 10 s to find the address of a name."""

CALL_SECONDS = 60.0
"""Time limit of a program of Slurm (seconds). (If the controller is down, they give up by themselves after some
seconds.)"""

ROWS_KEPT = 500
"""Number of kept jobs of the user with names like ours: first those that have not ended, then the latest."""

NOTED_BYTES = 4 * 1024**2
"""Maximum size of a kept answer that is read (bytes): more than that many rows need."""

ENDLESS_SECONDS = 300 * 24 * 3600.0
"""Time left (seconds) above which a job has no time limit: Slurm then says that it ends in a year."""

NAME_PREFIX = "cw-"
"""Prefix of all our jobs' names."""

ACTIVE = frozenset(
    {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "REQUEUED",
     "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "STAGE_OUT"}
)  # fmt: skip
"""States of jobs that have not ended."""

_LOST_ALLOCATION = frozenset(
    {"TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED",
     "PENDING", "REQUEUED", "CONFIGURING", "SUSPENDED"}
)  # fmt: skip
"""States of a Slurm job whose workers were lost through no fault of cw's jobs; in the last four it waits (again)."""


class Row(NamedTuple):
    """One of the user's jobs, as squeue lists it."""

    ident: int
    state: str
    reason: str
    start: float
    """Time of its start, or 0 (seconds since 1970, as `end`)."""
    end: float
    """Time of its end, or 0 if unknown."""
    nodes: str
    """Slurm's list, such as 'n[1-3,7]'."""
    name: str
    label: str = ""
    """Its id as squeue shows it, if that is another: '12_3', a task of the array 12; '12_[4-7]', tasks that wait."""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def can_never_start(self) -> bool:
        return self.is_waiting and reasons.is_final(self.reason)

    def is_called(self, ident: str) -> bool:
        """True if this is the job with that id: '4711', or '12_3', which may be one of the tasks that wait."""
        array, _, task = ident.partition("_")
        return ident in (str(self.ident), self.label or None) or (
            bool(task) and self.label.startswith(f"{array}_[") and task in _waiting_tasks(self.label)
        )

    @property
    def is_waiting(self) -> bool:
        return self.state == "PENDING"

    @property
    def is_running(self) -> bool:
        return self.state == "RUNNING"

    @property
    def has_failed(self) -> bool:
        return self.state in ("FAILED", "OUT_OF_MEMORY")

    @property
    def has_lost_allocation(self) -> bool:
        return self.state in _LOST_ALLOCATION

    def time_left(self, now: float) -> float | None:
        """Return the seconds until the end of its allocation, if it runs and its end is known."""
        left = self.end - now if self.is_running and self.end else None
        return None if left is None or left > ENDLESS_SECONDS else left

    def describe(self) -> str:
        """Describe state and reason in words."""
        return reasons.describe(self.state, self.reason, self.label or str(self.ident))


@functools.lru_cache(maxsize=256)
def _waiting_tasks(label: str) -> frozenset[str]:
    """Return the numbers in the label of an array's waiting tasks: '12_[1,4-7,10-20:5%2]', of which 2 may run at once.
    (Slurm shortens a long one, with dots at its end.)"""
    found: set[str] = set()
    for first, last, step in re.findall(
        r"(\d+)(?:-(\d+)(?::(\d+))?)?", label.partition("[")[2].partition("%")[0]
    ):
        found.update(map(str, range(int(first), int(last or first) + 1, int(step or 1))))
    return frozenset(found)


class Listing(NamedTuple):
    """An answer of squeue, and its time (seconds since 1970)."""

    asked_at: float
    rows: dict[int, Row]
    failure: str
    """Reason why there was no answer; then `rows` is an earlier answer."""


class Refusal(LaunchError):
    """One of Slurm's programs has answered that it does not do it."""


def call(program: str, *arguments: str, seconds: float = CALL_SECONDS, text: str = "") -> str:
    """Run a program of Slurm with `text` as its input; returns its output. Raises LaunchError with its own message."""
    process = _run(program, *arguments, seconds=seconds, text=text)
    if process.returncode:
        text = "; ".join(_complaints(process)) or f"exit status {process.returncode}"
        if "Unable to contact slurm controller" in text:
            text += ": it is down, or the network to it; try again later"
        raise Refusal(f"{program}: {text}")
    return process.stdout


def _run(program: str, *arguments: str, seconds: float, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program of Slurm. Raises LaunchError if it is missing, or takes longer than `seconds`."""
    import subprocess  # Takes 5 ms to load, which `import cw` saves.

    try:
        return subprocess.run(
            [program, *arguments],
            env=environment(),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except FileNotFoundError:
        raise LaunchError(
            f"there is no {program} on the PATH: start this on a machine of a Slurm cluster, or use cw.mp"
        ) from None
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{program} has not answered within {seconds:g} s: Slurm's controller may be down"
        ) from None


def _complaints(process: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of its error message."""
    prefix = f"{os.path.basename(process.args[0])}: "
    lines = (process.stderr or process.stdout).splitlines()
    reported = [
        line.strip().removeprefix(prefix).removeprefix("error: ").removeprefix("fatal: ") for line in lines
    ]
    return list(filter(None, reported))


def environment() -> dict[str, str]:
    """Return the environment for Slurm's programs, without variables of an enclosing job or of the user that would
    change their answers."""
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"}
    foreign = ("SLURM_", "SLURMD_", "SRUN_", "SQUEUE_", "SCANCEL_", "SINFO_", "PMI_", "PMIX_")
    unwanted = {"SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_EXPORT", "SBATCH_TEST_ONLY"}
    found = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not (name.startswith(foreign) or name in unwanted)
    }
    return found | {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}


def is_installed() -> bool:
    """True if Slurm's programs are on the PATH."""
    return shutil.which("sbatch") is not None


def current_job() -> int:
    """Return the id of the job in which this process runs, or 0."""
    ident = os.environ.get("SLURM_JOB_ID", "")
    return int(ident) if ident.isdigit() else 0


def is_there() -> bool:
    """True on a machine of a Slurm cluster: in an allocation, or with a controller that answers. The answer is
    remembered."""
    if not is_installed():
        return False
    if current_job():
        return True
    if _lost_settings():
        return False
    name = f"slurm-there-{_key('')}.json"
    noted = _read(name)
    age = time.time() - noted.get("asked_at", 0)
    if 0 <= age < (THERE_SECONDS if noted.get("is_there") else NOT_THERE_SECONDS):
        return bool(noted.get("is_there"))
    try:
        found = " is UP" in call("scontrol", "ping", seconds=PING_SECONDS)
    except LaunchError:
        found = False
    userdir.make_home()
    userdir.write_private(name, json.dumps({"asked_at": time.time(), "is_there": found}).encode())
    return found


def _lost_settings() -> bool:
    """True if SLURM_CONF names a missing file, for which Slurm's programs would wait."""
    settings = os.environ.get("SLURM_CONF", "")
    return bool(settings) and not os.access(settings, os.R_OK)


def check_is_there() -> None:
    """Raise LaunchError, which says what to do, unless Slurm answers."""
    if _lost_settings():
        raise LaunchError(
            f"SLURM_CONF names {os.environ['SLURM_CONF']}, which cannot be read: Slurm's settings lie there"
        )
    if not is_there():
        check_answers()


def check_answers() -> None:
    """Ask Slurm now. Raises LaunchError as `check_is_there` does."""
    try:
        process = _run("scontrol", "ping", seconds=WANTED_SECONDS)
    except LaunchError as error:
        if not shutil.which("scontrol"):
            raise
        why = str(error)
    else:
        if not process.returncode:
            return
        if " is DOWN" in process.stdout + process.stderr:
            raise LaunchError("Slurm's controller is down: try again later")
        why = [f"exit status {process.returncode}", *_complaints(process)][-1]  # the last one of a chain
    raise LaunchError(
        f"Slurm does not answer ({why}): start this on a machine of a Slurm cluster, or use cw.mp"
    )


def listing(cluster: str = "") -> Listing:
    """List the user's jobs with names like ours, by id, including ended ones, as squeue does or did some seconds ago.

    `cluster`: one of several that Slurm serves. Processes that ask at the same time wait for one answer.
    """
    userdir.make_home()
    name = f"slurm-queue-{_key(cluster)}.json"
    with userdir.locked(f"{name}.lock"):
        noted = _read(name)
        known: dict[int, Row] = {}
        with contextlib.suppress(KeyError, TypeError):  # written by another version of cw
            known = {row[0]: Row(*row) for row in noted["rows"]}
            if abs(time.time() - noted["asked_at"]) < QUEUE_SECONDS:  # (another machine's clock may be ahead)
                return Listing(noted["asked_at"], known, noted["failure"])
        asked_at = time.time()
        # The time is from before the call: however the call ends, no process calls again too soon.
        found = Listing(asked_at, known, "squeue was interrupted")
        try:
            found = Listing(asked_at, _ask(cluster), "")
        except LaunchError as error:
            found = Listing(asked_at, known, str(error))
        finally:
            noted = {"asked_at": asked_at, "rows": list(found.rows.values()), "failure": found.failure}
            userdir.write_private(name, json.dumps(noted).encode())
    return found


def _ask(cluster: str) -> dict[int, Row]:
    # The name comes last: it may contain anything.
    output = call("squeue", "-h", "-t", "all", "-u", str(os.getuid()), *of_cluster(cluster),
                  "-o", "%A|%i|%T|%r|%S|%e|%N|%j")  # fmt: skip
    rows = {}
    for line in output.splitlines():
        fields = line.split("|", 7)
        if len(fields) == 8 and fields[0].isdigit() and fields[7].startswith(NAME_PREFIX):
            # Tasks of an array have ids of their own (%A), as SLURM_JOB_ID in them; those that wait share one row.
            ident, label, state, reason, start, end, nodes, name = fields
            times = _start(start, state), _time(end)
            rows[int(ident)] = Row(int(ident), state, reason[:200], *times, nodes[:4000], name[:200],
                                   "" if label == ident else label[:200])  # fmt: skip
    kept = sorted(rows.values(), key=lambda row: (row.is_active, row.ident))[-ROWS_KEPT:]
    return {row.ident: row for row in kept}


def of_cluster(cluster: str) -> list[str]:
    """Return the option that names one of several clusters; none for ''."""
    return ["-M", cluster] if cluster else []


@functools.lru_cache(maxsize=256)
def expand(nodes: str) -> list[str]:
    """Return the names in a list of nodes such as 'n[1-3,7]'. The result is shared: do not change it."""
    return call("scontrol", "show", "hostnames", nodes).split() if nodes else []


@functools.lru_cache(maxsize=256)
def address_of(node: str) -> str:
    """Return a node's address in Slurm: its name may not resolve."""
    output = call("sinfo", "-h", "-N", "-n", node, "-o", "%o")
    return (output.split() or [node])[0]


def config() -> str:
    """Return Slurm's settings as scontrol lists them. Raises LaunchError."""
    return call("scontrol", "show", "config")


def kill_wait() -> float:
    """Return this site's time from Slurm's SIGTERM to its SIGKILL (seconds)."""
    with contextlib.suppress(LaunchError):
        found = re.search(r"^KillWait\s*=\s*(\d+)", config(), re.MULTILINE)
        if found:
            return float(found[1])
    return 30.0


def _start(text: str, state: str) -> float:
    """Return the time of a start; 0 for one that is expected after the end of a job without a time limit."""
    start = _time(text)
    return 0.0 if state == "PENDING" and start - time.time() > ENDLESS_SECONDS else start


def _time(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def _key(cluster: str) -> str:
    """Return a key for the names of files, different for each Slurm cluster: several may share one home directory."""
    which = [os.environ.get("SLURM_CONF", ""), os.environ.get("SLURM_CLUSTERS", ""), cluster]
    return hashlib.sha256("\0".join(which).encode()).hexdigest()[:12]


def _read(name: str) -> dict[str, Any]:
    """Read a kept answer; empty if it is damaged."""
    with contextlib.suppress(ValueError):
        noted = json.loads(userdir.read_private(name, NOTED_BYTES) or b"{}")
        if isinstance(noted, dict):
            return noted
    return {}
