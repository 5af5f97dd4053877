"""Which job this process runs: `cw.current_job()`. And the seeds of jobs and clients.

    client: session's seed --- environment ------------------.
            label of the call --- in the call's payload --> runner: `running` --> seed (when somebody asks for it)

A *label* says which call of its session a job is, in 64 bits behind the call's pickle (`serialize.dump_call`), where
they cost nothing on the way:

    0                     the job's number says it: the n-th submit       (ClientThread)
    2**63 + id            the same, and the caller gave the job this id   (ClientThread)
    place * 2**32 + item  of the session's submits and maps this is the one at this place, from 1 on; of a map's calls
                          the one at this item. The label of a chunk is that of its first call   (ClusterExecutor)

So a call's seed depends on neither chunks, slots nor retries. The runner sets what is below, by plain assignments for
each job; what they mean is worked out when somebody asks.
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

PLACE = 1 << 32
"""Between the labels of two submits. (Items of a map beyond that share the seeds of what comes after it.)"""

LABEL = 8
"""Bytes of a label."""

LABELS = (1 << 63) - 1
"""The highest label of a place: the places begin anew after two thousand million."""

_OWN_ID = 1 << 63

running: tuple[Any, ...] | None = None
"""In a runner: the fields of its job in `messages.Run`. Else None."""

began = 0.0
"""When it began, as time.monotonic() has it."""

chunk: tuple[list[Any], Sequence[int] | None] | None = None
"""If that job is a chunk: the results so far; and which item each call is, counted from the first call's, where they do
not follow each other."""

name_of: Callable[[int], str] = str
"""The name of a function, by its number."""

is_interrupted = False
"""Has it got a SIGINT, by which cw tells a job to end?"""

clear_timers: Callable[[], None] | None = None
"""What stops the timers that a call has set; None if it has set none."""

slot = m.Slot(0, 1, -1.0)
session_seed = b""

_pid = 0  # the runner's: a process that a job forks is another one, and runs no job
_clients: tuple[tuple[int, int] | None, int] = None, 0  # made by which call; how many


@dataclass(frozen=True)
class CurrentJob:
    """What `cw.current_job()` tells a job of itself. The call of a chunk is told of itself, too."""

    id: int
    """What `ClientThread.submit` returned; with ClusterExecutor, the job's number in messages. A chunk has one."""
    name: str
    """The function's."""
    attempt: int
    """1, or more if a runner or worker was lost with it."""
    host: str
    slot: int
    """Of its worker, from 0 on."""
    cpus: int
    """CPUs of the slot."""
    gpus: tuple[int | str, ...]
    """What CUDA_VISIBLE_DEVICES names."""
    seed: int
    """128 bits, for numpy.random.default_rng(seed) or random.Random(seed): another for each call, the same when the
    call is tried again; and in another run of the program, if the client was made with a `seed`."""
    _ends: float = field(repr=False)

    def time_left(self) -> float:
        """Seconds until it is stopped: by its own `timeout`, or since its worker's time is up. math.inf: no end is
        known."""
        return max(0.0, self._ends - time.monotonic())


def current_job() -> CurrentJob | None:
    """The job that runs in this process, in any of its threads; None where none does.

    None in processes that a job starts, too, also by fork: they would all take the same seed for theirs.
    """
    job = running
    if job is None or os.getpid() != _pid:
        return None
    _, number_of_function, attempt, limit, number, payload = job
    label = int.from_bytes(payload[-LABEL:], "little")
    place = label
    if chunk is not None:
        results, items = chunk
        done = len(results)
        place += done if items is None else items[min(done, len(items) - 1)]
    elif not label or label & _OWN_ID:
        place = number * PLACE
    seed = int.from_bytes(_digest(session_seed, b"%d" % place), "little")
    ends = min(began + limit if limit else math.inf, slot.ends if slot.ends >= 0 else math.inf)
    return CurrentJob(
        id=label ^ _OWN_ID if label & _OWN_ID else number,
        name=name_of(number_of_function),
        attempt=attempt,
        host=os.uname().nodename,
        slot=slot.index,
        cpus=slot.cpus,
        gpus=_gpus(os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        seed=seed,
        _ends=ends,
    )


def begin_runner(name_of_function: Callable[[int], str]) -> None:
    """This process is a runner from now on. It knows the functions' names by their numbers."""
    global _pid, name_of
    _pid, name_of = os.getpid(), name_of_function


def label_of_id(jobid: Any) -> int:
    """The label of a job with an id of the caller's own. (One beyond 63 bits does not travel.)"""
    jobid = int(jobid)
    return _OWN_ID | jobid if 0 <= jobid < _OWN_ID else 0


def seed_of_session(seed: Any) -> bytes:
    """What a new client's jobs make their seeds of: the seed that its user gave; else in a job, that of the job and of
    the n-th client that it makes; else a random one. Raises TypeError."""
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
    """A seed that the user gave, as bytes. Raises TypeError."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):  # (numpy's integers are no ints)
        raise TypeError(f"seed must be an int, not {seed!r}")
    return b"%d" % seed.__index__()


def _digest(key: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=16).digest()


@functools.lru_cache(maxsize=8)
def _gpus(devices: str) -> tuple[int | str, ...]:
    found: list[int | str] = []
    for device in map(str.strip, devices.split(",")):
        if device.isascii() and device.isdigit():
            found.append(int(device))
        elif device.startswith(("GPU-", "MIG-")):
            found.append(device)
        else:
            break  # as CUDA does: '-1', say, hides it and what comes after it
    return tuple(found)
