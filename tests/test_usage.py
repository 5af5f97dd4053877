"""Use of a worker's slots: what its jobs took, and what its slots waited for after their last jobs."""

from cw.slot_seconds import Used
from cw.worker.policy.usage import Usage


def test_the_time_of_jobs_is_used_and_the_time_after_the_last_one_could_be_saved():
    usage = Usage(2, 0.0)
    usage.on_results(0, [1.0, 2.5], 4.0)
    usage.on_results(1, [30.0], 40.0)
    # Slot 0 waited from 4 to 200, slot 1 from 40: each less 60.
    assert usage.measure(200.0) == Used(33.5, 400.0, 136.0 + 100.0)


def test_a_slot_that_never_worked_waited_from_the_start():
    assert Usage(3, 100.0).measure(190.0) == Used(0.0, 270.0, 90.0)


def test_a_slot_that_works_to_the_end_saves_nothing():
    usage = Usage(2, 0.0)
    usage.on_drain([1], 500.0)
    assert usage.measure(510.0).saved == 450.0


def test_nested_jobs_use_no_more_than_there_is():
    usage = Usage(1, 0.0)
    usage.on_results(0, [9.0], 9.0)
    usage.on_results(0, [10.0], 10.0)  # it waited for the other one
    assert usage.measure(10.0).used == 10.0
