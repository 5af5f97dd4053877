"""Who gives a large shared value to a worker: once the master, then the workers that have it."""

from random import Random

import pytest

from cw.master.policy import passing
from cw.master.policy.passing import (
    GIVES,
    TRIES,
    WALLED,
    WORKERS,
    AskDigest,
    Close,
    Fetch,
    Open,
    Passing,
    SendValue,
)

VALUE = 7, 3
DIGEST = "d" * 64


def joined(count=WORKERS):
    policy = Passing()
    for number in range(count):
        policy.on_joined(f"w{number}")
    return policy


class Cluster:
    """Carries out what the policy decides, in any order. `reaches(worker, source)`: one reaches the other."""

    def __init__(self, policy, reaches=lambda worker, source: True):
        self.policy = policy
        self.reaches = reaches
        self.asked = []
        self.open = set()
        self.opening = []
        self.fetching = []
        self.sending = []
        self.sent = 0
        self.most_fetches = 0

    def perform(self, actions):
        for action in actions:
            if type(action) is AskDigest:
                self.asked.append(action.value)
            elif type(action) is SendValue:
                self.sending.append(action)
                self.sent += 1
            elif type(action) is Fetch:
                assert action.source in self.open and action.digest == DIGEST
                self.fetching.append(action)
            elif type(action) is Open:
                self.opening.append(action.worker)
            else:
                self.open.discard(action.worker)
                self.opening = [worker for worker in self.opening if worker != action.worker]
        self.policy.check_invariants()

    def step(self, choose=lambda count: 0):
        """Let one thing happen. False: nothing is under way."""
        todo = [("open", i) for i in range(len(self.opening))] + [
            ("fetch", i) for i in range(len(self.fetching))
        ]
        todo += [("send", i) for i in range(len(self.sending))]
        if not todo:
            return False
        what, at = todo[choose(len(todo))]
        if what == "open":
            worker = self.opening.pop(at)
            self.open.add(worker)
            self.perform(self.policy.on_opened(worker, 1000, [worker]))
        elif what == "send":
            action = self.sending.pop(at)
            self.perform(self.policy.on_held(action.worker, action.value))
        else:
            action = self.fetching.pop(at)
            report = (
                self.policy.on_held if self.reaches(action.worker, action.source) else self.policy.on_failed
            )
            self.perform(report(action.worker, action.value))
        return True

    def drop(self, worker):
        self.open.discard(worker)
        self.opening = [other for other in self.opening if other != worker]
        self.fetching = [action for action in self.fetching if action.worker != worker]
        self.sending = [action for action in self.sending if action.worker != worker]
        self.perform(self.policy.on_gone(worker))


def want(cluster, count, has_digest=True):
    for number in range(count):
        cluster.perform(cluster.policy.on_wanted(f"w{number}", [VALUE]))
    assert cluster.asked == [VALUE]
    if has_digest:
        cluster.perform(cluster.policy.on_digest(VALUE, DIGEST))


@pytest.mark.parametrize("count", [WORKERS, 100])
def test_the_master_sends_a_value_once_and_all_have_it_in_the_end(count):
    cluster = Cluster(joined(count))
    want(cluster, count)
    while cluster.step():
        pass
    assert cluster.sent == 1
    assert len(cluster.policy._values[VALUE].holders) == count
    assert not cluster.open, "the ports are closed again"


def test_a_hundred_workers_have_it_after_some_rounds():
    cluster = Cluster(joined(100))
    want(cluster, 100)
    rounds = 0
    while cluster.sending or cluster.fetching or cluster.opening:
        while cluster.opening:
            cluster.step()
        fetching, cluster.fetching = cluster.fetching, []
        sending, cluster.sending = cluster.sending, []
        for action in [*sending, *fetching]:
            cluster.perform(cluster.policy.on_held(action.worker, action.value))
        rounds += 1
    assert cluster.sent == 1
    assert rounds <= 6  # 1, 3, 9, 27, 81, 100


def test_small_values_and_few_workers_are_the_masters():
    assert not joined(WORKERS).is_passed_on(passing.PASS_BYTES - 1)
    assert joined(WORKERS).is_passed_on(passing.PASS_BYTES)
    assert not joined(WORKERS - 1).is_passed_on(passing.PASS_BYTES)


def test_nothing_is_fetched_before_its_digest_is_known():
    cluster = Cluster(joined())
    want(cluster, 3, has_digest=False)
    while cluster.step():
        pass
    assert cluster.sent == 1 and not cluster.open
    cluster.perform(cluster.policy.on_digest(VALUE, DIGEST))
    while cluster.step():
        pass
    assert cluster.sent == 1 and len(cluster.policy._values[VALUE].holders) == 3


def test_where_no_worker_reaches_another_the_master_sends_all_after_few_trials():
    tried = []

    def reaches(worker, source):
        tried.append((worker, source))
        return False

    cluster = Cluster(joined(100), reaches)
    want(cluster, 100)
    while cluster.step():
        pass
    assert cluster.sent == 100
    assert len(cluster.policy._values[VALUE].holders) == 100
    assert len(tried) <= WALLED * (TRIES + GIVES)
    assert not cluster.policy.is_passed_on(passing.PASS_BYTES)


def test_a_worker_that_reaches_no_other_gets_it_from_the_master_and_later_values_at_once():
    cluster = Cluster(joined(20), lambda worker, source: worker != "w5")
    want(cluster, 20)
    while cluster.step():
        pass
    assert cluster.sent == 2
    assert len(cluster.policy._values[VALUE].holders) == 20
    actions = cluster.policy.on_wanted("w5", [(7, 4)])
    assert actions == [AskDigest((7, 4)), SendValue("w5", (7, 4))]


def test_a_worker_behind_a_wall_is_not_asked_for_long():
    cluster = Cluster(joined(20), lambda worker, source: source != "w0")
    want(cluster, 20)
    while cluster.step():
        pass
    assert len(cluster.policy._values[VALUE].holders) == 20
    assert cluster.sent <= 1 + 2 * TRIES
    assert len(cluster.policy._ports["w0"].failed) < TRIES + GIVES


def test_a_worker_that_cannot_open_a_port_is_no_source():
    cluster = Cluster(joined())
    want(cluster, 2)
    cluster.step()
    (worker,) = cluster.opening
    assert worker == "w0"
    assert cluster.policy.on_opened("w0", 0, []) == [SendValue("w1", VALUE)]
    cluster.policy.check_invariants()


def test_the_source_is_lost_in_the_middle_and_the_others_still_get_it():
    cluster = Cluster(joined())
    want(cluster, WORKERS)
    cluster.step()  # the master has sent it
    cluster.step()  # w0 has its port open
    assert [action.source for action in cluster.fetching] == ["w0"] * GIVES
    cluster.reaches = lambda worker, source: source != "w0"
    cluster.drop("w0")
    while cluster.step():
        pass
    assert len(cluster.policy._values[VALUE].holders) == WORKERS - 1


def test_what_a_worker_was_told_to_forget_is_not_fetched_from_it():
    cluster = Cluster(joined())
    want(cluster, 1)
    cluster.step()
    assert cluster.policy.on_forgotten("w0", [VALUE]) == []
    assert cluster.policy.on_wanted("w1", [VALUE]) == [SendValue("w1", VALUE)]


def test_a_value_that_the_client_has_let_go_still_comes_to_those_that_wait():
    cluster = Cluster(joined())
    want(cluster, 3)
    cluster.perform(cluster.policy.on_let_go([VALUE]))
    while cluster.step():
        pass
    assert cluster.sent == 1
    assert not cluster.policy._values


def test_a_client_that_is_back_is_asked_for_the_digest_again():
    cluster = Cluster(joined())
    want(cluster, 2, has_digest=False)
    assert cluster.policy.on_client_back(8) == []
    assert cluster.policy.on_client_back(7) == [AskDigest(VALUE)]


def test_the_master_sends_what_nobody_can_check_any_more():
    cluster = Cluster(joined())
    want(cluster, 3, has_digest=False)
    cluster.perform(cluster.policy.on_let_go([VALUE]))
    while cluster.step():
        pass
    assert cluster.sent == 3


def test_a_late_open_is_ignored_and_the_session_that_ends_closes_the_ports():
    cluster = Cluster(joined())
    want(cluster, 2)
    cluster.step()
    assert cluster.opening == ["w0"]
    assert cluster.policy.on_session_closed(7) == [Close("w0")]
    assert cluster.policy.on_opened("w0", 1000, ["w0"]) == []
    assert cluster.policy.on_held("w1", VALUE) == []
    cluster.policy.check_invariants()


@pytest.mark.parametrize("seed", range(60))
def test_random_events(seed):
    random = Random(seed)
    count = random.randrange(WORKERS, 30)
    walls = {
        (f"w{a}", f"w{b}")
        for a in range(count)
        for b in range(count)
        if random.random() < random.choice([0, 0.3, 1])
    }
    cluster = Cluster(joined(count), lambda worker, source: (worker, source) not in walls)
    policy = cluster.policy
    values = [(session, number) for session in (1, 2) for number in (1, 2)]
    there = {f"w{number}" for number in range(count)}
    for _ in range(300):
        what = random.randrange(10)
        worker = f"w{random.randrange(count)}"
        value = random.choice(values)
        if what < 5:
            cluster.step(random.randrange)
        elif what == 5 and worker in there:
            there.discard(worker)
            cluster.drop(worker)
        elif what == 5:
            there.add(worker)
            policy.on_joined(worker)
        elif what == 6:
            cluster.perform(policy.on_digest(value, DIGEST))
        elif what < 9 and worker in there:
            cluster.perform(policy.on_wanted(worker, [value]))
        elif worker in there and random.random() < 0.5:
            cluster.perform(policy.on_forgotten(worker, [value]))
        elif random.random() < 0.1:
            cluster.perform(policy.on_session_closed(value[0]))
        elif random.random() < 0.1:
            cluster.perform(policy.on_let_go([value]))
    for value in values:
        cluster.perform(policy.on_digest(value, DIGEST))
    while cluster.step(random.randrange):
        pass
    for value in policy._values.values():
        assert not value.waiting and not value.fetching and not value.sent, "all have what they wait for"
