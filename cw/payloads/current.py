"""The job that this process runs, `cw.current_job()`, and the seeds of jobs and clients.

    client: session's seed --- environment ------------------.
            label of the call --- in the call's payload --> runner: `running` --> seed (when it is read)

A *label* says which call of its session a job is, in 64 bits behind the call's pickle (`layout.label_bytes`), where
they cost nothing on the way:

    0                     the job's number counts: the n-th submit         (ClientThread)
    2**63 + id            the same, and the caller gave the job this id   (ClientThread)
    place * 2**32 + item  of the session's submits and maps this is the one at this place, from 1 on; of a map's calls
                          the one at this item. The label of a chunk is that of its first call   (ClusterExecutor)

So a call's seed depends on neither chunks, slots nor retries. The runner sets the variables below by plain assignments
for each job; their meaning is computed when it is read.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cw.net import messages as m
from cw.requirements import NO_OPTIONS, JobOptions

PLACE = 1 << 32
"""Distance between the labels of two submits. (Items of a map beyond it share the seeds of the next submits.)"""

LABEL = 8
"""Bytes of a label."""

LABELS = (1 << 63) - 1
"""Highest label of a place: the places begin anew after two thousand million."""

_OWN_ID = 1 << 63

running: tuple[Any, ...] | None = None
"""Fields of the runner's job in `messages.Run`; None outside of jobs."""

options: dict[int, JobOptions] = {}
"""Options that the runner's jobs name, by number of the object."""

choices: dict[int, int] = {}
"""Alternatives as which jobs run, by number, where it is not the first."""

began = 0.0
"""Time at which the job began (time.monotonic())."""

chunk: tuple[list[Any], Sequence[int] | None] | None = None
"""Results so far, if the job is a chunk; and which item each call is, counted from the first call's, if they are not
consecutive."""

name_of: Callable[[int], str] = str
"""Function that returns the name of a function by its number."""

is_interrupted = False
"""True if the job got a SIGINT, by which cw asks a job to end."""

clear_timers: Callable[[], None] | None = None
"""Function that stops the timers that a call has set; None if it has set none."""

due: set[str] = set()
"""Marks of whoever set one of these, or a shared value, so that a chunk looks at them before its next call. Empty, as a
rule: a look at an empty set costs nothing."""

slot = m.Slot(0, 1, -1.0)

gpus: tuple[str, ...] | None = None
"""Names of the devices to which this runner is bound; None: it sees what its worker sees."""

hostfile: str | None = None
"""File with the machines of the job, if there are several."""

nodes: tuple[str, ...] = ()
"""Their names."""

session_seed = b""

_pid = 0  # the runner's pid: a process that a job forks is another one, and runs no job
_clients: tuple[tuple[int, int] | None, int] = None, 0  # which call made clients, and how many


@dataclass(frozen=True)
class CurrentJob:
    """The job that runs, as `cw.current_job()` returns it. Each call of a chunk gets its own."""

    id: int
    """Id that `ClientThread.submit` returned; with ClusterExecutor, the job's number in messages. A chunk has one."""
    name: str
    """Name of the function."""
    attempt: int
    """Attempt number, from 1: above 1 if a runner or worker was lost with the job, or if it raised (`retries`)."""
    host: str
    slot: int
    """Slot of its worker, from 0."""
    cpus: int
    """Number of CPUs that the job named (`options(cpus=N)`); otherwise the slot's share of its machine's, or (on
    several nodes) those of one task."""
    gpus: tuple[int | str, ...]
    """Its devices, by index or UUID. On a worker that shares no GPUs out: those that CUDA_VISIBLE_DEVICES names."""
    memory: int | None
    """Bytes that the job named (`options(memory=...)`); None: it named none."""
    resources: dict[str, int] = field(hash=False)
    """Amounts that the job named (`options(resources=...)`), by name."""
    nodes: tuple[str, ...]
    """Its machines (`options(nodes=N)`), this one first."""
    hostfile: str | None
    """File that names them, once for each process that has room there, as mpirun reads it; None: it has only this
    machine."""
    seed: int
    """Seed of 128 bits for numpy.random.default_rng(seed) or random.Random(seed). It differs for each call, and is the
    same when the call is tried again; also in another run of the program, if the client was made with a `seed`."""
    _ends: float = field(repr=False)

    def time_left(self) -> float:
        """Return the seconds until the job is stopped, by its own `timeout` or at its worker's end; math.inf: no end is
        known."""
        return max(0.0, self._ends - time.monotonic())


def current_job() -> CurrentJob | None:
    """Return the job that runs in this process, in any of its threads; None if there is none.

    Also None in processes that a job starts or forks: they would all use the same seed.
    """
    job = running
    if job is None or os.getpid() != _pid:
        return None
    _, number_of_function, _, attempt, number, payload = job
    asked = options_of(job)
    timeout, needs = asked.timeout, asked.choices[choices.get(job[0], 0)]
    label = int.from_bytes(payload[-LABEL:], "little")
    place = label
    if chunk is not None:
        results, items = chunk
        done = len(results)
        place += done if items is None else items[min(done, len(items) - 1)]
    elif not label or label & _OWN_ID:
        place = number * PLACE
    seed = int.from_bytes(_digest(session_seed, b"%d" % place), "little")
    ends = min(math.inf if timeout is None else began + timeout, slot.ends if slot.ends >= 0 else math.inf)
    return CurrentJob(
        id=id_of(job),
        name=name_of(number_of_function),
        attempt=attempt,
        host=os.uname().nodename,
        slot=slot.index,
        cpus=slot.cpus,
        gpus=_gpus(os.environ.get("CUDA_VISIBLE_DEVICES", "")) if gpus is None else tuple(map(_device, gpus)),
        memory=needs.memory or None,
        resources=dict(needs.resources),
        nodes=nodes or (os.uname().nodename,),
        hostfile=hostfile,
        seed=seed,
        _ends=ends,
    )


def id_of(job: tuple[Any, ...]) -> int:
    """Return the id of a job of this runner, as CurrentJob has it; `job`: as `running` has it."""
    label = int.from_bytes(job[5][-LABEL:], "little")
    return label ^ _OWN_ID if label & _OWN_ID else int(job[4])


def options_of(job: tuple[Any, ...]) -> JobOptions:
    """Return the options of a job of this runner; `job`: as `running` has it."""
    return options.get(job[2], NO_OPTIONS)


def begin_runner(name_of_function: Callable[[int], str]) -> None:
    """Mark this process as a runner, and set the function that returns functions' names by their numbers."""
    global _pid, name_of
    _pid, name_of = os.getpid(), name_of_function


def label_of_id(jobid: Any) -> int:
    """Return the label of a job with an id of the caller's own. (Only an int of up to 63 bits travels.)"""
    jobid = -1 if isinstance(jobid, (str, bytes, tuple)) else int(jobid)
    return _OWN_ID | jobid if 0 <= jobid < _OWN_ID else 0


def seed_of_session(seed: Any) -> bytes:
    """Return the seed of a new client's jobs: the user's; in a job, made of the job's seed and the number of clients
    made before; otherwise a random one. Raises TypeError."""
    global _clients
    if seed is not None:
        return _digest(b"session", explicit(seed))
    job = current_job()
    if job is None or running is None:
        return os.urandom(16)
    call = running[0], job.seed
    count = _clients[1] + 1 if _clients[0] == call else 1
    _clients = call, count
    return _digest(job.seed.to_bytes(16, "little"), b"%d" % count)


def explicit(seed: Any) -> bytes:
    """Convert a seed that the user gave to bytes. Raises TypeError."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):  # numpy's integers are no ints
        raise TypeError(f"seed must be an int, not {seed!r}")
    return b"%d" % seed.__index__()


def _digest(key: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=16).digest()


def _device(name: str) -> int | str:
    return int(name) if name.isascii() and name.isdigit() else name


@functools.lru_cache(maxsize=8)
def _gpus(devices: str) -> tuple[int | str, ...]:
    found: list[int | str] = []
    for device in map(str.strip, devices.split(",")):
        if (device.isascii() and device.isdigit()) or device.startswith(("GPU-", "MIG-")):
            found.append(_device(device))
        else:
            break  # as CUDA does: '-1', for example, hides it and what follows
    return tuple(found)
