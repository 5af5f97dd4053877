"""A worker with nothing to do: counted from its last job's end, and from its start."""

from cw.worker.idleness import Idleness


def test_it_is_over_when_there_was_nothing_to_do_for_so_long():
    idle = Idleness(3.0, 10.0)
    assert [idle.is_over(now, True) for now in (11.0, 12.0, 13.0)] == [False, False, True]


def test_a_job_that_is_here_and_one_that_came_and_went_start_it_anew():
    idle = Idleness(2.0, 0.0)
    assert not idle.is_over(3.0, is_empty=False)
    assert not idle.is_over(4.0, is_empty=True)
    idle.on_work()  # it has come and ended between two looks
    assert not idle.is_over(5.0, is_empty=True)
    assert not idle.is_over(6.0, is_empty=True)
    assert idle.is_over(7.0, is_empty=True)


def test_without_a_limit_it_is_never_over():
    assert not Idleness(0.0, 0.0).is_over(1e9, True)
