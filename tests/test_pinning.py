"""The CPUs to which runners are bound."""

import os
import random
import time

import pytest
from programs import LIMIT, Master, Worker

import cw
from cw.worker.policy.pinning import Pinning

# Two nodes of four cores with two hardware threads each: CPUs 0-7 are of node 0, core n has the CPUs 2n and 2n + 1.
TWO_NODES = Pinning({cpu: cpu // 8 for cpu in range(16)}, {cpu: cpu & ~1 for cpu in range(16)})
ALL = range(16)


@pytest.mark.parametrize(
    ("count", "free", "before", "chosen"),
    [
        (2, ALL, (), (0, 1)),  # both threads of one core
        (1, ALL, (), (0,)),
        (1, [1, *range(2, 8)], (), (2,)),  # an idle core rather than half of one
        (3, [1, 2, 3, 4, 5], (), (2, 3, 4)),
        (4, [0, 1, *range(8, 16)], (), (8, 9, 10, 11)),  # on one node
        (2, [6, 7, *range(8, 16)], (), (6, 7)),  # the node with the least room that suffices
        (2, [4, 5, 6, 7, *range(8, 16)], (9, 10), (9, 10)),  # where it was
        (2, [4, 5, 6, 7, 10, 11, 12, 13, 14], (8, 9), (10, 11)),  # at least on its node
        (10, ALL, (), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),  # more than a node has
        (6, [0, 1, 2, *range(8, 13)], (), (0, 8, 9, 10, 11, 12)),
        (3, [1, 2], (), ()),
    ],
)
def test_the_choice(count, free, before, chosen):
    assert TWO_NODES.choose(count, free, before) == chosen


def test_jobs_have_cpus_of_their_own_and_of_as_few_nodes_as_possible():
    generator = random.Random(1)
    busy = {}
    for step in range(2000):
        free = set(ALL).difference(*busy.values())
        if busy and generator.random() < 0.5:
            del busy[generator.choice(list(busy))]
            continue
        count = generator.choice([1, 1, 2, 4, 7])
        before = tuple(generator.sample(ALL, generator.choice([0, count])))
        chosen = TWO_NODES.choose(count, free, before)
        assert len(chosen) == (count if count <= len(free) else 0) and set(chosen) <= free
        if chosen:
            nodes = {cpu // 8 for cpu in chosen}
            has_room = any(len([cpu for cpu in free if cpu // 8 == node]) >= count for node in (0, 1))
            assert len(nodes) == 1 or not has_room or set(chosen) == set(before)
            busy[step] = set(chosen)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU is all that there is")
def test_jobs_of_a_worker_run_on_cpus_of_their_own():
    def where(seconds):
        time.sleep(seconds)
        return os.sched_getaffinity(0)

    with (
        Master() as master,
        Worker(master.address, "-n", "2", "--pin"),
        cw.ClusterExecutor(master.address) as executor,
    ):
        one, other = (future.result(LIMIT) for future in [executor.submit(where, 1) for _ in range(2)])
        assert len(one) == len(other) == 1 and one != other
        assert len(executor.options(cpus=2).submit(where, 0).result(LIMIT)) == 2
