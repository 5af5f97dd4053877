"""Which devices a job gets, and which idle runners must end before it starts.

A runner without work may still hold memory of its devices: libraries keep it until the process ends. So an idle runner
holds the share of its last job; where another job needs that, the runner is ended first.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cw.named_tuple import NamedTuple
from cw.worker.policy.allocation import Allocation, Room, count_and_share, of_device
from cw.worker.policy.pool import PooledRunner


class Grant(NamedTuple):
    """Devices for a job."""

    devices: tuple[str, ...]
    is_free: bool
    """The job may start: no idle process holds memory that it needs."""
    ends: list[PooledRunner]
    """Idle runners to end, which hold it."""


def grant(allocation: Allocation, room: Room, gpus: int, own: Sequence[PooledRunner] = ()) -> Grant | None:
    """Choose devices for a job. `own`: idle runners that could run it. None: not enough is free."""
    count, share = count_and_share(gpus)
    free = {name: room.free[of_device(name)] for name in allocation.devices}
    usable = [name for name in allocation.devices if free[name] >= share]
    if len(usable) < count:
        return None
    # The fullest, so that whole devices stay free for those who need them: the master counts on that, too.
    usable.sort(key=lambda name: free[name])
    fullest = [free[name] for name in usable[:count]]
    for runner in own:
        devices = runner.context[3]
        if sorted(free[name] for name in devices) == fullest:
            found = _with_ends(allocation, devices, free, share, runner)
            if found.is_free:
                return found
    held = {name: sum(map(_share, allocation.holders(name))) for name in usable}
    usable.sort(key=lambda name: (free[name], held[name] + share > free[name]))
    chosen = set(usable[:count])
    devices = tuple(name for name in allocation.devices if name in chosen)
    same = next((runner for runner in own if runner.context[3] == devices), None)
    return _with_ends(allocation, devices, free, share, same)


def claimed(allocation: Allocation, room: Room, gpus: int) -> tuple[str, ...]:
    """Choose the devices on which a job waits for its share: those with most free, as nothing more starts there."""
    count, _ = count_and_share(gpus)
    return tuple(sorted(allocation.devices, key=lambda name: -room.free[of_device(name)])[:count])


def _with_ends(
    allocation: Allocation,
    devices: tuple[str, ...],
    free: Mapping[str, int],
    share: int,
    own: PooledRunner | None,
) -> Grant:
    is_free = True
    ends: list[PooledRunner] = []
    for name in devices:
        holders = [runner for runner in allocation.holders(name) if runner is not own]
        lacking = share + sum(map(_share, holders)) - free[name]
        is_free = is_free and lacking <= 0
        lacking -= sum(_share(runner) for runner in holders if runner.is_ending or runner in ends)
        for runner in holders:
            if lacking > 0 and not runner.is_ending and runner not in ends:
                ends.append(runner)
                lacking -= _share(runner)
    return Grant(devices, is_free, ends)


def _share(runner: PooledRunner) -> int:
    """Share of each of its devices that a runner holds without a job: that of its last job."""
    return count_and_share(runner.needs.gpus)[1]
