"""The bound of a client's live output is shared out to the workers that print for it."""

from random import Random

import pytest

from cw.master.policy.output_shares import FORGOTTEN, OutputShares, ToWorker, share_of
from cw.net.output_messages import LINES_A_SECOND, SIZE_A_SECOND, OutputShare


def test_the_first_worker_has_all_and_each_new_one_its_part():
    shares = OutputShares()
    assert shares.on_printed(1, "a", 0.0) == [ToWorker("a", OutputShare(1, SIZE_A_SECOND, LINES_A_SECOND))]
    assert shares.on_printed(1, "a", 0.1) == []
    assert shares.on_printed(1, "b", 0.2) == [ToWorker("b", share_of(1, 2))]
    assert shares.on_printed(2, "b", 0.2) == [ToWorker("b", share_of(2, 1))], "another client's is its own"
    assert shares.on_second(1.0) == [ToWorker("a", share_of(1, 2))], "the others learn of it within a second"
    assert shares.on_second(2.0) == []


def test_who_prints_no_more_leaves_its_part_to_the_others():
    shares = OutputShares()
    shares.on_printed(1, "a", 0.0)
    shares.on_printed(1, "b", 0.0)
    shares.on_second(1.0)
    shares.on_printed(1, "a", FORGOTTEN)
    assert shares.on_second(FORGOTTEN + 1.0) == [ToWorker("a", share_of(1, 1))]
    assert shares.on_printed(1, "b", FORGOTTEN + 2.0) == [ToWorker("b", share_of(1, 2))]
    shares.on_worker_gone("b")
    shares.on_session_closed(1)
    assert shares.on_second(FORGOTTEN + 3.0) == []


def test_a_share_is_never_nothing():
    assert share_of(1, 10_000) == OutputShare(1, 4096, 1)


@pytest.mark.parametrize("seed", range(40))
def test_after_a_second_of_rest_the_shares_are_within_the_bound(seed):
    random = Random(seed)
    shares, told, now = OutputShares(), {}, 0.0
    for _ in range(200):
        now += random.choice([0.0, 0.1, 1.0])
        worker, session = random.choice("abcdefgh"), random.choice([1, 2])
        what = random.random()
        if what < 0.7:
            orders = shares.on_printed(session, worker, now)
        elif what < 0.75:
            shares.on_worker_gone(worker)
            told = {key: share for key, share in told.items() if key[0] != worker}
            orders = []
        else:
            orders = shares.on_second(now)
        for order in orders:
            told[order.worker, order.message.session] = order.message
        shares.check_invariants()
    for worker in "abcdefgh":  # all print
        for order in shares.on_printed(1, worker, now):
            told[order.worker, 1] = order.message
    for order in shares.on_second(now):
        told[order.worker, order.message.session] = order.message
    total = sum(share.size for (_, session), share in told.items() if session == 1)
    assert total <= 1.3 * SIZE_A_SECOND
