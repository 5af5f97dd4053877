"""Jobs of many shapes: named facts. (Random ones: test_shapes.py.)"""

from test_dispatch import OTHER_PY, PY, assigned, dispatcher, jobs, known, result

from cw.master.policy.actions import SendToWorker
from cw.master.policy.fit import LATER, NEVER, NOW, fit
from cw.master.policy.placement import PATIENT_TICKS
from cw.net import messages as m
from cw.requirements import WorkerCapacity


def join(d, key, slots, cpus=0, memory=0, gpus=0, **others):
    devices = tuple(map(str, range(gpus)))
    actions = d.on_worker_joined(key, WorkerCapacity(slots, cpus, memory, devices, **others), PY)
    d.check_invariants()
    return actions


def submit(d, *made, session="s"):
    actions = d.on_submitted(session, [job for group in made for job in group])
    d.check_invariants()
    return actions


def orders(actions):
    return [(action.worker, action.message) for action in actions if type(action) is SendToWorker]


# --- room ---


def test_a_job_takes_its_cpus_and_the_others_share_the_rest():
    d = dispatcher("s")
    join(d, "w", 4)
    assert assigned(submit(d, jobs(1, cpus=3), jobs(2, 3))) == [("w", [1, 2])]
    assert assigned(result(d, "w", 1)) == [("w", [3])]
    assert d.state.workers["w"].free() == (2, 2)


def test_a_job_with_needs_starts_where_a_worker_has_them_all():
    d = dispatcher("s")
    join(d, "small", 4)
    join(d, "gpu", 4, gpus=1)
    join(d, "big", 4, memory=10**11)
    join(d, "licensed", 4, resources=(("licence", 2),), tags=("x",))
    made = [
        *jobs(1, gpus=1), *jobs(2, gpus=1), *jobs(3, resources={"licence": 2}),
        *jobs(4, resources={"licence": 1}, tags="x"), *jobs(5, tags="x"),
    ]  # fmt: skip
    assert sorted(assigned(submit(d, made))) == [("gpu", [1]), ("licensed", [3, 5])]
    assert assigned(result(d, "gpu", 1)) == [("gpu", [2])]
    assert assigned(result(d, "licensed", 2)) == [("licensed", [4])]


def test_memory_that_is_named_is_counted_where_it_is_known():
    d = dispatcher("s")
    join(d, "w", 4, memory=10 * 10**9)
    assert assigned(submit(d, jobs(1, memory="6GB"), jobs(2, memory="6GB"), jobs(3, memory="4GB"))) == [
        ("w", [1, 3])
    ]
    join(d, "unknown", 4)
    assert d.state.workers["unknown"].held and not d.wants_tick()


def test_parts_of_a_device_share_one_and_a_whole_one_needs_a_free_one():
    d = dispatcher("s")
    join(d, "w", 8, gpus=2)
    made = jobs(1, gpus=0.5), jobs(2, gpus=1), jobs(3, gpus=0.5), jobs(4, gpus=1)
    assert assigned(submit(d, *made)) == [("w", [1, 2, 3])]
    places = {job.number: job.place.devices for job in d.state.workers["w"].held.values()}
    assert places[1] == places[3] != places[2]
    assert result(d, "w", 1) and assigned(result(d, "w", 3)) == [("w", [4])]


def test_a_job_whose_shape_no_worker_can_run_waits_and_holds_up_none():
    d = dispatcher("s")
    join(d, "w", 2)
    assert assigned(submit(d, jobs(1, cpus=3), jobs(2, 3, 4))) == [("w", [2, 3])]
    assert d.state.workers["w"].reservation is None
    (job,) = (job for job in d.state.open_jobs("s").values() if job.number == 1)
    assert fit(job, d.state.workers["w"]) is NEVER and not d.state.can_run("s")
    assert assigned(join(d, "wide", 4)) == [("wide", [1, 4])]
    assert d.state.can_run("s") and fit(job, d.state.workers["wide"]) is LATER


def test_a_job_fits_now_or_later_by_what_is_free():
    d = dispatcher("s")
    join(d, "w", 4)
    submit(d, jobs(1, cpus=2), jobs(2, 3, cpus=2))
    (waiting,) = (job for job in d.state.open_jobs("s").values() if job.worker is None)
    assert fit(waiting, d.state.workers["w"]) is LATER
    d.state.sessions["s"].is_blocked = True
    d.state.stop_waiting(waiting.queue)
    result(d, "w", 1)
    assert fit(waiting, d.state.workers["w"]) is NOW


# --- order ---


def test_first_come_first_served_over_shapes():
    d = dispatcher("s")
    join(d, "w", 2)
    submit(d, jobs(1, cpus=2), jobs(2), jobs(3, cpus=2), jobs(4))
    assert assigned(result(d, "w", 1)) == [("w", [2])]  # 4 would delay 3, which is older
    assert assigned(result(d, "w", 2)) == [("w", [3])]
    assert assigned(result(d, "w", 3)) == [("w", [4])]


def test_priorities_go_first_over_shapes():
    d = dispatcher("s")
    join(d, "w", 2)
    submit(d, jobs(1, cpus=2))
    submit(d, jobs(2, cpus=2), jobs(3))
    d.on_submitted_apart("s", jobs(4, priority=1))
    assert assigned(result(d, "w", 1)) == [("w", [4])]


def test_clients_take_turns_by_the_cpus_that_they_hold():
    d = dispatcher("wide", "narrow")
    join(d, "w", 8)
    submit(d, jobs(1, 2, 3, cpus=4), session="wide")
    submit(d, jobs(*range(10)), session="narrow")
    result(d, "w", 1)
    assert len(d.state.sessions["narrow"].jobs) == 10
    held = [job.session.key for job in d.state.workers["w"].held.values()]
    assert held.count("narrow") == 4 and held.count("wide") == 1


def test_a_second_alternative_starts_only_where_the_first_cannot():
    d = dispatcher("s")
    join(d, "cpu", 4)
    join(d, "gpu", 4, gpus=1)
    options = {"alternatives": [{"gpus": 1}, {"cpus": 4}]}
    assert sorted(assigned(submit(d, jobs(1, 2, 3, **options)))) == [("cpu", [2]), ("gpu", [1])]
    assert [job.place.choice for w in ("gpu", "cpu") for job in d.state.workers[w].held.values()] == [0, 1]
    d.on_worker_departed("gpu")
    assert assigned(result(d, "cpu", 2)) == [("cpu", [1])]


def test_a_job_without_a_gpu_leaves_workers_with_one_to_others():
    d = dispatcher("s")
    join(d, "gpu", 4, gpus=1)
    join(d, "cpu", 4)
    assert assigned(submit(d, jobs(1, cpus=2), jobs(2, gpus=1))) == [("cpu", [1]), ("gpu", [2])]


def test_the_emptiest_worker_is_first_and_the_fullest_where_idle_ones_end():
    for ends_idle, places in (False, ["v", "w", "v"]), (True, ["v", "v", "w"]):
        d = dispatcher("s")
        for key in "v", "w":
            join(d, key, 4, ends_idle=ends_idle)
        found = [worker for n in range(3) for worker, _ in assigned(submit(d, jobs(n, cpus=2)))]
        assert found == places


def test_jobs_of_one_cpu_go_to_the_fullest_worker_where_idle_ones_end():
    d = dispatcher("s")
    for key in "u", "v", "w":
        join(d, key, 2, ends_idle=key != "w")
    assert assigned(submit(d, jobs(1, 2))) == [("w", [1, 2])]  # it does not end
    assert assigned(submit(d, jobs(3))) == [("u", [3])]
    d.on_worker_draining("w")
    d.on_cut_short("w", [1, 2])
    assert d.state.held("u") == 2 and d.state.held("v") == 1
    result(d, "u", 3)
    result(d, "v", *d.state.workers["v"].held)
    assert assigned(submit(d, jobs(4))) == [("u", [4])]


# --- reservations ---


def test_the_oldest_job_that_does_not_fit_reserves_the_worker_that_has_room_first():
    d = dispatcher("s", "t")
    join(d, "long", 2)
    join(d, "soon", 2)
    submit(d, jobs(1, f=known(100.0), cpus=2), jobs(2, f=known(10.0)), jobs(3, f=known(10.0)))
    assert d.state.held("long") == 1 and d.state.held("soon") == 2
    submit(d, jobs(4, cpus=2), jobs(5, cpus=2))
    submit(d, jobs(*range(10)), session="t")
    assert d.state.workers["soon"].reservation.session.key == "s"
    assert d.state.workers["long"].reservation is None  # one for each client
    assert assigned(result(d, "soon", 2)) == []  # nothing that delays it
    assert assigned(result(d, "soon", 3)) == [("soon", [4])]


def test_nothing_is_kept_free_where_no_other_job_wants_it():
    d = dispatcher("s")
    join(d, "w", 4)
    submit(d, jobs(*range(10), cpus=3))
    assert d.state.workers["w"].reservation is None


def test_what_was_sent_ahead_to_a_reserved_worker_is_taken_back():
    d = dispatcher("s", "t")
    join(d, "w", 2)
    submit(d, jobs(*range(9), f=known(1e-3)), session="t")
    assert d.state.held("w") == 9
    assert orders(submit(d, jobs(1, cpus=2))) == [("w", m.Recall(7))]
    assert assigned(d.on_recalled("w", [3, 4, 5, 6, 7, 8, 9])) == []
    assert assigned(result(d, "w", 1)) == []
    assert assigned(result(d, "w", 2)) == [("w", [1])]


def test_others_run_beside_a_reservation():
    d = dispatcher("s", "t")
    join(d, "w", 4)
    submit(d, jobs(1, 2, f=known(10.0), cpus=2), session="t")
    submit(d, jobs(3, cpus=3))
    submit(d, jobs(4, 5, f=known(10.0)), session="t")
    assert assigned(result(d, "w", 1)) == [("w", [4])]  # beside; a second one would not leave 3 CPUs free
    assert assigned(result(d, "w", 2)) == [("w", [3])]
    assert assigned(result(d, "w", 3)) == [("w", [5])]  # the first one beside has gone on


def test_a_job_with_a_time_limit_runs_before_a_reservation_begins():
    d = dispatcher("s", "t")
    join(d, "w", 2)
    submit(d, jobs(1, f=known(100.0)), session="t")
    submit(d, jobs(2, f=known(10.0)), jobs(3, cpus=2))
    submit(d, jobs(4, f=known(1.0), timeout=50), jobs(5, f=known(1.0), timeout=200), session="t")
    assert d.state.workers["w"].reservation.room_at == 100.0
    assert assigned(result(d, "w", 2)) == [("w", [4])]
    d.state.tallies.now = 40.0
    assert assigned(result(d, "w", 3)) == []


def test_a_reservation_moves_on_when_its_worker_drains_is_away_or_lost():
    for is_gone in (
        lambda d: d.on_worker_draining("w"),
        lambda d: d.on_worker_away("w"),
        lambda d: d.on_worker_lost("w", {"how": "lost"}),
        lambda d: d.on_worker_departed("w"),
    ):
        d = dispatcher("s", "t")
        join(d, "w", 2)
        submit(d, jobs(1, f=known(1.0), cpus=2), session="t")
        join(d, "v", 2)
        submit(d, jobs(2, f=known(100.0), cpus=2), session="t")
        submit(d, jobs(4, 5, 6, 7), session="t")
        submit(d, jobs(3, cpus=2))
        assert d.state.workers["w"].reservation is not None
        is_gone(d)
        d.check_invariants()
        assert d.state.workers["v"].reservation.session.key == "s"


def test_a_worker_is_free_again_when_what_it_kept_room_for_does_not_wait():
    for is_over in (
        lambda d: d.on_cancelled("s", [3]),
        lambda d: d.on_blocked("s", True),
        lambda d: d.on_session_absent("s"),
        lambda d: d.on_session_closed("s"),
    ):
        d = dispatcher("s", "t")
        join(d, "w", 2)
        submit(d, jobs(1, 2, f=known(1.0)), session="t")
        submit(d, jobs(3, cpus=2))
        submit(d, jobs(4), session="t")
        assert assigned(result(d, "w", 1)) == []
        assert not d.wants_tick()
        is_over(d)
        assert d.wants_tick() and assigned(d.on_tick()) == [("w", [4])]
        assert d.state.workers["w"].reservation is None and not d.wants_tick()
        d.check_invariants()


# --- ahead ---


def test_short_jobs_of_the_same_needs_are_sent_ahead_and_take_over_their_places():
    d = dispatcher("s")
    join(d, "w", 4)
    submit(d, jobs(*range(100), f=known(1e-3), cpus=2))
    assert 50 < d.state.held("w") < 100
    assert d.state.workers["w"].shaped.use.cpus == 4
    result(d, "w", 1, 2, 3, seconds=1e-3)
    assert d.state.workers["w"].shaped.use.cpus == 4


def test_long_jobs_and_those_of_unknown_duration_are_not_sent_ahead():
    for f in known(1.0), known(float("inf")):
        d = dispatcher("s")
        join(d, "w", 4)
        submit(d, jobs(*range(100), f=f, cpus=2))
        assert d.state.held("w") == 2


def test_what_was_sent_ahead_is_taken_back_when_another_worker_has_room():
    d = dispatcher("s")
    join(d, "w", 2)
    submit(d, jobs(*range(20), f=known(1e-3), cpus=2))
    assert d.state.held("w") == 20
    join(d, "other", 1)  # of no use for these
    assert not orders(d.on_tick())
    join(d, "v", 2)
    assert d.wants_tick()
    assert orders(d.on_tick()) == [("w", m.TakeBack(list(range(2, 21))))]
    d.on_started("w", [1])
    assert assigned(d.on_returned("w", range(2, 21)))[0][0] == "v"
    d.check_invariants()
    assert not orders(d.on_tick())


# --- what comes back ---


def test_a_job_that_a_worker_holds_from_before_takes_its_vector():
    d = dispatcher("s")
    submit(d, jobs(1, cpus=3), jobs(2, cpus=3), jobs(3))
    assert assigned(
        d.on_worker_joined("w", WorkerCapacity(4), PY, [(77, "s", 1, m.RUNNING)])
    ) == [("w", [3])]  # fmt: skip
    d.check_invariants()
    assert d.state.workers["w"].held[77].place.needs.cpus == 3 and d.state.workers["w"].free() == (2, 0)
    assert assigned(result(d, "w", 77)) == [("w", [2])]


def test_alternatives_that_a_worker_holds_from_before_are_what_it_can_run():
    d = dispatcher("s")
    submit(d, jobs(1, alternatives=[{"gpus": 1}, {"cpus": 3}]))
    d.on_worker_joined("w", WorkerCapacity(4), PY, [(77, "s", 1, m.RUNNING)])
    (job,) = d.state.workers["w"].held.values()
    assert job.place.choice == 1 and d.state.workers["w"].free() == (3, 1)


def test_a_job_whose_runner_died_goes_elsewhere_with_its_vector():
    d = dispatcher("s")
    join(d, "w", 1, cpus=4)
    submit(d, jobs(1, cpus=4))
    join(d, "v", 1, cpus=4)
    actions = d.on_runner_died("w", 1, {"how": "killed", "slot": 0})
    assert assigned(actions) == [("v", [1])]
    d.check_invariants()
    assert d.state.workers["w"].shaped is None and d.state.workers["w"].free() == (1, 4)


def test_a_nested_job_uses_the_vector_that_its_parent_lends():
    d = dispatcher("s")
    join(d, "w", 1, cpus=4, gpus=1)
    submit(d, jobs(1, cpus=4, gpus=1))
    d.on_session_opened("n", PY, 1, 1)
    assert submit(d, jobs(1, cpus=3, gpus=1), jobs(2, cpus=2), session="n") == []
    assert assigned(d.on_lent("w", 0, [0])) == [("w", [1])]
    d.check_invariants()
    assert d.on_lent("w", 1, []) == []
    result(d, "w", 2)
    assert assigned(d.on_lent("w", 0, [0])) == [("w", [2])]
    d.check_invariants()


def test_a_nested_job_that_needs_more_than_is_lent_and_free_waits():
    d = dispatcher("s")
    join(d, "w", 1, cpus=4, gpus=1)
    submit(d, jobs(1, cpus=2))
    d.on_session_opened("n", PY, 1, 1)
    submit(d, jobs(1, cpus=5), jobs(2, cpus=4, gpus=1), session="n")
    assert assigned(d.on_lent("w", 0, [0])) == [("w", [2])]  # two CPUs are lent, two are free
    assert d.state.workers["w"].shaped.use.cpus == 4
    d.check_invariants()


def test_a_worker_that_can_use_fewer_slots_gets_no_more_jobs():
    d = dispatcher("s")
    join(d, "w", 4)
    d.on_worker_capacity("w", 1, [])
    assert assigned(submit(d, jobs(1, 2, cpus=2))) == [("w", [1])]
    assert assigned(d.on_worker_capacity("w", 4, [])) == [("w", [2])]
    d.check_invariants()


def test_other_versions_of_python_are_other_pools():
    d = dispatcher("s")
    d.on_session_opened("t", OTHER_PY)
    join(d, "w", 4)
    assert submit(d, jobs(1, cpus=2), session="t") == []
    assert assigned(d.on_worker_joined("v", WorkerCapacity(2), OTHER_PY)) == [("v", [1])]
    d.check_invariants()


def test_jobs_of_the_same_needs_that_were_sent_ahead_are_no_reason_to_reserve():
    d = dispatcher("s")
    join(d, "w", 4)
    submit(d, jobs(*range(300), f=known(1e-3), cpus=2))
    assert d.state.workers["w"].reservation is None and d.state.workers["w"].shaped.ahead > 50


def test_a_short_job_reserves_only_when_it_has_waited_for_some_ticks():
    d = dispatcher("s", "t")
    join(d, "w", 2)
    submit(d, jobs(*range(500), f=known(1e-3)), session="t")
    assert orders(submit(d, jobs(1, f=known(1e-3), cpus=2))) == []
    held = d.state.held("w")
    for _ in range(PATIENT_TICKS - 1):
        assert d.wants_tick() and d.on_tick() == []
    assert orders(d.on_tick()) == [("w", m.Recall(held - 2))]
    assert d.state.workers["w"].reservation.session.key == "s" and not d.wants_tick()
    d.check_invariants()
