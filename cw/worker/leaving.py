"""Carries out a worker's departure: it drains, stops what runs, and says goodbye to the master.

    signals, alarms, Drain --> Departure.on_*() --> actions --> Slots, Runners, MasterLink
                                    ^                              |
                                    '------ what is here, ---------'
                                      when something is due

All code here runs in the loop's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cw import program
from cw.events import EventLogger
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.master_link import MasterLink
from cw.slot_seconds import as_line
from cw.worker.policy import departure
from cw.worker.policy.departure import Departure
from cw.worker.policy.idleness import Idleness
from cw.worker.runners.execution import Execution

logger = EventLogger("cw.worker")


class Leaving:
    """The end of one worker, from the first reason to leave to the goodbye."""

    def __init__(
        self, loop: Loop, policy: Departure, execution: Execution, link: MasterLink, idle: float = 0.0
    ) -> None:
        """`idle`: seconds with nothing to do after which the worker ends; 0: never."""
        self.idleness = Idleness(idle, time.monotonic())
        self.was_idle = False
        """It ends because it had nothing to do."""
        self.on_left: Callable[[], None] = loop.stop
        """Called when it has left, and at each request to end that comes after that."""
        self.ends_process = False
        """It leaves because its process must end; otherwise it was only asked to drain."""
        self._has_left = False
        self._departure = policy
        self._execution = execution
        self._link = link
        for alarm in policy.alarms:
            loop.call_later(alarm.seconds, lambda alarm=alarm: self._on_alarm(alarm))  # type: ignore[misc]

    def on_sigterm(self) -> None:
        """Handle a request to end. First: finish running jobs; second: stop them; third: leave at once."""
        self._end(self._departure.on_sigterm(time.monotonic()))

    def on_sigint(self) -> None:
        """Handle Ctrl-C like `on_sigterm`, but never take a second one for a repetition of the first."""
        self._end(self._departure.on_sigint(time.monotonic()))

    def on_sighup(self) -> None:
        """Handle the end of the terminal: finish running jobs, and leave."""
        self._end(self._departure.on_sighup(time.monotonic()))

    def on_notice(self) -> None:
        """Handle the notice of an end that is near, long before SIGTERM."""
        self._perform(self._departure.on_notice(time.monotonic(), time.time()))

    def on_launcher_gone(self) -> None:
        """Handle the loss of the launcher, or its request to be rid of this worker."""
        self._end(self._departure.on_launcher_gone(time.monotonic()))

    def on_second(self, now: float) -> None:
        """Leave if the worker has had nothing to do for long. Called about every second."""
        if not self._link.is_joined:
            self.idleness.on_work()  # what waits for this worker is not known now
        if self.idleness.is_over(now, self._execution.slots.is_empty()) and not self._departure.is_draining:
            self.was_idle = True
            why = f"it has had nothing to do for {self.idleness.limit:g} s"
            logger.info("worker.idle", "the worker ends: %s", why)
            self._perform(self._departure.on_drain(why, now))

    def on_drain(self, message: m.Drain) -> None:
        """Handle the master's request to drain."""
        self._perform(self._departure.on_drain_until_the_end("it was asked to", time.monotonic()))

    def _end(self, actions: Iterable[departure.Action]) -> None:
        self.ends_process = True
        if self._has_left:
            self.on_left()
        self._perform(actions)

    def _on_alarm(self, alarm: departure.Alarm) -> None:
        self._perform(self._departure.on_alarm(alarm, time.monotonic()))

    def _perform(self, actions: Iterable[departure.Action]) -> None:
        execution = self._execution
        for action in actions:
            if isinstance(action, departure.Drain):
                self._drain(action)
            elif isinstance(action, departure.StopJobs):
                self._log_stopped()
                execution.runners.take_in()
                execution.perform(execution.slots.on_time_up())
                self._look(time.monotonic())
            else:
                self._leave(action)
        if self._departure.is_draining:
            execution.ticks.resume()  # its end may be nearer now

    def _drain(self, action: departure.Drain) -> None:
        """Take no more jobs, return those that have not started, then check regularly what is left."""
        now = time.monotonic()
        execution, send = self._execution, self._link.send
        send(m.Draining())
        running = [runner for runner in execution.slots.pool.runners.values() if runner.sent]
        execution.usage.on_drain([runner.slot.index for runner in running], now)
        execution.perform(execution.slots.on_drain())
        for message in execution.outcomes.on_drain():
            send(message)
        self._look(now)
        if self._departure.is_leaving:
            return
        if self._departure.is_waiting(now, self._what_is_here()):
            self._log_draining(action)
        execution.ticks.looks.append(self._look)

    def _look(self, now: float) -> float:
        self._perform(self._departure.on_tick(now, self._what_is_here()))
        return self._departure.next_tick(now, self._what_is_here())

    def _leave(self, action: departure.Leave) -> None:
        if action.has_threads:
            logger.warning(
                "worker.threads_stopped",
                "threads that jobs left behind did not end in time: they are stopped",
            )
        if action.is_sudden:
            self._log_stopped()
        logger.info("worker.used", "%s", as_line(self._execution.usage.measure(time.monotonic())))
        # Before goodbye: a job that the master requeues must not run here any more.
        self._execution.runners.close()
        self._link.leave(self._on_left)

    def _on_left(self) -> None:
        self._has_left = True
        self.on_left()

    def _what_is_here(self) -> departure.Here:
        slots, outcomes = self._execution.slots, self._execution.outcomes
        return departure.Here(
            slots.is_empty(),
            slots.has_runners(),
            len(outcomes.outbox) > 0,
            outcomes.has_unclaimed,
            self._link.is_lost,
            self._link.is_all_sent(),
        )

    def _log_draining(self, action: departure.Drain) -> None:
        running, kept = self._execution.count_running(), len(self._execution.outcomes.outbox)
        results = program.count(kept, "result")
        limit = f" for up to {action.grace:.3g} s" if action.grace < 1e6 else ""
        doing = f"finishing {program.count(running, 'running job')}"
        if self._link.is_lost and kept:
            doing += f", and looking for the master to hand in {results},"
        elif not running:
            doing, limit = f"handing in {results}", ""
        logger.info(
            "worker.draining",
            "the worker drains (%s), %s%s; Ctrl-C ends it at once",
            action.why,
            doing,
            limit,
        )

    def _log_stopped(self) -> None:
        if running := self._execution.count_running():
            doing = program.count(
                running, "running job is stopped, and runs again", "running jobs are stopped, and run again"
            )
            logger.info("worker.jobs_stopped", "the worker leaves; %s elsewhere", doing)
