"""What jobs came to, on its way to the master: kept until their clients have it, held back where it may be wrong.

    results of a runner --> classify --> Results: what the job itself came to
    (that was told to end,          |--> CutShort: it was not allowed to end, and runs again elsewhere
     or says of a job that          |--> Results, TIMEOUT: it ran into its time limit
     it was interrupted)            '--> held back for SUSPECT_SECONDS: cut short if the worker is told to end, too

Pure: no socket, no thread, no clock. Methods give the messages for the master.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cw.net import messages as m
from cw.worker.jobs import Job
from cw.worker.outbox import Outbox

SUSPECT_SECONDS = 0.5
"""A job that fails just after its runner got SIGTERM is held back for so long: if this worker is told to end too, as
on a node that goes, the job was cut short."""

Message = m.Results | m.RunnerDied | m.Returned | m.CutShort | m.NotEntered


class Outcome(NamedTuple):
    """What one job came to."""

    job: Job
    status: int
    seconds: float
    payload: Any


class Outcomes:
    """The outcomes of one worker's jobs."""

    def __init__(self) -> None:
        self.kept = Outbox()
        self._keeping: set[int] = set()  # dispatches that come: what they return when their time is up counts
        self._unclaimed: set[int] = (
            set()
        )  # those of the kept that the present master was told of when it was joined
        self._suspects: list[list[Outcome]] = []  # errors after a SIGTERM, held back

    # --- jobs come ---

    def on_keep(self, dispatches: Iterable[int]) -> None:
        """What these dispatches, which are about to come, return when their time is up is their result."""
        self._keeping.update(dispatches)

    def on_jobs(self, jobs: Sequence[Job], dispatches: Iterable[int]) -> None:
        """These jobs are here, of the dispatches that have come."""
        if self._keeping:
            for job in jobs:
                job.keeps = job.dispatch in self._keeping
            self._keeping.difference_update(dispatches)

    # --- jobs end ---

    def classify(
        self, outcomes: Iterable[Outcome], is_ending: bool, is_draining: bool, place: dict[str, Any]
    ) -> tuple[list[Message], list[Outcome]]:
        """What to report of results some of which may not be what the job itself came to; and those that are held back
        for a while. `is_ending`: their runner was told to end; `place`: where it is."""
        messages: list[Message] = []
        held_back_errors: list[Outcome] = []
        cut: list[int] = []
        for outcome in outcomes:
            job, status, seconds, payload = outcome
            is_kept = job.keeps and status == m.DONE
            if job.is_cut and is_ending and not job.stopped and not is_kept:
                cut.append(job.dispatch)  # whatever it came to: it was not allowed to end
            elif job.expired and not is_kept and is_ending and seconds > job.timeout * 0.999999:
                messages.append(self.expired(job, {**place, "seconds": seconds}))
            elif status == m.NOT_ENTERED:
                is_wanted = not (job.stopped or job.spared or is_draining)
                messages.append(payload if is_wanted else m.Returned([job.dispatch]))
            elif status == m.INTERRUPTED and not job.stopped:
                held_back_errors.append(outcome._replace(status=m.ERROR))
            else:
                messages.append(self._result(outcome._replace(status=min(status, m.ERROR))))
        if held_back_errors and is_draining:
            cut += [outcome.job.dispatch for outcome in held_back_errors]
            held_back_errors = []
        elif held_back_errors:
            self._suspects.append(held_back_errors)
        if cut:
            messages.append(m.CutShort(cut))
        return messages, held_back_errors

    def on_cleared(self, held_back_errors: list[Outcome]) -> list[Message]:
        """It was not this machine's end: the jobs failed by themselves."""
        if not any(held_back_errors is held for held in self._suspects):
            return []
        self._suspects = [held for held in self._suspects if held is not held_back_errors]
        return [self._result(outcome) for outcome in held_back_errors]

    def on_drain(self) -> list[Message]:
        """This worker ends: what was held back was cut short."""
        cut = [outcome.job.dispatch for held in self._suspects for outcome in held]
        self._suspects.clear()
        return [m.CutShort(cut)] if cut else []

    def expired(self, job: Job, note: dict[str, Any]) -> m.Results:
        """The job ran into its time limit."""
        text = json.dumps({**note, "limit": job.timeout, "attempt": job.attempt}).encode()
        return self._result(Outcome(job, m.TIMEOUT, note["seconds"], text))

    def died(self, job: Job, note: dict[str, Any]) -> m.RunnerDied:
        """Its runner died in the middle of the job."""
        self.kept.add_death(job, note)
        return m.RunnerDied(job.dispatch, note)

    def _result(self, outcome: Outcome) -> m.Results:
        job, *rest = outcome
        status, seconds, payload = ([part] for part in rest)
        self.kept.add_results([job], status, seconds, payload)
        return m.Results([job.dispatch], status, seconds, payload)

    # --- the master ---

    @property
    def has_unclaimed(self) -> bool:
        """Is there one that the present master was told of, and has not asked for?"""
        return any(dispatch in self.kept for dispatch in self._unclaimed)

    def on_welcome(self) -> None:
        """A master is there: what another one has said of dispatches to come means nothing."""
        self._keeping.clear()

    def inventories(self) -> list[tuple[int, int, int, int]]:
        """What a master that was just joined is told of these: dispatch, session, number, state."""
        held_back_errors = [
            (job.dispatch, job.session, job.number, m.RUNNING)
            for held in self._suspects
            for job, _, _, _ in held
        ]
        kept = self.kept.inventories()
        self._unclaimed = {dispatch for dispatch, _, _, _ in kept}
        return held_back_errors + kept

    def on_claim(self, dispatches: Iterable[int]) -> list[Message]:
        """The master asks for these: send again what was kept."""
        dispatches = list(dispatches)
        results, deaths, gone = self.kept.find(dispatches)
        messages: list[Message] = []
        if results:
            messages.append(m.Results(*map(list, zip(*results, strict=True))))
        messages += [m.RunnerDied(dispatch, note) for dispatch, note in deaths]
        if gone:
            messages.append(m.Returned(gone))
        self._unclaimed.difference_update(dispatches)
        return messages

    def on_forsaken(self) -> None:
        """No master knows of the jobs here: nobody asks for what they came to."""
        self.kept = Outbox()
        self._suspects.clear()
