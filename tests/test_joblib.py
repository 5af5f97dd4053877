"""joblib's backend, with joblib's own Parallel, and with scikit-learn where it is installed."""

import concurrent.futures
import gc
import os
import signal
import threading
import types
import warnings

import pytest
from conftest import import_recipe, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import Master, Worker

import cw
from cw.cpus import usable_cpus

joblib = pytest.importorskip("joblib")
np = pytest.importorskip("numpy")
import parallel_calls as calls  # noqa: E402
from joblib import Parallel, delayed  # noqa: E402

from cw.joblib import ClusterBackend, LargeArguments, SlotThreads  # noqa: E402

LIMIT = 60.0
MB = 1 << 20


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared(cluster):
    """The backend of most tests: its runners have loaded joblib."""
    return ClusterBackend()


@pytest.fixture
def backend(shared):
    """It, as the one that is in use."""
    with joblib.parallel_config(backend=shared):
        yield shared


@pytest.fixture(autouse=True)
def _no_circles():
    yield
    gc.collect()  # an unordered generator of joblib's is part of one, and so is the client that it uses


# --- calls and results ------------------------------------------------------------------------


def test_the_name_is_registered_and_leads_to_the_cluster(cluster):
    with joblib.parallel_config(backend="cw", host=cluster.master):
        found = Parallel(n_jobs=2)(delayed(calls.where)(n) for n in range(4))
    assert os.getpid() not in {pid for pid, _ in found}


def test_results_come_in_the_order_of_the_calls(backend):
    assert Parallel()(delayed(calls.square)(n) for n in range(200)) == [n * n for n in range(200)]


@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
@pytest.mark.parametrize("pre_dispatch", ["all", 3, "2*n_jobs"])
def test_all_ways_to_batch_and_to_look_ahead_give_the_same(backend, batch_size, pre_dispatch):
    parallel = Parallel(n_jobs=2, batch_size=batch_size, pre_dispatch=pre_dispatch)
    arguments = [((n, 2), {"times": 3}) for n in range(30)]
    found = parallel(delayed(calls.add)(*args, **kwargs) for args, kwargs in arguments)
    assert found == [(n + 2) * 3 for n in range(30)]


def test_functions_of_the_script_lambdas_and_closures_travel(backend):
    base = 10
    assert Parallel()(delayed(lambda n: n + base)(n) for n in range(3)) == [10, 11, 12]


def test_no_calls_give_no_results(backend):
    assert Parallel()([]) == []


def test_a_parallel_as_context_is_used_many_times(backend):
    with Parallel(n_jobs=2) as parallel:
        for count in (1, 5, 0, 20):
            assert parallel(delayed(calls.square)(n) for n in range(count)) == [n * n for n in range(count)]


def test_short_calls_travel_in_batches(backend):
    parallel = Parallel()
    parallel(delayed(calls.square)(n) for n in range(2000))
    assert parallel.n_dispatched_batches < 400
    parallel = Parallel(batch_size=1)
    parallel(delayed(calls.square)(n) for n in range(20))
    assert parallel.n_dispatched_batches == 20


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_give_results_as_they_are_taken(backend, return_as):
    results = Parallel(n_jobs=2, return_as=return_as)(delayed(calls.square)(n) for n in range(50))
    first = next(results)
    assert sorted([first, *results]) == [n * n for n in range(50)]


def test_an_unordered_generator_gives_first_what_is_ready_first(backend):
    naps = [1.0, 0.0, 0.0]
    results = Parallel(return_as="generator_unordered", batch_size=1)(
        delayed(calls.nap)(nap, nap) for nap in naps
    )
    assert [*results] == [0.0, 0.0, 1.0]


def test_a_generator_that_is_dropped_stops_its_calls(backend, shared):
    results = Parallel(n_jobs=2, return_as="generator")(delayed(calls.nap)(60) for _ in range(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib says that it was dropped
        del results
        gc.collect()
        wait_until(lambda: not shared._futures and not shared._executor._session.outstanding())


def test_an_initializer_runs_once_in_each_runner(cluster, tmp_path):
    array = np.zeros(MB)
    with joblib.parallel_config(backend="cw", initializer=calls.initialize, initargs=(3, tmp_path)):
        for _ in range(2):
            found = Parallel(n_jobs=2, batch_size=1)(
                delayed(calls.initialized)(*args) for args in [(), (array,)] * 4
            )
            assert found == [[3]] * 8
        processes = [name.split()[0] for name in os.listdir(tmp_path)]
        assert 0 < len(processes) == len(set(processes)) <= 2


def test_a_parallel_may_have_an_initializer_of_its_own(cluster):
    with joblib.parallel_config(
        backend=(backend := ClusterBackend(initializer=calls.initialize, initargs=(1,)))
    ):
        for options, expected in (({}, 1), ({"initializer": calls.initialize, "initargs": (2,)}, 2), ({}, 1)):
            for _ in range(2):
                assert expected in Parallel(n_jobs=2, **options)([delayed(calls.initialized)()])[0]
        assert all(len(found) <= 2 for found in Parallel(n_jobs=2)([delayed(calls.initialized)()] * 4))
    del backend


def test_an_initializer_that_fails_fails_the_calls(cluster):
    with joblib.parallel_config(backend="cw", initializer=calls.square, initargs=("text",)):
        with pytest.raises(cw.InitializerFailed, match="square failed on host"):
            Parallel(n_jobs=2)(delayed(calls.square)(n) for n in range(4))


# --- the number of jobs -----------------------------------------------------------------------


def test_the_number_of_jobs_is_that_of_the_slots_now(shared):
    assert shared.effective_n_jobs(-1) == 2 and shared.effective_n_jobs(None) == 2
    assert shared.effective_n_jobs(5) == 5
    with pytest.raises(ValueError, match="n_jobs == 0"):
        shared.effective_n_jobs(0)
    with joblib.parallel_config(backend=shared):
        assert joblib.effective_n_jobs() == 2


def test_with_one_slot_the_calls_run_on_the_cluster_too(shared, monkeypatch):
    monkeypatch.setattr(shared._executor, "slots", lambda: 1)
    assert shared.effective_n_jobs(-1) == shared.effective_n_jobs(-2) == 2


def test_the_first_slot_is_waited_for():
    with Master() as master:
        backend = ClusterBackend(master.address)
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            count = thread.submit(backend.effective_n_jobs, -1)
            wait_until(backend._executor._session.outstanding)
            with Worker(master.address, "-n", "3"):
                assert count.result(LIMIT) == 3
                del backend


def test_one_job_at_a_time_is_a_loop_in_this_process(backend):
    assert {pid for pid, _ in Parallel(n_jobs=1)(delayed(calls.where)(n) for n in range(3))} == {os.getpid()}


def test_no_more_jobs_run_at_a_time_than_were_asked_for(backend, shared, monkeypatch):
    counts = []
    submit = shared._jobs.submit
    monkeypatch.setattr(shared._jobs, "submit", lambda *args: counts.append(shared._count) or submit(*args))
    found = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)(delayed(calls.square)(n) for n in range(40))
    assert found == [n * n for n in range(40)]
    assert len(counts) == 40 and max(counts) == 2 and shared._count == 0


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_an_error_of_a_call_is_raised_with_its_remote_traceback_and_the_backend_works_on(backend, n_jobs):
    with pytest.raises(KeyError, match="no 7") as caught:
        Parallel(n_jobs=n_jobs)(delayed(calls.fail_at)(7, n) for n in range(1000))
    assert "fail_at" in str(caught.value.__cause__)
    assert Parallel(n_jobs=n_jobs)(delayed(calls.square)(n) for n in range(3)) == [0, 1, 4]


def test_after_an_error_running_calls_are_stopped(backend, shared, tmp_path):
    tasks = [delayed(calls.mark_and_nap)(tmp_path, 0, 300), delayed(calls.fail_when_marked)(tmp_path)]
    with pytest.raises(KeyError, match="failed"):
        Parallel(n_jobs=2, batch_size=1)(tasks)
    assert not shared._futures
    assert Parallel(n_jobs=2)(delayed(calls.square)(n) for n in range(3)) == [0, 1, 4]


def test_a_timeout_is_raised_and_the_call_is_stopped(backend, shared):
    with pytest.raises(joblib.parallel.TimeoutError):
        Parallel(n_jobs=2, timeout=0.2)(delayed(calls.nap)(60) for _ in range(2))
    wait_until(lambda: not shared._futures)
    assert Parallel(n_jobs=2, timeout=LIMIT)(delayed(calls.square)(n) for n in range(3)) == [0, 1, 4]


@pytest.mark.parametrize("place", [0, 25], ids=["at once", "in a callback"])
@pytest.mark.parametrize("n_jobs", [2, -1])
def test_an_argument_that_does_not_pickle_is_an_error_wherever_it_is_met(backend, place, n_jobs):
    arguments = [n if n != place else open(os.devnull) for n in range(50)]
    with pytest.raises(cw.NotPicklable):
        Parallel(n_jobs=n_jobs, batch_size=1)(delayed(calls.square)(n) for n in arguments)
    arguments[place].close()


def test_batches_that_do_not_pickle_keep_no_place(backend):
    for _ in range(4):  # more than may run at a time
        with pytest.raises(cw.NotPicklable):
            Parallel(n_jobs=2)(delayed(calls.where)(threading.Lock()) for _ in range(2))
    assert len(Parallel(n_jobs=2)(delayed(calls.where)(n) for n in range(4))) == 4


def test_many_held_back_batches_that_do_not_pickle_are_no_deep_recursion(shared):
    class Batch:
        items = [(calls.square, [open(os.devnull)], {})]

    found = []
    shared._limit = 1
    for _ in range(100):
        shared.submit(Batch, found.append)
    try:
        shared._held.extend([(Batch, found.append)] * 1200)
        shared._count += 1
        shared._start_held()
    finally:
        shared._limit = shared._count = 0
        shared._held.clear()
        Batch.items[0][1][0].close()
    assert len(found) == 1300 and {type(future.exception()) for future in found} == {cw.NotPicklable}


@pytest.mark.parametrize(
    "function, argument, error",
    [
        (calls.square, 3, None),
        (calls.fail_when_marked, None, TypeError),
        (calls.square, threading.Lock(), cw.NotPicklable),
        (calls.die, None, cw.WorkerLost),
        (calls.nap, 300, concurrent.futures.CancelledError),
    ],
    ids=["success", "error", "not picklable", "process lost", "aborted"],
)
def test_the_callback_is_called_once_in_every_case(cluster, function, argument, error):
    backend, done = ClusterBackend(attempts=1), []

    def note(future):
        try:
            done.append(backend.retrieve_result_callback(future))
        except Exception as failure:
            done.append(type(failure))

    batch = types.SimpleNamespace(items=[(function, [] if argument is None else [argument], {})])
    backend._limit = 1
    for _ in range(3):  # one runs, the others are held back
        backend.submit(batch, note)
    if function is calls.nap:
        wait_until(lambda: backend._executor._session.jobs.started, LIMIT)
        backend.abort_everything()
    wait_until(lambda: len(done) == 3 and not backend._count, LIMIT)
    assert done == [[9] if error is None else error] * 3
    assert not backend._held and not backend._futures
    backend._executor.shutdown()


def test_an_error_of_the_iterator_is_raised(backend):
    def tasks():
        for n in range(30):
            yield delayed(calls.square)(n)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel(n_jobs=2)(tasks())


def test_a_call_whose_runner_dies_runs_again(backend, tmp_path):
    found = Parallel(n_jobs=2)(delayed(calls.die_once)(tmp_path / "mark", n) for n in range(10))
    assert found == [*range(10)]


def test_options_of_jobs_are_the_backends(cluster):
    with joblib.parallel_config(backend="cw", attempts=1):
        with pytest.raises(cw.WorkerLost):
            Parallel(n_jobs=2)(delayed(calls.die)() for _ in range(2))
    with pytest.raises(TypeError, match="atempts"):
        joblib.parallel_config(backend="cw", atempts=1)


def test_without_a_master_the_configuration_fails():
    with pytest.raises(cw.ConnectionError):
        joblib.parallel_config(backend="cw", host="127.0.0.1", port=1)
    assert joblib.parallel.get_active_backend()[0].__class__ is not ClusterBackend


def test_a_machine_that_is_killed_in_the_middle_costs_only_time(tmp_path):
    with Master() as master, Worker(master.address, "-n", "1"):
        with Worker(master.address, "-n", "1") as other, joblib.parallel_config("cw", host=master.address):
            results = Parallel(return_as="generator", batch_size=1)(
                delayed(calls.mark_and_meet)(tmp_path, n) for n in range(40)
            )
            found = [next(results)]
            other.end(signal.SIGKILL)
            assert [*found, *results] == [*range(40)]
            del results


# --- a Parallel inside of a call --------------------------------------------------------------


def test_inside_of_a_call_the_slots_cpus_are_used(backend):
    cpus = max(1, usable_cpus() // 2)  # of one of two slots
    for pid, places, names, count in Parallel(n_jobs=2)(delayed(calls.inner)(n) for n in (64, -1)):
        assert {place[0] for place in places} == {pid}
        assert count == cpus
        assert names == ["SlotThreads", "SlotThreads" if cpus > 1 else "SequentialBackend"]


def test_threads_inside_of_a_call_are_as_many_as_the_slot_has_cpus():
    cpus = usable_cpus()
    with Master() as master, Worker(master.address, "-n", "1"):
        with joblib.parallel_config(backend="cw", host=master.address):
            pid, places, names, count = Parallel(n_jobs=2)([delayed(calls.inner)(2 * cpus)])[0]
    assert {place[0] for place in places} == {pid} and pid != os.getpid()
    assert count == cpus
    assert names == ["SlotThreads", "SlotThreads" if cpus > 1 else "SequentialBackend"]


def test_outside_of_jobs_its_threads_are_one():
    assert SlotThreads(nesting_level=1).effective_n_jobs(-1) == 1


def test_calls_that_use_the_cluster_themselves_lend_their_slots(backend):
    expected = [[n * n for n in range(count)] for count in (5, 6, 7, 8)]
    assert Parallel(batch_size=1)(delayed(calls.on_the_cluster)(count) for count in (5, 6, 7, 8)) == expected


def test_in_a_call_the_cluster_gives_no_generator(backend):
    with pytest.raises(ValueError, match="does not support return_as=generator"):
        Parallel(n_jobs=2)(delayed(calls.as_generator)() for _ in range(2))


# --- large arguments --------------------------------------------------------------------------


def objects_of(backend):
    return backend._executor._session.calls.objects


def test_an_array_that_recurs_travels_once(cluster):
    array = np.arange(MB, dtype=float)  # 8 MB
    with joblib.parallel_config(backend=(backend := ClusterBackend())):
        for _ in range(2):
            found = Parallel(batch_size=1)(delayed(calls.look)(array, n) for n in range(20))
            assert found == [(float(n), False, None) for n in range(20)]
    assert array.nbytes < objects_of(backend).size < 1.5 * array.nbytes
    del backend


def test_an_array_that_recurs_beside_others_travels_once(cluster):
    array = np.arange(MB, dtype=float)
    with joblib.parallel_config(backend=(backend := ClusterBackend())):
        found = Parallel(batch_size=1)(
            delayed(calls.look)(array, n, other=np.full(MB // 4, float(n))) for n in range(12)
        )
    assert [(value, other) for value, _, other in found] == [(float(n), float(n)) for n in range(12)]
    # Twice: with the first call's other array, and alone.
    assert objects_of(backend).size < 2.7 * array.nbytes
    del backend


def test_chunks_that_do_not_recur_are_not_kept(cluster):
    with joblib.parallel_config(backend=(backend := ClusterBackend())):
        found = Parallel(batch_size=1)(delayed(calls.look)(np.full(MB, float(n)), 0) for n in range(12))
    assert [value for value, _, _ in found] == [float(n) for n in range(12)]
    assert objects_of(backend).size < 45 * MB  # of 96
    del backend


def test_an_array_that_has_changed_between_two_calls_of_parallel_is_seen(backend):
    array = np.zeros(MB)
    for expected in range(3):
        array[0] = expected
        assert {v for v, *_ in Parallel()(delayed(calls.look)(array, 0) for _ in range(4))} == {expected}


def test_memory_maps_modes_mean_what_they_mean_in_joblib(backend):
    array = np.zeros(MB)
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=2)(delayed(calls.change)(array) for _ in range(2))
    for options in ({"mmap_mode": "c"}, {"mmap_mode": None}, {"max_nbytes": None}, {"max_nbytes": "100M"}):
        parallel = Parallel(n_jobs=2, batch_size=1, **options)
        assert parallel(delayed(calls.change)(array) for _ in range(2)) == [1.0, 1.0]
    assert array[0] == 0


def test_tables_travel_apart_too(backend):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.ones((MB // 4, 2)))
    assert Parallel(batch_size=1)(delayed(calls.corner)(table) for _ in range(6)) == [1.0] * 6


class Large:
    def __init__(self, nbytes):
        self.nbytes = nbytes


class Jobs:
    """What LargeArguments needs of an executor."""

    def freeze(self, function):
        return function


def put_in(sharer, tasks):
    """Return the arguments that the calls get."""
    if sharer is None:
        return [(args, kwargs) for _, args, kwargs in tasks]
    put = sharer.submit._put_in
    return [([*map(put, args)], {name: put(kwargs[name]) for name in kwargs}) for _, args, kwargs in tasks]


VALUES = [Large(10), Large(20), Large(30), Large(1), 7, "text"]
ARGUMENTS = st.sampled_from(VALUES)
TASKS = st.lists(
    st.tuples(st.just(calls.add), st.lists(ARGUMENTS), st.dictionaries(st.sampled_from("ab"), ARGUMENTS)),
    min_size=1,
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(TASKS))
def test_calls_get_the_very_arguments_whatever_travels_apart(batches):
    large = LargeArguments(Jobs(), 10)
    for tasks in batches:
        before = [([*args], {**kwargs}) for _, args, kwargs in tasks]
        sharer, sent = large.take_out(tasks)
        # (By identity, as the classes define no equality.)
        assert put_in(sharer, sent) == before == [(args, kwargs) for _, args, kwargs in tasks]


def test_a_value_travels_apart_from_the_first_batch_or_its_second_occurrence_on():
    large = LargeArguments(Jobs(), 10)
    always, others = Large(100), [Large(100) for _ in range(4)]
    shared = []
    for other in others:
        sharer, _ = large.take_out([(calls.add, [always, other], {})])
        shared.append(sharer.submit.values)
    assert shared == [[always, others[0]], [always], [always], [always]]
    kept = [large.take_out([(calls.add, [always], {"b": 3})])[0] for _ in range(2)]
    assert kept[0] is kept[1]


def test_small_ones_and_those_without_a_weak_reference_stay_in_place():
    large = LargeArguments(Jobs(), 10)
    tasks = [(calls.add, [Large(9), b"x" * 100, "y" * 100, [0] * 100, None], {})]
    assert large.take_out(tasks) == (None, tasks)


# --- scikit-learn -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    datasets = import_recipe("sklearn.datasets")
    return datasets.make_classification(n_samples=1500, n_features=100, random_state=0)  # 1.2 MB


def with_and_without(backend, fit):
    """Return what `fit()` gives in this process, and on the cluster."""
    with joblib.parallel_config(backend="sequential"):
        expected = fit()
    with joblib.parallel_config(backend=backend):
        return expected, fit()


def test_scikit_learn_searches_a_grid(shared, data):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit():
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=20, tol=1e-2))
        search = GridSearchCV(pipeline, {"logisticregression__C": [0.01, 0.1, 1.0]}, cv=3)
        search.fit(*data)
        return search.cv_results_["mean_test_score"].tolist(), search.best_params_

    expected, found = with_and_without(shared, fit)
    assert found == expected


@pytest.mark.slow
def test_scikit_learn_validates_and_grows_forests(shared, data):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    def fit():
        forest = RandomForestClassifier(10, max_depth=5, random_state=0)
        scores = cross_val_score(forest, *data, cv=3)
        return scores.tolist(), forest.fit(*data).predict_proba(data[0]).round(9).tolist()

    expected, found = with_and_without(shared, fit)
    assert found == expected


@pytest.mark.slow
def test_scikit_learn_halves_a_search_while_a_machine_is_killed(data):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    def fit():
        forest = RandomForestClassifier(20, random_state=0)
        search = HalvingGridSearchCV(forest, {"max_depth": [2, 4, 8, None]}, cv=3, random_state=0)
        return search.fit(*data).cv_results_["mean_test_score"].tolist()

    with Master() as master, Worker(master.address), Worker(master.address) as other:
        backend = ClusterBackend(master.address)
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            killed = thread.submit(kill_when_busy, other, backend)
            expected, found = with_and_without(backend, fit)
            killed.result()
        del backend
    assert found == expected


def kill_when_busy(worker, backend):
    wait_until(lambda: backend._futures, LIMIT)
    worker.end(signal.SIGKILL)
