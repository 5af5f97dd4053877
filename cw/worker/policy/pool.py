"""Slots of a worker and the runners in them: which exist, which is busy, which is not used any more.

One slot runs one job at a time, in the runner of the job's context on that slot. It may also hold idle runners
of other contexts, and retired ones whose process is not gone.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections import deque

from cw.needs import ONE_CPU, Needs
from cw.worker.policy.jobs import Context, WorkerJob

AHEAD_JOBS = 256
"""Most jobs sent ahead to a runner, however short."""

STUCK_SECONDS = 0.01
"""Running time of a job (seconds) after which jobs waiting behind it are offered to idle slots."""

CROWD = 32
"""Most runners on one slot while as many sessions take turns on it. Fewer: with one session more than that, nearly
every turn waits for a new process, which takes as long as hundreds of short jobs."""

IDLE_RUNNERS = 4
"""Runners kept on one slot for sessions that may come back. Each is a process."""

CROWD_SECONDS = 5.0
"""Time that a runner beyond IDLE_RUNNERS is kept without work (seconds)."""

IDLE_SECONDS = 300.0
"""Time that other runners are kept without work (seconds)."""

RESTART_SECONDS = 1.0, 8.0
"""Time that a slot starts no runner after one that ended before it started any job (seconds): at first, and at most."""


class PooledRunner:
    """A child process on one slot, for one session, environment, number of CPUs and set of devices."""

    __slots__ = (
        "key", "slot", "context", "serves", "needs", "cpus", "session", "sent", "since", "began", "ended", "idle_since",
        "is_dropping", "is_ending", "is_stopping", "is_outdated",
    )  # fmt: skip

    def __init__(self, key: int, slot: Slot, context: Context) -> None:
        self.key = key
        self.slot = slot
        self.context = context
        self.serves: Context = (
            (*context[:3], ()) if context[3] else context
        )  # the context of jobs that may run here
        self.needs: Needs = ONE_CPU  # of the jobs here, which are all equal in that; or of the last one
        self.cpus: tuple[int, ...] = ()  # numbers of the CPUs to which it is pinned
        self.session = context[0]
        self.sent: deque[WorkerJob] = deque()  # jobs without result; the first one runs, or is about to
        self.since = 0.0  # when the first of them began, or was sent
        self.began = 0.0  # when it was seen to have begun; only known for jobs with a time limit
        self.ended = 0  # jobs so far
        self.idle_since = 0.0
        self.is_dropping = False  # something was retracted, and it has not read the Drop yet
        self.is_ending = False  # it was asked to end, was signalled, or is gone: never used again
        self.is_stopping = False  # it was signalled to end its job, and is not known to be gone
        # No function needs its environment any more: it ends when it has nothing to do.
        self.is_outdated = False

    def is_unused(self, now: float) -> bool:
        """True if the runner has had no work for long. With many others beside it, "long" is shorter."""
        is_extra = len(self.slot.runners) > IDLE_RUNNERS
        return now - self.idle_since > (CROWD_SECONDS if is_extra else IDLE_SECONDS)

    def is_stuck(self, now: float) -> bool:
        """True if jobs that were sent ahead wait here behind a long job."""
        return (
            len(self.sent) > 1
            and not self.is_dropping
            and not self.is_ending
            and now - self.since > STUCK_SECONDS
        )


class Slot:
    """A place where one job runs at a time."""

    __slots__ = ("index", "runners", "busy", "backoff_until", "backoff")

    def __init__(self, index: int) -> None:
        self.index = index
        self.runners: dict[Context, PooledRunner] = {}  # least recently used first
        self.busy: PooledRunner | None = (
            None  # the runner with jobs; or an ending one whose process is not gone
        )
        self.backoff_until = 0.0  # no runner starts here before
        self.backoff = 0.0  # length of the last pause, if no runner has worked here since


class RunnerPool:
    """All slots and runners of one worker."""

    def __init__(self, count: int) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.idle: dict[int, Slot] = {slot.index: slot for slot in self.slots}
        self.runners: dict[int, PooledRunner] = {}  # by key, while their process exists
        self.backing_off: list[Slot] = []  # slots on which a runner could not be started lately
        self._keys = 0

    def add(self, slot: Slot, context: Context) -> PooledRunner:
        """Add a new runner to a slot. The caller starts it."""
        self._keys += 1
        runner = self.runners[self._keys] = PooledRunner(self._keys, slot, context)
        return runner

    def make_room(self, slot: Slot, context: Context) -> list[PooledRunner]:
        """Retire runners of a slot on which one of this context is about to start: those of older environments of its
        session, and the least used of too many."""
        session, environment = context[:2]
        gone = [
            other
            for other in slot.runners.values()
            if other.session == session and other.context[1] < environment and not other.sent
        ]
        for other in gone:
            self.retire(other)
        while len(slot.runners) >= CROWD:
            idle = next((runner for runner in slot.runners.values() if not runner.sent), None)
            if idle is None:
                break
            self.retire(idle)
            gone.append(idle)
        return gone

    def retire(self, runner: PooledRunner) -> None:
        """Mark a runner as never used again."""
        runner.is_ending = True
        self._take_off_slot(runner)

    def remove(self, runner: PooledRunner) -> None:
        """Remove a runner whose process is gone."""
        del self.runners[runner.key]
        self._take_off_slot(runner)

    def idle_runners(self) -> list[PooledRunner]:
        """List the runners that have no work."""
        return [runner for runner in self.runners.values() if not runner.sent and not runner.is_ending]

    def stuck_runners(self, now: float) -> list[PooledRunner]:
        """List the runners where jobs sent ahead wait behind a long job."""
        return [runner for runner in self.runners.values() if runner.is_stuck(now)]

    def back_off(self, slot: Slot, now: float) -> None:
        """Start no runner on this slot for a while, each time for longer."""
        slot.backoff = min(max(2 * slot.backoff, RESTART_SECONDS[0]), RESTART_SECONDS[1])
        slot.backoff_until = now + slot.backoff
        if slot not in self.backing_off:
            self.backing_off.append(slot)

    def end_backoff(self, now: float) -> None:
        """End the pauses whose time is over."""
        self.backing_off = [slot for slot in self.backing_off if slot.backoff_until > now]

    def _take_off_slot(self, runner: PooledRunner) -> None:
        if runner.slot.runners.get(runner.context) is runner:
            del runner.slot.runners[runner.context]

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        for key, runner in self.runners.items():
            assert runner.key == key
            assert {job.context for job in runner.sent} <= {runner.serves}
            assert {job.needs for job in runner.sent} <= {runner.needs}
        for slot in self.slots:
            assert all(runner.slot is slot and not runner.is_ending for runner in slot.runners.values())
            assert all(self.runners.get(runner.key) is runner for runner in slot.runners.values())
            assert slot.index not in self.idle or slot.busy is None
