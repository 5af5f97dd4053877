"""Pins: the CPUs, by number, on which each runner runs (`--pin`).

CPUs of running jobs are never those of another. Those of jobs that wait for nested jobs are taken last: the job gets
others if it comes back and they are in use.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from cw.worker.policy.pool import PooledRunner, RunnerPool

Choose = Callable[[int, Collection[int], Sequence[int]], tuple[int, ...]]
"""(how many, which are free, those of before) -> CPUs; () if there are too few."""


class Pins:
    """The CPUs of one worker's runners. `cpus`: all that there are; `lenders`: runners whose jobs wait, by slot."""

    def __init__(
        self,
        pool: RunnerPool,
        lenders: Mapping[int, Sequence[PooledRunner]],
        cpus: Collection[int],
        choose: Choose,
    ) -> None:
        self._pool = pool
        self._lenders = lenders
        self._cpus = frozenset(cpus)
        self._choose = choose

    def pin(self, runner: PooledRunner) -> bool:
        """Give a runner that is about to run jobs its CPUs. Returns whether they are others than before."""
        busy = (slot.busy for slot in self._pool.slots if slot.busy is not None and slot.busy is not runner)
        free = self._cpus.difference(*(other.cpus for other in busy))
        waiting = (other for lenders in self._lenders.values() for other in lenders if other is not runner)
        best = free.difference(*(other.cpus for other in waiting))
        before, count = runner.cpus, runner.needs.cpus
        runner.cpus = self._choose(count, best if len(best) >= count else free, before)
        return runner.cpus != before

    def check_invariants(self) -> None:
        """Raise AssertionError if two jobs run on one CPU. For tests."""
        busy = [slot.busy for slot in self._pool.slots if slot.busy is not None]
        used = [cpu for runner in busy for cpu in runner.cpus]
        assert len(used) == len(set(used))
        assert all(len(runner.cpus) in (0, runner.needs.cpus) for runner in busy)
