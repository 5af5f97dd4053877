"""The one question that holds all that a job demands of a worker."""

import pytest
from asked import asked

from cw.master.policy.fit import LATER, NEVER, NOW, fit
from cw.master.policy.jobs import Aside, Job, Pool, Queue, Session, Setbacks, Shape, Worker
from cw.net.objects import Object
from cw.requirements import WorkerCapacity


class Case:
    """A job and a worker that fits it now."""

    def __init__(self):
        self.pool = Pool((3, 11))
        self.pool.workers = 2
        self.session = Session(7, (3, 11))
        self.worker = Worker("w", WorkerCapacity(1), self.pool)
        self.job = Job(1, Object(1), asked(min_time=60.0), b"")
        self.job.session, self.job.queue = self.session, Queue(self.session, self.pool, Shape((3, 11)))

    def other_python(self):
        self.worker.pool = Pool((3, 12))

    def it_cannot_start_its_runners(self):
        self.worker.blocked_sessions = frozenset({7})

    def it_is_set_aside(self):
        self.session.setbacks = Setbacks()
        self.session.setbacks.aside[self.worker] = Aside((None, ""))

    def it_drains(self):
        self.worker.is_draining = True

    def its_time_ends_too_early(self):
        self.worker.left = 59.0

    def its_only_slot_killed_it(self):
        self.job.excluded_worker = self.worker

    def its_slot_is_taken(self):
        self.worker.held[1] = self.job

    def it_is_away(self):
        self.worker.is_away = True

    def it_has_another_slot(self):
        self.worker.capacity = WorkerCapacity(2)
        self.worker.slots = 2
        self.job.excluded_worker = self.worker

    def it_is_the_only_worker(self):
        self.pool.workers = 1
        self.job.excluded_worker = self.worker

    def another_killed_it(self):
        self.job.excluded_worker = Worker("v", WorkerCapacity(1), self.pool)

    def others_have_setbacks(self):
        self.session.setbacks = Setbacks()
        self.session.setbacks.aside[Worker("v", WorkerCapacity(1), self.pool)] = Aside((None, ""))

    def all_is_well(self):
        self.worker.left = 60.0


@pytest.mark.parametrize(
    "answer, case",
    [
        (NEVER, Case.other_python), (NEVER, Case.it_cannot_start_its_runners), (NEVER, Case.it_is_set_aside),
        (NEVER, Case.it_drains), (NEVER, Case.its_time_ends_too_early), (NEVER, Case.its_only_slot_killed_it),
        (LATER, Case.its_slot_is_taken), (LATER, Case.it_is_away),
        (NOW, Case.it_has_another_slot), (NOW, Case.it_is_the_only_worker), (NOW, Case.another_killed_it),
        (NOW, Case.others_have_setbacks), (NOW, Case.all_is_well),
    ],
)  # fmt: skip
def test_when_a_job_can_start_at_a_worker(answer, case):
    made = Case()
    case(made)
    assert fit(made.job, made.worker) is answer


def test_setbacks_can_be_left_out_of_account():
    for setback in Case.it_is_set_aside, Case.its_only_slot_killed_it:
        made = Case()
        setback(made)
        assert fit(made.job, made.worker, despite_setbacks=True) is NOW
    for demand in Case.its_time_ends_too_early, Case.it_drains:
        made = Case()
        demand(made)
        assert fit(made.job, made.worker, despite_setbacks=True) is NEVER
