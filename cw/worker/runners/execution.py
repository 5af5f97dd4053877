"""Carries out what a worker's policy decides, on its runners, and reports the outcomes to the policy.

    Slots.on_*() --> actions --> perform --> Runners <==> runners
                                    |           |  '--> WorkerOutput: what the jobs print
       the master <-----------------'           '--> results, exits --> Slots.on_*(), Outcomes --> the master

All code here runs in the loop's thread.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cw import processes
from cw.events import RateLimited
from cw.net import messages as m
from cw.net.loop import Loop
from cw.worker.outcomes import HOLD_BACK_SECONDS, Outcome, Outcomes
from cw.worker.output.output import WorkerOutput
from cw.worker.policy import actions as a
from cw.worker.policy.departure import Departure
from cw.worker.policy.pool import PooledRunner
from cw.worker.policy.slots import Slots
from cw.worker.policy.usage import Usage
from cw.worker.runners.runners import Runners
from cw.worker.runners.ticks import Ticks

_lines = RateLimited("cw.worker")

ENDED_ON_ORDER = frozenset({"killed by SIGTERM", "killed by SIGINT", "killed by SIGHUP"})
"""Ends of a runner that may mean that its machine is being cleared."""


class Execution:
    """The runners of one worker at work. `send` sends a message to the master."""

    hurry: Callable[[], None] = staticmethod(lambda: None)
    """Called when results were sent: they need not wait for the rest of the wakeup."""

    def __init__(
        self,
        loop: Loop,
        slots: Slots,
        runners: Runners,
        departure: Departure,
        send: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self.slots = slots
        self.runners = runners
        self.outcomes = Outcomes()
        self.output = WorkerOutput(loop, slots.held.by_dispatch, send, runners.place)
        self.output.outbox = lambda: self.outcomes.outbox
        self.usage = Usage(len(slots.pool.slots), time.monotonic())
        self.waits: dict[PooledRunner, m.Waits] = {}
        """Runners whose job waits for nested jobs, each with its message."""
        self.master = ""
        """Start id of the master of this cluster."""
        self.ticks = Ticks(loop, self._on_tick)
        self._loop = loop
        self._departure = departure
        self._send = send
        self._why_unusable = ""  # how the last runner ended
        runners.on_results = self._on_results
        runners.on_dropped = lambda runner: self.perform(slots.on_dropped(runner, time.monotonic()))
        runners.on_remark = lambda runner, remark: send(remark._replace(session=runner.session))
        runners.on_waits = self._on_waits
        runners.output = self.output
        runners.on_gone = slots.on_runner_gone
        runners.on_exited = self._on_exited
        # Handlers by kind of action. A handler returns actions to carry out before those that follow.
        self._handlers: dict[type, Callable[[Any], Sequence[a.Action] | None]] = {
            a.Send: self._on_send,
            a.SendJobs: self._on_send_jobs,
            a.StartRunner: self._on_start_runner,
            a.PinRunner: lambda action: processes.pin(
                runners.place(action.runner)["pid"], action.runner.cpus
            ),
            a.Retract: self._on_retract,
            a.SendDrop: self._on_send_drop,
            a.GiveBack: self._on_give_back,
            a.EndRunner: self._on_end_runner,
            a.StopRunner: self._on_stop_runner,
            a.LookAtTokens: self._on_look_at_tokens,
            a.Resume: self._on_resume,
            a.ReportDied: self._on_report_died,
            a.ReportExpired: self._on_report_expired,
            a.ReportCapacity: self._on_report_capacity,
        }

    def perform(self, actions: Sequence[a.Action]) -> None:
        """Carry out these actions in order."""
        handlers, todo = self._handlers, deque(actions)
        while todo:
            action = todo.popleft()
            more = handlers[type(action)](action)
            if more:
                todo.extendleft(reversed(more))
        if self.ticks.is_resting and (self.slots.wants_tick() or self._departure.is_draining):
            self.ticks.resume()

    def count_running(self) -> int:
        """Count the jobs that may have started."""
        return sum(is_running for _, is_running in self.slots.inventories())

    def lend_again(self) -> None:
        """Check anew, after another master was joined, which waiting jobs wait for jobs of this cluster."""
        for runner in list(self.waits):
            self._lend(runner)

    def on_forsaken(self) -> None:
        """Forget the outcomes and waits of the jobs here, of which no master knows."""
        self.outcomes.on_forsaken()
        self.waits.clear()

    # --- the policy's actions ---

    def _on_send(self, action: a.Send) -> None:
        self._send(action.message)

    def _on_send_jobs(self, action: a.SendJobs) -> None:
        self.runners.send_jobs(action.runner, action.jobs)

    def _on_start_runner(self, action: a.StartRunner) -> None:
        session = action.runner.session
        self.runners.start(action.runner, action.environment)
        if depth := self.slots.depth(session):
            self.runners.send(action.runner, m.Depth(session, depth))

    def _on_retract(self, action: a.Retract) -> Sequence[a.Action]:
        taken = self.runners.take_tokens(action.runner, action.limit)
        return self.slots.on_retracted(action.runner, taken, time.monotonic())

    def _on_send_drop(self, action: a.SendDrop) -> None:
        self.runners.send_drop(action.runner)

    def _on_give_back(self, action: a.GiveBack) -> Sequence[a.Action]:
        return self.slots.on_give_back(action.limit)

    def _on_end_runner(self, action: a.EndRunner) -> None:
        self.runners.end(action.runner)

    def _on_stop_runner(self, action: a.StopRunner) -> None:
        self.runners.stop(action.runner, self._departure.stop_pace)

    def _on_look_at_tokens(self, action: a.LookAtTokens) -> None:
        left = self.runners.tokens_left(action.runner)
        self.slots.on_tokens_seen(action.runner, left, time.monotonic())

    def _on_resume(self, action: a.Resume) -> None:
        self.runners.send(action.runner, m.Resume(action.serial))

    def _on_report_died(self, action: a.ReportDied) -> None:
        send = self.output.on_died(action.job)
        send(self.outcomes.died(action.job, action.note))

    def _on_report_expired(self, action: a.ReportExpired) -> None:
        send = self.output.on_died(action.job)
        send(self.outcomes.expired(action.job, action.note))

    def _on_report_capacity(self, action: a.ReportCapacity) -> None:
        if action.slots < len(self.slots.pool.slots) or action.blocked_sessions:
            _lines.warning(
                "worker.slots_unusable",
                "no runner can be started on some slots: their jobs go to other workers, and this one tries again soon",
            )
        self._send(m.Capacity(action.slots, action.blocked_sessions, self._why_unusable))

    # --- the runners ---

    def _on_results(
        self,
        runner: PooledRunner,
        numbers: list[int],
        statuses: list[int],
        seconds: list[float],
        payloads: list[Any],
    ) -> None:
        jobs = self.slots.jobs(numbers)
        if self.output.printing:
            self.output.on_ended(jobs, statuses)
        if runner.is_ending or max(statuses) > m.ERROR:
            self._classify(runner, map(Outcome, jobs, statuses, seconds, payloads))
        else:
            self._send(m.Results(numbers, statuses, seconds, payloads))
            self.hurry()
            self.outcomes.outbox.add_results(jobs, statuses, seconds, payloads)
        now = time.monotonic()
        self.usage.on_results(runner.slot.index, seconds, now)
        self.perform(self.slots.on_results(runner, numbers, seconds, now))

    def _classify(self, runner: PooledRunner, outcomes: Iterable[Outcome]) -> None:
        """Report results, some of which may not be the job's own outcome."""
        place, is_draining = self.runners.place(runner), self._departure.is_draining
        messages, held_back_errors = self.outcomes.classify(outcomes, runner.is_ending, is_draining, place)
        for message in messages:
            self._send(message)
        if held_back_errors:
            self._loop.call_later(HOLD_BACK_SECONDS, lambda: self._clear(held_back_errors))

    def _clear(self, held_back_errors: list[Outcome]) -> None:
        for message in self.outcomes.on_cleared(held_back_errors):
            self._send(message)

    def _on_waits(self, runner: PooledRunner, message: m.Waits | m.WaitOver) -> None:
        """Note that a job begins or ends to wait for nested jobs. Only those of this cluster concern its slots."""
        if type(message) is m.Waits:
            self.waits[runner] = message
            self._lend(runner)
        elif type(message) is m.WaitOver:
            self.waits.pop(runner, None)
            serial, is_patient = message.serial, bool(message.is_patient)
            self.perform(self.slots.on_wait_over(runner, serial, is_patient, time.monotonic()))

    def _lend(self, runner: PooledRunner) -> None:
        wait = self.waits[runner]
        if wait.master == self.master:
            self.perform(self.slots.on_waits(runner, wait.number, time.monotonic()))

    def _on_exited(self, runner: PooledRunner, unstarted: int, note: dict[str, Any]) -> None:
        was_ordered = note["how"] in ENDED_ON_ORDER
        self._why_unusable = note["how"]
        self.waits.pop(runner, None)
        ran = list(runner.sent)
        self.perform(self.slots.on_runner_exited(runner, unstarted, note, time.monotonic(), was_ordered))
        self.output.forget(ran)

    def _on_tick(self, now: float) -> float:
        if self._departure.is_leaving:
            return math.inf
        actions = self.slots.on_tick(now)
        self.perform(actions)
        return now if actions else self.slots.next_tick(now)  # what was done may make more due
