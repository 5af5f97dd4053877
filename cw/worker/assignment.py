"""Assignment: which waiting job goes to which slot, and how many jobs are sent ahead to a runner.

                   idle slots: the first job that can use one, where it has a runner if possible
     backlog ----> lent slots: the first job of a session that is deep enough
                   busy ones:  what comes next, as much as the runner needs for AHEAD_SECONDS

Where runners cannot be started, it also decides which slots can be used, and reports that to the master.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from cw.worker.actions import Action, EndRunner, ReportCapacity, SendJobs, StartRunner, returned
from cw.worker.jobs import Context, HeldJobs
from cw.worker.lending import Lending
from cw.worker.pool import AHEAD_JOBS, STUCK_SECONDS, PooledRunner, RunnerPool, Slot

AHEAD_SECONDS = 0.03
"""Work sent ahead to a runner (seconds). Larger: more jobs to retract. Smaller: the runner waits for the worker."""

AHEAD_BYTES = 4 * 1024**2
"""Most bytes sent ahead to a runner."""


class Assignment:
    """Gives the jobs of a backlog to the slots of a pool. `max_jobs`: most jobs sent to one runner; 0: any number."""

    def __init__(self, held: HeldJobs, pool: RunnerPool, lending: Lending, max_jobs: int = 0) -> None:
        self._held = held
        self._pool = pool
        self._lending = lending
        self._max_jobs = max_jobs
        self._reported_total = len(pool.slots)

    def assign(self, now: float) -> list[Action]:
        """Give waiting jobs to idle slots, then send jobs ahead."""
        held, pool = self._held, self._pool
        actions: list[Action] = []
        while held.backlog and pool.idle:
            found = self._next_pair(now)
            if found is None:
                break
            position, slot = found
            actions += self._give(position, slot, now)
        if held.backlog and self._lending.lent and self._lending.depths:
            for slot in list(self._lending.lent.values()):
                deep = self._find_for_lent(slot, now)
                if deep is not None:
                    actions += self._give(deep, slot, now)
        if held.backlog and not pool.idle:
            for slot in pool.slots:
                if slot.busy is not None:
                    actions += self.top_up(slot.busy, now)
                    if not held.backlog:
                        break
        return actions + self._lending.report()

    def top_up(self, runner: PooledRunner, now: float) -> list[Action]:
        """Send ahead the jobs that the runner will need soon."""
        backlog, sent = self._held.backlog, runner.sent
        if not backlog or runner.is_ending or runner.is_dropping or not sent or self._pool.idle:
            return []
        if runner.slot.index in self._lending.wanted:
            return []
        if now - runner.since > STUCK_SECONDS or sent[-1].stopped or sent[0].expired:
            return []  # its job runs longer than estimated, or must end
        job = backlog[0]
        seconds = job.function.estimate.seconds
        if job.context != runner.context or seconds > AHEAD_SECONDS or job.excluded_slot is not None:
            return []
        if not job.function.is_ready():
            return []
        full = min(AHEAD_JOBS, int(AHEAD_SECONDS / (seconds + 1e-9)) + 1)
        if len(sent) > max(2, full // 2):
            return []  # a full frame later costs less than a few jobs now
        if self._max_jobs:
            full = min(full, self._max_jobs - runner.ended)
        share = -(-len(backlog) // len(self._pool.slots))
        return self._send_ahead(runner, min(full - len(sent), share))

    def _send_ahead(self, runner: PooledRunner, most: int) -> list[Action]:
        backlog, jobs, size = self._held.backlog, [], 0
        for _ in range(most):
            job = backlog[0]
            size += len(job.payload)
            if job.context != runner.context or job.excluded_slot is not None or size > AHEAD_BYTES:
                break
            if job.function.estimate.seconds > AHEAD_SECONDS or not job.function.is_ready():
                break
            jobs.append(backlog.popleft())
        runner.sent.extend(jobs)
        return [SendJobs(runner, jobs)] if jobs else []

    def _give(self, position: int, slot: Slot, now: float) -> list[Action]:
        """Give the job at this position of the backlog to a slot that runs none."""
        pool, backlog = self._pool, self._held.backlog
        actions: list[Action] = []
        job = backlog[position]
        del backlog[position]
        runner = slot.runners.pop(job.context, None)
        if runner is None:
            actions += [EndRunner(other) for other in pool.make_room(slot, job.context)]
            runner = pool.add(slot, job.context)
            actions.append(StartRunner(runner, job.function.environment))
        slot.runners[job.context] = runner
        slot.busy = runner
        pool.idle.pop(slot.index, None)
        self._lending.lent.pop(slot.index, None)
        runner.since = now
        runner.sent.append(job)
        actions.append(SendJobs(runner, [job]))
        return actions

    def _next_pair(self, now: float) -> tuple[int, Slot] | None:
        """Find the first waiting job that a slot can run, and the slot; prefer a slot with a runner for it."""
        slots = self._pool.idle.values()
        is_choosy = len(self._pool.slots) > 1
        hopeless: set[Context] = set()  # contexts for which no slot can be used now
        for position, job in enumerate(self._held.backlog):
            if job.context in hopeless or not job.function.is_ready():
                continue
            best = None
            for slot in slots:
                if slot.index == job.excluded_slot and is_choosy:
                    continue
                runner = slot.runners.get(job.context)
                if runner is None:
                    best = best or (slot if slot.backoff_until <= now else None)
                elif not runner.is_dropping:
                    return position, slot
            if best is not None:
                return position, best
            if job.excluded_slot is None:
                hopeless.add(job.context)
        return None

    def _find_for_lent(self, slot: Slot, now: float) -> int | None:
        """Find the position of the first waiting job that may use this lent slot now."""
        lending, is_choosy = self._lending, len(self._pool.slots) > 1
        floor = lending.floor(slot)
        # One process for each depth, no more: an ending runner must be gone before the next one starts.
        can_start = slot.backoff_until <= now and not any(
            runner.is_ending and runner.slot is slot for runner in self._pool.runners.values()
        )
        for position, job in enumerate(self._held.backlog):
            if lending.depth(job.session) <= floor or (slot.index == job.excluded_slot and is_choosy):
                continue
            if not job.function.is_ready():
                continue
            runner = slot.runners.get(job.context)
            if can_start if runner is None else not runner.is_dropping:
                return position
        return None

    # --- where runners cannot be started ---

    def begin_anew(self) -> None:
        """Start over with another master, which assumes that all slots can be used."""
        self._reported_total = len(self._pool.slots)

    def report_capacity(self) -> list[Action]:
        """Report the usable slots to the master if they have changed; return the jobs that would wait for one."""
        held, pool = self._held, self._pool
        can_start = len(pool.slots) - len(pool.backing_off)
        total = can_start + sum(bool(slot.runners) for slot in pool.backing_off)
        blocked: frozenset[int] = frozenset()
        if not can_start:
            contexts = {context for slot in pool.slots for context in slot.runners}
            blocked = frozenset(job.session for job in held.backlog if job.context not in contexts)
            blocked |= held.blocked - {session for session, _ in contexts}
        actions: list[Action] = []
        if (total, blocked) != (self._reported_total, held.blocked):
            self._reported_total = total
            actions.append(ReportCapacity(total, sorted(blocked)))
        return actions + returned(held.block(blocked))
