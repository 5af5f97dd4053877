"""Outcomes of jobs on their way to the master: kept until clients have them, held back where they may be wrong.

    results of a runner --> classify --> Results: the job's own outcome
    (that had to end,          |--> CutShort: it was not allowed to end, and runs again elsewhere
     or says of a job that          |--> Results, TIMEOUT: it ran into its limit of time or memory
     it was interrupted)            '--> held back for HOLD_BACK_SECONDS: cut short if the worker must end, too

Pure: no socket, no thread, no clock. Methods return messages for the master.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cw.named_tuple import NamedTuple
from cw.net import messages as m
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.outbox import Outbox

HOLD_BACK_SECONDS = 0.5
"""Time that a job's failure just after a SIGTERM to its runner is held back (seconds): if this worker must end too, as
on a node that goes away, the job was cut short."""

_STOPPED = {m.STOPPED_VALUE: m.DONE, m.STOPPED_ERROR: m.ERROR}

Message = m.Kept | m.Results | m.RunnerDied | m.Returned | m.CutShort | m.NotEntered


class Outcome(NamedTuple):
    """Outcome of one job."""

    job: WorkerJob
    status: int
    seconds: float
    payload: Any


class Outcomes:
    """The outcomes of one worker's jobs."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._unclaimed: set[int] = (
            set()
        )  # outcomes that were reported to the present master when we joined it
        self._held_back: list[list[Outcome]] = []  # errors after a SIGTERM, held back

    # --- jobs end ---

    def classify(
        self, outcomes: Iterable[Outcome], is_ending: bool, is_draining: bool, place: dict[str, Any]
    ) -> tuple[list[Message], list[Outcome]]:
        """Return the messages for a runner's results, and the outcomes that are held back for a while: some may not be
        the job's own. `is_ending`: the runner had to end; `place`: where it is."""
        messages: list[Message] = []
        held_back_errors: list[Outcome] = []
        cut: list[int] = []
        for outcome in outcomes:
            job, status, seconds, payload = outcome
            # By a SIGINT, which was ours if the runner was ending, otherwise the job's own; or by the SIGTERM after it.
            was_stopped = status in _STOPPED or status == m.INTERRUPTED
            status = _STOPPED.get(status, status)
            is_kept = job.options.on_limit is not None and status == m.DONE
            if job.is_cut and is_ending and not job.stopped and not is_kept:
                cut.append(job.dispatch)  # its outcome does not count: it was not allowed to end
            elif (
                job.expired
                and not is_kept
                and is_ending
                and (was_stopped or (not job.peak and seconds > (job.options.timeout or 0.0) * 0.999999))
            ):
                messages.append(self.expired(job, {**place, "seconds": seconds}))
            elif status == m.NOT_ENTERED:
                is_wanted = not (job.stopped or job.withdrawn or is_draining)
                messages.append(payload if is_wanted else m.Returned([job.dispatch]))
            elif status == m.INTERRUPTED and not job.stopped:
                held_back_errors.append(outcome._replace(status=m.ERROR))
            else:
                messages.append(self._result(outcome._replace(status=min(status, m.ERROR))))
        if held_back_errors and is_draining:
            cut += [outcome.job.dispatch for outcome in held_back_errors]
            held_back_errors = []
        elif held_back_errors:
            self._held_back.append(held_back_errors)
        if cut:
            messages.append(m.CutShort(cut))
        return messages, held_back_errors

    def on_cleared(self, held_back_errors: list[Outcome]) -> list[Message]:
        """Report held-back errors as the jobs' own failures: the machine did not end."""
        if not any(held_back_errors is held for held in self._held_back):
            return []
        self._held_back = [held for held in self._held_back if held is not held_back_errors]
        return [self._result(outcome) for outcome in held_back_errors]

    def on_drain(self) -> list[Message]:
        """Report held-back errors as cut short: this worker ends."""
        cut = [outcome.job.dispatch for held in self._held_back for outcome in held]
        self._held_back.clear()
        return [m.CutShort(cut)] if cut else []

    def expired(self, job: WorkerJob, note: dict[str, Any]) -> m.Results:
        """Return the outcome of a job that reached its limit of time or memory."""
        limit = {"memory": job.needs.memory, "peak": job.peak} if job.peak else {"limit": job.options.timeout}
        text = json.dumps({**note, **limit, "attempt": job.attempt}).encode()
        return self._result(Outcome(job, m.TIMEOUT, note["seconds"], text))

    def died(self, job: WorkerJob, note: dict[str, Any]) -> m.RunnerDied:
        """Return the outcome of a job whose runner died in the middle of it."""
        self.outbox.add_crash(job, note)
        return m.RunnerDied(job.dispatch, note)

    def _result(self, outcome: Outcome) -> m.Results:
        job, *rest = outcome
        status, seconds, payload = ([part] for part in rest)
        self.outbox.add_results([job], status, seconds, payload)
        return m.Results([job.dispatch], status, seconds, payload)

    # --- the master ---

    @property
    def has_unclaimed(self) -> bool:
        """True if an outcome was reported to the present master, which has not asked for it."""
        return any(dispatch in self.outbox for dispatch in self._unclaimed)

    def inventories(self) -> list[tuple[int, int, int, int]]:
        """List the outcomes for a master just joined: dispatch, session, number, state."""
        held_back_errors = [
            (job.dispatch, job.session, job.number, m.RUNNING)
            for held in self._held_back
            for job, _, _, _ in held
        ]
        kept = self.outbox.inventories()
        self._unclaimed = {dispatch for dispatch, _, _, _ in kept}
        return held_back_errors + kept

    def on_claim(self, dispatches: Iterable[int]) -> list[Message]:
        """Send kept outcomes again, for which the master asks."""
        dispatches = list(dispatches)
        results, crashes, gone = self.outbox.find(dispatches)
        messages: list[Message] = []
        if kept := self.outbox.find_output(dispatches):
            messages.append(m.Kept(*map(list, zip(*kept, strict=True))))
        if results:
            messages.append(m.Results(*map(list, zip(*results, strict=True))))
        messages += [m.RunnerDied(dispatch, note) for dispatch, note in crashes]
        if gone:
            messages.append(m.Returned(gone))
        self._unclaimed.difference_update(dispatches)
        return messages

    def on_forsaken(self) -> None:
        """Forget all outcomes, as no master knows of the jobs here."""
        self.outbox = Outbox()
        self._held_back.clear()
