"""The size of an elastic cluster: facts in, orders out."""

import math
import random

import pytest

from cw.elastic import failures
from cw.elastic.failures import Failures
from cw.elastic.offer import Offer, jobs_at_once, lacks
from cw.elastic.plan import (
    EXCESS_SECONDS,
    Demand,
    Limits,
    Piece,
    Plan,
    Stage,
    Supply,
    Trend,
    plan,
)
from cw.needs import UNITS_PER_GPU, Needs

WAITING, STARTING, RUNNING, ENDING = Stage


def limits(most=512, piece=1, least=0, backlog=4, is_whole=False, **offer):
    return {"cpu": Limits(Offer(piece, **offer), most, least, backlog, is_whole)}


def pieces(stage, *sizes, first=1, stays=False):
    return [Piece(first + place, size, stage, stays) for place, size in enumerate(sizes)]


def jobs(waiting, running=0, seconds=3600.0, **needs):
    min_time = needs.pop("min_time", 0.0)
    return Demand(waiting, running, seconds, (Needs(**needs),), min_time)


def order(demand, allowed, there=(), now=0.0, kind="cpu", **supply):
    """The order for one kind, whose pieces are `there`."""
    return plan(demand, {kind: Supply(list(there), **supply)}, allowed, now).orders[kind]


def sizes(found):
    return [slots for slots, _ in found.submit]


# --- how many, and which ----------------------------------------------------------------------------------------------


def test_without_jobs_nothing_is_submitted():
    assert order([], limits(piece=2)) == (0, [], [], Trend())


def test_the_backlog_is_filled_and_not_beyond():
    found = order([jobs(100)], limits(piece=2, backlog=4))
    assert (found.wanted, sizes(found)) == (100, [2, 2, 2, 2])


def test_a_full_backlog_gets_nothing_more_however_often_one_looks():
    there = pieces(WAITING, 1, 1, 1, 1)
    trend = Trend()
    for now in range(100):
        found = order([jobs(100)], limits(backlog=4), there, now, trend=trend)
        trend = found.trend
        assert (found.submit, found.cancel) == ([], [])


def test_pieces_that_have_started_leave_room_in_the_backlog():
    there = pieces(WAITING, 1, 1) + pieces(STARTING, 1, first=3) + pieces(RUNNING, 1, first=4)
    assert sizes(order([jobs(100)], limits(backlog=4), there)) == [1, 1]


def test_when_the_jobs_run_out_the_backlog_is_not_filled_and_the_last_piece_is_smaller():
    # 5 jobs in pieces of 2: 2 + 2 + 1
    assert sizes(order([jobs(5)], limits(piece=2, backlog=5))) == [2, 2, 1]


def test_at_the_maximum_the_last_piece_is_smaller():
    # 6 = 4 + 2
    assert sizes(order([jobs(100)], limits(most=6, piece=4, backlog=2))) == [4, 2]


def test_small_pieces_never_take_the_last_room_for_a_whole_one():
    """Otherwise a job that needs a whole piece waits until small ones end, which may be never."""
    assert sizes(order([jobs(1)], limits(most=4, piece=4))) == [4]
    assert sizes(order([jobs(1)], limits(most=5, piece=4))) == [1]
    there = pieces(RUNNING, *[1] * 6)
    assert sizes(order([jobs(1, running=6)], limits(most=10, piece=4), there)) == [4]
    assert order([], limits(least=3, most=4, piece=4)).submit == [(4, True)]
    # jobs come one by one, and each piece has work for ever
    for most, size in [(10, 4), (9, 2), (7, 7), (23, 8)]:
        there = []
        for count in range(1, most + 1):
            found = order([jobs(1, running=count - 1)], limits(most=most, piece=size), there)
            there += pieces(RUNNING, *sizes(found), first=count * 10)
        assert size in [piece.slots for piece in there]


def test_pieces_of_whole_nodes_are_not_cut_nor_beyond_the_maximum():
    assert sizes(order([jobs(1)], limits(piece=4, is_whole=True))) == [4]
    assert sizes(order([jobs(100)], limits(most=6, piece=4, is_whole=True))) == [4]


def test_what_waits_and_starts_counts_as_supply():
    there = pieces(WAITING, 1) + pieces(STARTING, 1, first=2)
    assert sizes(order([jobs(2)], limits(), there)) == []
    assert sizes(order([jobs(3)], limits(), there)) == [1]


def test_what_ends_is_no_supply_but_counts_against_the_maximum():
    there = pieces(ENDING, 1)
    assert sizes(order([jobs(1)], limits(most=2), there)) == [1]
    assert sizes(order([jobs(1)], limits(most=1), there)) == []


def test_the_maximum_holds_for_all_pieces_and_one_that_ended_leaves_room():
    there = pieces(RUNNING, 1, 1) + pieces(WAITING, 1, 1, first=3)
    assert sizes(order([jobs(100)], limits(most=5), there)) == [1]
    assert sizes(order([jobs(100)], limits(most=5), [*there, Piece(9, 1, WAITING)])) == []
    assert sizes(order([jobs(100)], limits(most=5), there[1:])) == [1, 1]


def test_jobs_that_only_run_want_nothing_new():
    """They may run on workers that somebody started by hand."""
    assert sizes(order([jobs(0, running=8)], limits())) == []


def test_a_new_slot_has_work_for_three_times_its_start():
    # 100 jobs of 3 s = 300 s of work; 300 / (3 x 10 s) = 10 slots
    assert order([jobs(100, seconds=3.0)], limits(), start_seconds=10.0).wanted == 10
    # 300 / (3 x 100 s) = 1 slot
    assert order([jobs(100, seconds=3.0)], limits(), start_seconds=100.0).wanted == 1
    # work for a part of a second: one slot all the same
    assert order([jobs(3, seconds=0.001)], limits(), start_seconds=10.0).wanted == 1


def test_while_durations_are_unknown_the_slots_double():
    unknown = jobs(1000, seconds=None)
    assert order([unknown], limits(piece=2)).wanted == 2
    assert order([unknown], limits(piece=2), pieces(RUNNING, 2)).wanted == 4
    assert order([unknown], limits(piece=2), pieces(RUNNING, 2, 2)).wanted == 8
    # (those that wait or start have shown nothing yet)
    assert order([unknown], limits(piece=2), pieces(STARTING, 2, 2)).wanted == 2


def test_jobs_that_take_no_end_do_not_hold_up_the_others():
    """The median says 1 s, but what runs has run for an hour."""
    there = pieces(RUNNING, 1, 1, 1)
    demand, trend = [jobs(5, running=3, seconds=1.0)], Trend()
    found = order(demand, limits(), there, now=0.0, trend=trend)
    assert found.submit == []  # the three slots are expected to do it
    found = order(demand, limits(), there, now=29.0, trend=found.trend)
    assert found.submit == []
    found = order(demand, limits(), there, now=30.0, trend=found.trend)
    assert sizes(found) == [1]


def test_while_jobs_end_nothing_is_held_up():
    there, trend = pieces(RUNNING, 1, 1, 1), Trend()
    for now in range(0, 200, 2):  # one fewer waits every 2 s
        found = order([jobs(200 - now // 2, running=3, seconds=0.1)], limits(), there, now, trend=trend)
        assert found.submit == []
        trend = found.trend


# --- min, and what is not wanted any more -----------------------------------------------------------------------------


def test_the_minimum_is_there_without_jobs_and_its_pieces_stay():
    # at once, whatever the backlog
    assert order([], limits(least=7, piece=2, backlog=1)).submit == [
        (2, True),
        (2, True),
        (2, True),
        (1, True),
    ]
    there = pieces(RUNNING, 2, 2, 2, 1, stays=True)
    assert order([], limits(least=7, piece=2), there) == (7, [], [], Trend())


def test_beyond_the_minimum_pieces_do_not_stay():
    assert order([jobs(8)], limits(least=2, piece=4)).submit == [(2, True), (4, False), (2, False)]


def test_a_lost_piece_of_the_minimum_is_replaced():
    there = pieces(RUNNING, 2, 2, stays=True)
    assert order([], limits(least=6, piece=2), there).submit == [(2, True)]


def test_min_and_max_the_same_is_a_cluster_of_that_size():
    there = pieces(RUNNING, 8, 4, stays=True)
    same = limits(least=12, most=12, piece=8)
    assert order([jobs(1000)], same, there).submit == []
    assert order([], same, there[:1]).submit == [(4, True)]


def test_pieces_that_wait_and_are_not_wanted_are_cancelled_newest_first_after_some_time():
    there = pieces(RUNNING, 1) + pieces(WAITING, 1, 1, 1, first=2)
    found = order([jobs(1, running=1)], limits(), there, now=0.0)
    assert found.cancel == []
    found = order([jobs(1, running=1)], limits(), there, now=EXCESS_SECONDS, trend=found.trend)
    assert found.cancel == [4, 3]


def test_a_short_pause_between_batches_cancels_nothing():
    there = pieces(WAITING, 1, 1)
    found = order([], limits(), there, now=0.0)
    found = order([jobs(2)], limits(), there, now=EXCESS_SECONDS - 1, trend=found.trend)
    found = order([], limits(), there, now=EXCESS_SECONDS, trend=found.trend)
    assert found.cancel == []


def test_above_a_maximum_that_was_lowered_waiting_pieces_are_cancelled_at_once():
    there = pieces(RUNNING, 2, 2) + pieces(WAITING, 2, 2, first=3)
    assert order([jobs(100)], limits(most=6, piece=2), there).cancel == [4]
    assert order([jobs(100)], limits(most=1, piece=1), there).cancel == [4, 3]


def test_what_starts_or_runs_is_never_cancelled():
    there = pieces(RUNNING, 2, 2) + pieces(STARTING, 2, first=3) + pieces(ENDING, 2, first=4)
    found = order([], limits(most=0), there, now=1000.0, trend=Trend(excess_since=0.0))
    assert (found.cancel, found.submit) == ([], [])


# --- shapes and kinds -------------------------------------------------------------------------------------------------


def test_a_job_that_takes_a_part_of_a_piece_wants_that_part():
    # 3 jobs of 4 CPUs in pieces of 8 slots and 8 CPUs: 12 slots
    found = order([jobs(3, cpus=4)], limits(piece=8))
    assert (found.wanted, sizes(found)) == (12, [8, 4])
    # one slot has 2 CPUs: a job of 4 takes 2 slots
    assert order([jobs(3, cpus=4)], limits(piece=8, cpus=16)).wanted == 6
    # 32 GB for 8 slots, 10 GB a job: 3 at a time, so that 6 jobs take two pieces
    assert order([jobs(6, memory=10 * 10**9)], limits(piece=8, memory=32 * 10**9)).wanted == 16


def test_a_small_remainder_is_a_piece_in_which_the_widest_job_has_room():
    there = pieces(RUNNING, 8)
    # 1 job waits, 2 run: 12 slots wanted, 8 there
    assert sizes(order([jobs(1, running=2, cpus=4)], limits(piece=8), there)) == [4]


def test_a_need_that_no_piece_has_is_told_and_counts_as_no_demand():
    found = plan([jobs(5, cpus=4)], {}, limits(piece=2), 0.0)
    assert found.orders["cpu"].wanted == 0 and found.orders["cpu"].submit == []
    assert [refusal.why for refusal in found.refused] == [
        "a piece of the kind 'cpu': the job needs 4 CPUs, and it has 2"
    ]


def test_a_need_longer_than_the_time_limit_is_told_and_counts_as_no_demand():
    found = plan([jobs(1, min_time=3600.0)], {}, limits(seconds=1800.0), 0.0)
    assert (
        found.orders["cpu"].submit == []
        and "needs 3600 s, and its time limit is 1800 s" in found.refused[0].why
    )
    assert sizes(order([jobs(1, min_time=1800.0)], limits(seconds=1800.0))) == [1]


def test_a_gpu_that_is_missing_is_told_in_the_singular():
    (refusal,) = plan([jobs(1, gpus=UNITS_PER_GPU)], {}, limits(), 0.0).refused
    assert refusal.why == "a piece of the kind 'cpu': the job needs 1 GPU, and it has 0"


def test_a_job_wider_than_the_maximum_is_told():
    found = plan([jobs(1, cpus=8)], {}, limits(piece=8, most=4), 0.0)
    assert "more slots than 4 (--max)" in found.refused[0].why


def test_jobs_find_the_kind_that_has_what_they_need():
    kinds = limits(piece=4) | {"gpu": Limits(Offer(1, gpus=1, tags=("a100",)), most=8, backlog=8)}
    demand = [jobs(6), jobs(3, gpus=UNITS_PER_GPU), jobs(1, tags=("a100",))]
    found = plan(demand, {}, kinds, 0.0)
    assert found.refused == []
    assert (found.orders["cpu"].wanted, found.orders["gpu"].wanted) == (6, 4)


def test_jobs_without_a_gpu_do_not_start_gpus_while_another_kind_can_run_them():
    kinds = {"gpu": Limits(Offer(8, gpus=1), most=8)} | limits(piece=4, most=4)
    found = plan([jobs(100)], {}, kinds, 0.0)
    assert (found.orders["cpu"].wanted, found.orders["gpu"].wanted) == (4, 0)
    found = plan([jobs(1, cpus=8)], {}, kinds, 0.0)  # only that one has 8 CPUs
    assert (found.orders["cpu"].wanted, found.orders["gpu"].wanted) == (0, 8)


def test_what_is_beyond_one_kinds_maximum_is_for_the_next():
    kinds = {"short": Limits(Offer(1), most=3), "long": Limits(Offer(1), most=100)}
    found = plan([jobs(10)], {}, kinds, 0.0)
    assert (found.orders["short"].wanted, found.orders["long"].wanted) == (3, 7)


def test_the_next_kind_helps_out_while_one_is_paused():
    kinds = {"short": Limits(Offer(1), most=30), "long": Limits(Offer(1), most=100)}
    paused = Supply(failures=Failures(is_paused=True))
    found = plan([jobs(10)], {"short": paused}, kinds, 0.0)
    assert (found.orders["short"].submit, found.orders["long"].wanted) == ([], 10)


def test_of_alternatives_the_first_is_preferred_and_what_is_beyond_it_takes_the_next():
    kinds = limits() | {"gpu": Limits(Offer(1, gpus=1), most=2)}
    demand = Demand(5, 0, 100.0, (Needs(gpus=UNITS_PER_GPU), Needs()))
    found = plan([demand], {}, kinds, 0.0)
    assert (found.orders["gpu"].wanted, found.orders["cpu"].wanted) == (2, 3)


def test_jobs_of_another_python_than_the_pieces_are_told():
    demand = Demand(5, python=(3, 12))
    assert (
        "needs Python 3.12, and it has 3.11" in plan([demand], {}, limits(python=(3, 11)), 0.0).refused[0].why
    )
    assert plan([demand], {}, limits(python=(3, 12)), 0.0).refused == []
    assert plan([demand], {}, limits(), 0.0).refused == []  # unknown: in a container


@pytest.mark.parametrize(
    ("needs", "offer", "number"),
    [
        ({}, Offer(8), 8),
        ({"cpus": 3}, Offer(8), 2),
        ({"gpus": UNITS_PER_GPU // 2}, Offer(8, gpus=2), 4),
        ({"gpus": 2 * UNITS_PER_GPU // 3}, Offer(8, gpus=2), 2),  # a part is of one device
        ({"gpus": 2 * UNITS_PER_GPU}, Offer(8, gpus=4), 2),
        ({"gpus": 1}, Offer(8), 0),
        ({"resources": (("licence", 2),)}, Offer(8, resources=(("licence", 5),)), 2),
        ({"resources": (("licence", 2),)}, Offer(8), 0),
        ({"tags": ("avx512",)}, Offer(8), 0),
        ({"tags": ("avx512",)}, Offer(8, tags=("avx512", "big")), 8),
        ({"nodes": 2}, Offer(1, nodes=2), 1),
        ({"nodes": 2}, Offer(8), 0),
        ({}, Offer(1, nodes=2), 0),
        ({"memory": 10**9}, Offer(8), 8),  # unknown memory refuses nothing
    ],
)
def test_jobs_at_once_in_a_piece(needs, offer, number):
    needs = Needs(**needs)
    assert jobs_at_once(needs, offer) == number
    assert bool(lacks(needs, offer)) == (number == 0)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_delays_grow_with_the_failures_in_a_row():
    """0, 1, 15, 30, 60 minutes, and not more."""
    failed, now = Failures(), 1000.0
    for minutes in (0, 1, 15, 30, 60, 60, 60):
        failed = failed.on_refused("no", now)
        assert failed.until == now + minutes * 60 and not failed.is_paused
        now = failed.until
    assert failed.on_worked() == Failures()


def test_after_a_refusal_one_piece_is_tried_when_its_time_has_come():
    failed = Failures().on_refused("no", 0.0)
    assert sizes(order([jobs(100)], limits(), now=0.0, failures=failed)) == [1]
    failed = failed.on_refused("no", 0.0)
    assert sizes(order([jobs(100)], limits(), now=59.0, failures=failed)) == []
    assert sizes(order([jobs(100)], limits(), now=60.0, failures=failed)) == [1]


def test_three_pieces_that_die_at_once_pause_the_kind_until_it_is_resumed():
    failed = Failures()
    for _ in range(failures.MOST_DEATHS):
        assert not failed.is_paused
        failed = failed.on_died("exit status 1", 0.0)
    assert failed.is_paused and failed.why == "exit status 1"
    assert failed.on_worked().is_paused
    assert order([jobs(100)], limits(least=2), now=1e9, failures=failed).submit == []


def test_a_piece_that_works_ends_the_row_of_failures():
    failed = Failures().on_died("no", 0.0).on_died("no", 0.0).on_worked().on_died("no", 0.0)
    assert (failed.deaths, failed.is_paused) == (1, False)


# --- at random --------------------------------------------------------------------------------------------------------


class Cluster:
    """Pieces and jobs that come, go and fail at random, under the plan."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        pick = self.random.choice
        self.limits = {}
        for kind in ("cpu", "gpu")[: pick([1, 2])]:
            size = pick([1, 2, 4, 8])
            offer = Offer(size, gpus=kind == "gpu")
            most = pick([size, 7, 30])
            most = max(most, size)
            self.limits[kind] = Limits(offer, most, min(most, pick([0, 0, 3, size])), pick([1, 2, 4]))
        self.supply = dict.fromkeys(self.limits, Supply())
        self.demand = {}
        self.now, self.ident = 0.0, 0

    def look(self) -> Plan:
        found = plan(list(self.demand.values()), self.supply, self.limits, self.now)
        for kind, limit in self.limits.items():
            self.obey(kind, limit, found.orders[kind])
        return found

    def obey(self, kind, limit, order):
        supply = self.supply[kind]
        by_ident = {piece.ident: piece for piece in supply.pieces}
        assert all(by_ident[ident].stage is WAITING for ident in order.cancel)
        assert not (order.cancel and order.submit)
        there = [piece for piece in supply.pieces if piece.ident not in order.cancel]
        for slots, stays in order.submit:
            assert 0 < slots <= limit.offer.slots
            self.ident += 1
            there.append(Piece(self.ident, slots, WAITING, stays))
        if order.submit:
            assert not supply.failures.is_paused and self.now >= supply.failures.until
            assert sum(piece.slots for piece in there) <= limit.most
            fresh = sum(not stays for _, stays in order.submit)
            assert (
                not fresh or fresh + sum(piece.stage is WAITING for piece in supply.pieces) <= limit.backlog
            )
        assert limit.least <= order.wanted <= limit.most
        self.supply[kind] = supply._replace(pieces=there, trend=order.trend)

    def happen(self):
        """One random event."""
        pick, self.now = self.random.choice, self.now + self.random.choice([0.1, 1.0, 5.0, 30.0])
        kind = pick(list(self.limits))
        supply = self.supply[kind]
        there = list(supply.pieces)
        match pick(
            [
                "jobs",
                "jobs",
                "none",
                "stage",
                "stage",
                "stage",
                "stage",
                "lost",
                "refused",
                "resume",
                "limits",
            ]
        ):
            case "jobs":
                needs = Needs(cpus=pick([1, 1, 2, 4]), gpus=pick([0, 0, UNITS_PER_GPU]))
                seconds = pick([None, 0.001, 1.0, 100.0, 1e5])
                self.demand[needs] = Demand(pick([0, 1, 5, 1000]), pick([0, 1, 5]), seconds, (needs,))
            case "none":
                self.demand.clear()
            case "stage" if there:
                place = self.random.randrange(len(there))
                piece = there[place]
                after = {WAITING: STARTING, STARTING: RUNNING, RUNNING: ENDING}.get(piece.stage)
                there[place : place + 1] = [piece._replace(stage=after)] if after else []
            case "lost" if there:
                piece = pick(there)
                there.remove(piece)
                if piece.stage is STARTING:
                    supply = supply._replace(failures=supply.failures.on_died("", self.now))
            case "refused":
                supply = supply._replace(failures=supply.failures.on_refused("", self.now))
            case "resume":
                supply = supply._replace(failures=Failures())
            case "limits":
                most = max(self.limits[kind].offer.slots, pick([2, 9, 30]))
                self.limits[kind] = self.limits[kind]._replace(most=most, least=min(most, pick([0, 2, 8])))
        self.supply[kind] = supply._replace(pieces=there)

    def settle(self):
        """All that is submitted starts; nothing fails; those that are idle end, unless they stay."""
        for _ in range(300):
            self.now += 20.0
            for kind, supply in self.supply.items():
                idle = not any(each.waiting + each.running for each in self.demand.values())
                kept = [
                    piece._replace(stage=RUNNING)
                    for piece in supply.pieces
                    if piece.stage is not ENDING and not (idle and piece.stage is RUNNING and not piece.stays)
                ]
                self.supply[kind] = supply._replace(pieces=kept, failures=Failures())
            self.look()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_limits_hold_and_the_cluster_settles(seed):
    cluster = Cluster(seed)
    for _ in range(300):
        cluster.happen()
        cluster.look()
    cluster.demand.clear()
    cluster.settle()
    for (
        kind,
        limit,
    ) in cluster.limits.items():  # never below the minimum; above it only what was told to stay before
        staying = sum(piece.slots for piece in cluster.supply[kind].pieces if piece.stays)
        there = cluster.supply[kind].slots()
        assert limit.least <= there <= max(limit.least + limit.offer.slots, staying)


@pytest.mark.parametrize("seed", range(20))
def test_jobs_that_can_run_get_slots_in_the_end(seed):
    cluster = Cluster(seed)
    cluster.limits = {kind: limit._replace(least=0) for kind, limit in cluster.limits.items()}
    for kind, limit in cluster.limits.items():
        needs = Needs(gpus=UNITS_PER_GPU * (kind == "gpu"), cpus=limit.offer.slots)
        cluster.demand[needs] = Demand(1000, 0, cluster.random.choice([None, 10.0, 1e6]), (needs,))
    cluster.settle()
    for kind, limit in cluster.limits.items():
        whole = limit.most // limit.offer.slots * limit.offer.slots
        assert math.isclose(cluster.supply[kind].slots(), whole) or cluster.supply[kind].slots() >= whole
