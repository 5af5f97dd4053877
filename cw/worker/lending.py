"""A worker's policy, its part about jobs that wait for jobs of their own: they lend their slot, and get it back next.

                  on_waits                    on_wait_over
     RUNNING ------------------> LENDS ------------------------> COMES BACK
        ^   (what was sent ahead   |   (what was sent ahead to     |
        |    to it is taken back)  |    who has the slot: the same)|
        '--------------------------+-------------------------------'
             Resume: when the slot runs nothing, before any other job; or when another slot is idle, in that

A slot has a job that runs, or none, and any number of *lenders*: jobs that wait or come back. It is lent to sessions
that are deeper than each of those that wait (`floor`; see cw.nested), so that there is one for each depth. A job whose
time to wait was over has gone on already: it comes back as the others do, but is sent no Resume.

What a slot holds beyond one job does not count against the worker's slots at the master (`extra`); what is lent and
free is told with its floor.
"""

from __future__ import annotations

from cw.worker import slots
from cw.worker.slots import AHEAD_JOBS, Action, Resume, Retract, Runner, Slot, TellLent


class Slots(slots.Slots):
    """The policy of one worker."""

    def __init__(self, count: int, max_jobs: int = 0) -> None:
        super().__init__(count, max_jobs)
        self._depths: dict[int, int] = {}  # of sessions, where not 0
        self._lenders: dict[int, list[Runner]] = {}  # by slot, where there are any
        self._coming: dict[Runner, int] = {}  # those that come back, in order: serial; 0: it goes on
        self._told_lent: tuple[int, list[int]] = 0, []

    # --- from the master, and from the runners ---

    def on_depth(self, session: int, depth: int) -> None:
        """How deep a session is that is about to come."""
        self._depths[session] = depth

    def depth(self, session: int) -> int:
        return self._depths.get(session, 0)

    def on_joined(self) -> list[Action]:
        actions = super().on_joined()
        self._told_lent = 0, []
        return actions + self._tell_lent()

    def on_waits(self, runner: Runner, dispatch: int, now: float) -> list[Action]:
        """The runner's job waits for jobs of its own."""
        if runner.is_ending or not runner.sent or runner.sent[0].dispatch != dispatch:
            return []
        slot = runner.slot
        lenders = self._lenders.setdefault(slot.index, [])
        if runner not in lenders:
            lenders.append(runner)
        elif self._coming.pop(runner, None) is None:
            return []  # it is told again
        self._note_wanted()
        actions: list[Action] = []
        if slot.busy is runner:
            if len(runner.sent) > 1:
                actions.append(Retract(runner, len(runner.sent) - 1))
            slot.busy = None
        if slot.busy is None:
            actions += self._settle(slot)
        return actions + self._assign(now)

    def on_wait_over(self, runner: Runner, serial: int, is_patient: bool, now: float) -> list[Action]:
        """It has what it waited for, and waits for its turn (`is_patient`); or it goes on at once."""
        if runner in self._coming:
            self._coming[runner] = serial if is_patient else 0
            return []
        if not self._is_lender(runner):
            return [Resume(runner, serial)] if is_patient else []
        return self._come_back(runner, serial if is_patient else 0) + self._assign(now)

    # --- time ---

    def on_tick(self, now: float) -> list[Action]:
        actions = super().on_tick(now)
        floors = [self._floor(slot) for slot in self._lent.values() if slot.rests_until <= now]
        if floors and self._depths:
            for runner in self._runners.values():
                if self.depth(runner.session) > min(floors) and self._is_stuck(runner, now):
                    actions += self._retract_tail(runner)
        return actions

    def on_second(self, now: float) -> list[Action]:
        forgotten = set(self._forgotten)
        actions = super().on_second(now)
        for session in forgotten - self._forgotten:
            self._depths.pop(session, None)
        return actions

    # --- inside ---

    def _come_back(self, runner: Runner, serial: int) -> list[Action]:
        self._coming[runner] = serial
        self._note_wanted()
        busy = runner.slot.busy
        if busy is None:
            return self._settle(runner.slot)
        if self._idle:
            return self._settle(next(iter(self._idle.values())))
        return [] if busy.is_ending else [Retract(busy, AHEAD_JOBS)]

    def _settle(self, slot: Slot) -> list[Action]:
        """The slot runs nothing: it is its next lender's that comes back, or lent, or idle."""
        self._idle.pop(slot.index, None)
        self._lent.pop(slot.index, None)
        runner = next((runner for runner in self._coming if runner.slot is slot), None)
        if runner is None and self._coming and slot.index not in self._lenders:
            runner = next(iter(self._coming))
            self._move(runner, slot)
        if runner is None:
            (self._lent if slot.index in self._lenders else self._idle)[slot.index] = slot
            return []
        self._remove_lender(runner)
        slot.busy = runner
        serial = self._coming.pop(runner)
        self._note_wanted()
        return [Resume(runner, serial)] if serial else []

    def _move(self, runner: Runner, slot: Slot) -> None:
        """Have a job that comes back go on in an idle slot, while another one runs in its own."""
        old, context = runner.slot, runner.context
        self._remove_lender(runner)
        self._lenders[slot.index] = [runner]
        runner.slot = slot
        if old.runners.get(context) is runner:  # (else it is ending)
            del old.runners[context]
            idle = slot.runners.pop(context, None)
            if idle is not None:  # the runner that it has there: it changes places
                idle.slot = old
                old.runners[context] = idle
            slot.runners[context] = runner

    def _vacate(self, runner: Runner) -> list[Action]:
        slot = runner.slot
        if not self._lenders:
            return super()._vacate(runner)
        if self._is_lender(runner):  # it ended without its turn
            self._remove_lender(runner)
            self._coming.pop(runner, None)
            self._note_wanted()
            return self._settle(slot) if slot.busy is None else []
        if slot.busy is not runner:
            return []
        slot.busy = None
        return self._settle(slot)

    def _remove_lender(self, runner: Runner) -> None:
        lenders = self._lenders[runner.slot.index]
        lenders.remove(runner)
        if not lenders:
            del self._lenders[runner.slot.index]

    def _assign(self, now: float) -> list[Action]:
        actions = super()._assign(now)
        if self._lenders or any(self._told_lent):
            actions += self._tell_lent()
        return actions

    def _assign_lent(self, now: float) -> list[Action]:
        """Give waiting jobs of deep sessions to the slots that are lent."""
        actions: list[Action] = []
        if not self._depths:
            return actions
        for slot in list(self._lent.values()):
            position = self._find_for(slot, now)
            if position is not None:
                actions += self._give(position, slot, now)
        return actions

    def _find_for(self, slot: Slot, now: float) -> int | None:
        """The position of the first waiting job that may use this slot, which is lent, now."""
        floor = self._floor(slot)
        # A process for each depth, and not one more: what ends is gone before the next one starts.
        can_start = slot.rests_until <= now and not any(
            runner.is_ending and runner.slot is slot for runner in self._runners.values()
        )
        for position, job in enumerate(self._backlog):
            if self.depth(job.session) <= floor or (slot.index == job.avoid and len(self.slots) > 1):
                continue
            runner = slot.runners.get(job.context)
            if can_start if runner is None else not runner.is_dropping:
                return position
        return None

    def _stop_if_running(self, runner: Runner) -> list[Action]:
        actions = super()._stop_if_running(runner)
        if actions and self._is_lender(runner) and runner not in self._coming:
            actions += self._come_back(runner, 0)  # it may clean up, and does not wait for its turn
        return actions

    def _at_work(self) -> list[Runner]:
        runners = super()._at_work()
        if self._lenders:
            runners += [runner for lenders in self._lenders.values() for runner in lenders if runner.sent]
        return runners

    def _is_lender(self, runner: Runner) -> bool:
        return runner in self._lenders.get(runner.slot.index, ())

    def _floor(self, slot: Slot) -> int:
        return max(self.depth(runner.session) for runner in self._lenders[slot.index])

    def _note_wanted(self) -> None:
        self._wanted = {runner.slot.index for runner in self._coming}

    def _tell_lent(self) -> list[Action]:
        extra = sum(
            len(lenders) - (self.slots[index].busy is None) for index, lenders in self._lenders.items()
        )
        floors = sorted(self._floor(slot) for slot in self._lent.values())
        if (extra, floors) == self._told_lent:
            return []
        self._told_lent = extra, floors
        return [TellLent(extra, floors)]

    def check_invariants(self) -> None:
        super().check_invariants()
        for index, lenders in self._lenders.items():
            slot = self.slots[index]
            assert lenders and all(runner.slot is slot and slot.busy is not runner for runner in lenders)
            assert slot.index not in self._idle
            assert slot.busy is not None or not any(runner in self._coming for runner in lenders)
        for runner in self._coming:
            assert self._is_lender(runner) and not self._idle, "who comes back is next"
        assert all(slot.index in self._lenders for slot in self._lent.values())
        assert self._wanted == {runner.slot.index for runner in self._coming}
