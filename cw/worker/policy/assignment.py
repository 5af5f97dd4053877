"""Assignment: which waiting job goes to which slot, and how many jobs are sent ahead to a runner.

                   idle slots: the first job that can use one, where it has a runner if possible
     backlog ----> lent slots: the first job of a session that is deep enough
                   busy ones:  what comes next, as much as the runner needs for AHEAD_SECONDS

While a job is here that needs more than one CPU, cw.worker.policy.placement finds job and slot.

Where runners cannot be started, it also decides which slots can be used, and reports that to the master.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from cw.worker.policy.actions import Action, EndRunner, ReportCapacity, SendJobs, StartRunner, returned
from cw.worker.policy.allocation import Allocation
from cw.worker.policy.jobs import Context, HeldJobs
from cw.worker.policy.lending import Lending
from cw.worker.policy.placement import Placement
from cw.worker.policy.pool import AHEAD_JOBS, STUCK_SECONDS, PooledRunner, RunnerPool, Slot

AHEAD_SECONDS = 0.03
"""Work sent ahead to a runner (seconds). Larger: more jobs to retract. Smaller: the runner waits for the worker."""

AHEAD_BYTES = 4 * 1024**2
"""Most bytes sent ahead to a runner."""


class Assignment:
    """Gives the jobs of a backlog to the slots of a pool. `max_jobs`: most jobs sent to one runner; 0: any number."""

    def __init__(
        self, held: HeldJobs, pool: RunnerPool, lending: Lending, allocation: Allocation, max_jobs: int = 0
    ) -> None:
        self._held = held
        self._pool = pool
        self._lending = lending
        self._allocation = allocation
        self._placement = Placement(held, pool, lending, allocation)
        self._max_jobs = max_jobs
        self._reported_total = len(pool.slots)

    def assign(self, now: float) -> list[Action]:
        """Give waiting jobs to idle slots, then send jobs ahead."""
        held = self._held
        if not held.is_shaped:
            actions = self._assign_plain(now)
            if not self._pool.idle:
                actions += self._top_up_all(now)
            return actions + self._lending.report()
        actions = self._lending.bring_back()
        actions += self._assign_shaped(now)
        before = len(held.backlog)
        actions += self._top_up_all(now)
        if len(held.backlog) < before:  # what waited behind the jobs that are ahead now may fit
            actions += self._assign_shaped(now)
        return actions + self._lending.report()

    def _assign_shaped(self, now: float) -> list[Action]:
        """Give waiting jobs to slots where there is room for what they need."""
        actions: list[Action] = []
        while self._held.backlog:
            start = self._placement.find(now)
            ends, self._placement.ends = self._placement.ends, []
            for runner in ends:
                self._pool.retire(runner)
                actions.append(EndRunner(runner))
            if start is None:
                break
            actions += self._give(start.position, start.slot, now, start.devices)
        return actions

    def _assign_plain(self, now: float) -> list[Action]:
        """Give waiting jobs to slots, one each: all jobs are of one CPU."""
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
        return actions

    def _top_up_all(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for slot in self._pool.slots:
            if not self._held.backlog:
                break
            if slot.busy is not None:
                actions += self.top_up(slot.busy, now)
        return actions

    def top_up(self, runner: PooledRunner, now: float) -> list[Action]:
        """Send ahead the jobs that the runner will need soon."""
        held, backlog, sent = self._held, self._held.backlog, runner.sent
        if not backlog or runner.is_ending or runner.is_dropping or not sent:
            return []
        if self._pool.idle and not held.is_shaped:  # with shapes, what waits does not fit there
            return []
        wanted = self._lending.wanted
        if wanted and (held.is_shaped or runner.slot.index in wanted):
            return []
        if now - runner.since > STUCK_SECONDS or sent[-1].stopped or sent[0].expired:
            return []  # its job runs longer than estimated, or must end
        job = backlog[0]
        seconds = job.function.estimate.seconds
        if job.context != runner.serves or job.needs is not runner.needs:
            return []
        if seconds > AHEAD_SECONDS or job.excluded_slot is not None:
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
        serves, needs, function = runner.serves, runner.needs, None
        for _ in range(most):
            job = backlog[0]
            size += len(job.payload)
            if job.context != serves or job.needs is not needs or size > AHEAD_BYTES:
                break
            if job.excluded_slot is not None:
                break
            if job.function is not function:
                function = job.function
                if function.estimate.seconds > AHEAD_SECONDS or not function.is_ready():
                    break
            jobs.append(backlog.popleft())
        runner.sent.extend(jobs)
        return [SendJobs(runner, jobs)] if jobs else []

    def _give(self, position: int, slot: Slot, now: float, devices: tuple[str, ...] = ()) -> list[Action]:
        """Give the job at this position of the backlog to a slot that runs none."""
        pool, backlog = self._pool, self._held.backlog
        actions: list[Action] = []
        job = backlog[position]
        del backlog[position]
        context = (*job.context[:3], devices) if devices else job.context
        runner = slot.runners.pop(context, None)
        is_new = runner is None
        if runner is None:
            actions += [EndRunner(other) for other in pool.make_room(slot, context)]
            runner = pool.add(slot, context)
        runner.needs = job.needs
        pinned = self._allocation.pin(runner)
        actions += [StartRunner(runner, job.function.environment)] if is_new else pinned
        slot.runners[context] = runner
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
        can_start = lending.can_start_runner(slot, now)
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
            contexts = {runner.serves for slot in pool.slots for runner in slot.runners.values()}
            blocked = frozenset(job.session for job in held.backlog if job.context not in contexts)
            blocked |= held.blocked - {context[0] for context in contexts}
        actions: list[Action] = []
        if (total, blocked) != (self._reported_total, held.blocked):
            self._reported_total = total
            actions.append(ReportCapacity(total, sorted(blocked)))
        return actions + returned(held.block(blocked))
