"""Lending: which slots are lent while their jobs wait for nested jobs, and how these jobs get a slot back.

                  on_waits                    on_wait_over
     RUNNING ------------------> LENDS ------------------------> COMES BACK
        ^   (what was sent ahead   |   (what was sent ahead to     |
        |    to it is taken back)  |    the slot's user: likewise) |
        '--------------------------+-------------------------------'
             Resume: when the slot runs nothing, before any other job; or when another slot is idle, in that

A slot is lent with all that its job takes of the worker (cw.worker.policy.allocation), and a job comes back when that
is free. Until then its slot is kept for it.

A slot has one running job or none, and any number of *lenders*: jobs that wait or come back. It is lent to sessions
deeper than those of all its lenders (`floor`; see cw.nested), so that there is one for each depth. A job whose
wait timed out has gone on already: it comes back as the others do, but is sent no Resume.

Jobs on a slot beyond the first do not count against the worker's slots at the master (`extra`). Slots that are lent
and free are reported with their floors.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from cw.net import messages as m
from cw.worker.policy.actions import Action, Resume, Retract, Send
from cw.worker.policy.allocation import Allocation, used_by
from cw.worker.policy.pool import AHEAD_JOBS, PooledRunner, RunnerPool, Slot


class Lending:
    """Slots of a pool that jobs have lent while they wait, and the way back to them."""

    def __init__(self, pool: RunnerPool, allocation: Allocation) -> None:
        self.lent: dict[int, Slot] = {}
        """Free slots that waiting jobs have lent."""
        self.wanted: set[int] = set()
        """Slots to which a job comes back."""
        self.depths: dict[int, int] = {}
        """Depth of each session whose depth is not 0."""
        self._pool = pool
        self._allocation = allocation
        self._lenders = allocation.lenders
        self._coming: dict[PooledRunner, int] = {}  # coming back, in order: serial; 0: it has gone on already
        self._reported: tuple[int, list[int]] = 0, []

    # --- questions ---

    def is_lender(self, runner: PooledRunner) -> bool:
        """True if the runner's job waits, or comes back."""
        return runner in self._lenders.get(runner.slot.index, ())

    def is_coming(self, runner: PooledRunner) -> bool:
        """True if the runner's job comes back."""
        return runner in self._coming

    def coming(self) -> list[PooledRunner]:
        """List the runners whose job comes back, in order."""
        return list(self._coming)

    def can_start_runner(self, slot: Slot, now: float) -> bool:
        """True if a runner may start on this lent slot now. One process for each depth, no more: an ending runner must
        be gone before the next one starts."""
        return slot.backoff_until <= now and not any(
            runner.is_ending and runner.slot is slot for runner in self._pool.runners.values()
        )

    def lenders(self) -> list[PooledRunner]:
        """List all runners whose job waits or comes back."""
        return [runner for lenders in self._lenders.values() for runner in lenders]

    def depth(self, session: int) -> int:
        """Return the depth of a session."""
        return self.depths.get(session, 0)

    def floor(self, slot: Slot) -> int:
        """Return the depth that a session must exceed to use this lent slot."""
        return max(self.depth(runner.session) for runner in self._lenders[slot.index])

    # --- a job waits, and comes back ---

    def lend(self, runner: PooledRunner) -> list[Action] | None:
        """Lend the slot of a runner whose job waits for nested jobs. None: it was lent already."""
        slot = runner.slot
        lenders = self._lenders.setdefault(slot.index, [])
        if runner not in lenders:
            lenders.append(runner)
        elif self._coming.pop(runner, None) is None:
            return None
        self._note_wanted()
        actions: list[Action] = []
        if slot.busy is runner:
            if len(runner.sent) > 1:
                actions.append(Retract(runner, len(runner.sent) - 1))
            slot.busy = None
        if slot.busy is None:
            actions += self._settle(slot)
        return actions

    def come_back(self, runner: PooledRunner, serial: int) -> list[Action]:
        """Let a lender's job go on when it is its turn. `serial`: number of its wait; 0: the job has gone on
        already."""
        if runner in self._coming:
            self._coming[runner] = serial
            return []
        self._coming[runner] = serial
        self._note_wanted()
        busy = runner.slot.busy
        if busy is None:
            return self._settle(runner.slot)
        if self._pool.idle:
            return self._settle(next(iter(self._pool.idle.values())))
        return [] if busy.is_ending else [Retract(busy, AHEAD_JOBS)]

    def vacate(self, runner: PooledRunner) -> list[Action]:
        """Free the slot of a runner that is gone or has no job any more."""
        slot = runner.slot
        if self._lenders and self.is_lender(runner):  # it ended before its turn
            self._remove_lender(runner)
            self._coming.pop(runner, None)
            self._note_wanted()
            return self._settle(slot) if slot.busy is None else []
        if slot.busy is not runner:
            return []
        slot.busy = None
        if self._lenders:
            return self._settle(slot)
        self._pool.idle[slot.index] = slot
        return []

    def _settle(self, slot: Slot) -> list[Action]:
        """Give a slot that runs nothing to its next lender, lend it, or make it idle."""
        self._pool.idle.pop(slot.index, None)
        self.lent.pop(slot.index, None)
        runner = self._next_for(slot) if self._coming else None
        if runner is None:
            if slot.index not in self._lenders:
                self._pool.idle[slot.index] = slot
            elif slot.index not in self.wanted:
                self.lent[slot.index] = slot
            return []
        if runner.slot is not slot:
            self._move(runner, slot)
        self._remove_lender(runner)
        slot.busy = runner
        serial = self._coming.pop(runner)
        self._note_wanted()
        actions = self._allocation.pin(runner)
        return [*actions, Resume(runner, serial)] if serial else actions

    def _next_for(self, slot: Slot) -> PooledRunner | None:
        """Find the job that comes back to this slot, which runs nothing: its own, or, where none has lent it, any whose
        own slot is in use."""
        room = self._allocation.room_for_all()
        for runner in sorted(self._coming, key=lambda runner: runner.slot is not slot):
            vector = used_by(runner)
            may_move = slot.index not in self._lenders and runner.slot.busy is not None
            if room.has(vector) and (runner.slot is slot or may_move):
                return runner
            room.claim(vector)
        return None

    def bring_back(self) -> list[Action]:
        """Let jobs go on that come back and for which there was no room before."""
        actions: list[Action] = []
        for runner in self.coming():
            if runner in self._coming and runner.slot.busy is None:
                actions += self._settle(runner.slot)
        for slot in list(self._pool.idle.values()):
            if self._coming:
                actions += self._settle(slot)
        return actions

    def _move(self, runner: PooledRunner, slot: Slot) -> None:
        """Move a job that comes back to an idle slot, as another job runs in its own."""
        old, context = runner.slot, runner.context
        self._remove_lender(runner)
        self._lenders[slot.index] = [runner]
        runner.slot = slot
        if old.runners.get(context) is runner:  # otherwise it is ending
            del old.runners[context]
            idle = slot.runners.pop(context, None)
            if idle is not None:  # its idle runner there changes places with this one
                idle.slot = old
                old.runners[context] = idle
            slot.runners[context] = runner

    def _remove_lender(self, runner: PooledRunner) -> None:
        lenders = self._lenders[runner.slot.index]
        lenders.remove(runner)
        if not lenders:
            del self._lenders[runner.slot.index]

    def _note_wanted(self) -> None:
        self.wanted = {runner.slot.index for runner in self._coming}

    # --- the master ---

    def begin_anew(self) -> None:
        """Start over with another master, which knows of no lent slots."""
        self._reported = 0, []

    def report(self) -> list[Action]:
        """Report lent slots to the master if they have changed."""
        if not self._lenders and not self._reported[0] and not self._reported[1]:
            return []
        slots = self._pool.slots
        extra = sum(len(lenders) - (slots[index].busy is None) for index, lenders in self._lenders.items())
        floors = sorted(self.floor(slot) for slot in self.lent.values())
        if (extra, floors) == self._reported:
            return []
        self._reported = extra, floors
        return [Send(m.Lent(extra, floors))]

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        for index, lenders in self._lenders.items():
            slot = self._pool.slots[index]
            assert lenders and all(runner.slot is slot and slot.busy is not runner for runner in lenders)
            assert slot.index not in self._pool.idle
        for runner in self._coming:
            assert self.is_lender(runner)
            is_next = runner.slot.busy is None or bool(self._pool.idle)
            assert not is_next or not self._allocation.room_for_all().has(used_by(runner)), (
                "who comes back is next"
            )
        assert all(slot.index in self._lenders for slot in self.lent.values())
        assert self.wanted == {runner.slot.index for runner in self._coming}
        for slot in self._pool.slots:
            is_kept = slot.index in self._lenders and slot.index in self.wanted
            is_free = slot.index in self._pool.idle or slot.index in self.lent
            assert not is_free if slot.busy is not None else is_free or is_kept
        for runner in self._pool.runners.values():
            assert not runner.sent or runner.slot.busy is runner or self.is_lender(runner)
