"""Values that calls share, as users see them: `cw.share` on real clusters."""

import functools
import gc
import os
import pickle
import signal
import textwrap
from pathlib import Path

import cloudpickle
import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Relay, Worker, children_of, free_port

import cw

numpy = pytest.importorskip("numpy")
SIZE = 4_000_000  # bytes


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor():
    with cw.ClusterExecutor() as executor:
        yield executor


def array(first=0.0):
    made = numpy.arange(SIZE / 8)
    made[0] = first
    return made


def total(a, k=1):
    return float(a.sum()) * k


def mappings(size=SIZE):
    """The inodes of this process's read-only mapped memory files from this size on."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, mode, _, _, inode, *name = line.split()
        begin, end = (int(address, 16) for address in addresses.split("-"))
        if mode == "r--s" and "cw-payload" in "".join(name) and end - begin >= size:
            found.add(int(inode))
    return sorted(found)


def where_it_is(a, seconds=0.0):
    """A job: its process, and the memory files of shared values there."""
    jobs.nap(seconds)
    return os.getpid(), tuple(mappings())


class Model:
    def __init__(self, data):
        self.data = data

    def at(self, n):
        return float(self.data[n])


def test_a_job_sees_the_value_itself_wherever_the_handle_stands(executor):
    data = cw.share(array())
    submit = executor.submit
    assert submit(total, data).result(LIMIT) == total(array())
    assert submit(total, a=data, k=2).result(LIMIT) == 2 * total(array())
    assert submit(lambda things: float(things["x"][0][7]), {"x": [data]}).result(LIMIT) == 7.0
    assert submit(lambda n: float(data[n]), 7).result(LIMIT) == 7.0
    assert submit(functools.partial(total, data), 3).result(LIMIT) == 3 * total(array())
    assert submit(Model(data).at, 7).result(LIMIT) == 7.0
    assert list(executor.map(lambda n: float(data[n]), range(9), chunksize=3)) == list(range(9))
    assert list(executor.map(total, [data] * 4, range(4))) == [n * total(array()) for n in range(4)]
    assert submit(type, data).result(LIMIT) is numpy.ndarray


def test_handles_of_a_script_may_be_global_attributes_and_defaults(script, executor):
    names = script(
        """
        import cw, numpy
        DATA = cw.share(numpy.arange(10000))
        INSIDE = {"data": DATA}
        class Model:
            data = DATA
            def at(self, n, other=DATA):
                return int(self.data[n] + other[n])
        def of_global(n):
            return int(DATA[n])
        def inside(n):
            return int(INSIDE["data"][n])
        def of_class(n):
            return Model().at(n)
        """
    )
    for name, right in (("of_global", 7), ("inside", 7), ("of_class", 14)):
        assert executor.submit(names[name], 7).result(LIMIT) == right
        assert list(executor.map(names[name], [7] * 4, chunksize=2)) == [right] * 4
    names["DATA"] = cw.share(numpy.arange(10000) + 1)
    assert executor.submit(names["of_global"], 7).result(LIMIT) == 8
    names["DATA"] = [0] * 10
    assert executor.submit(names["of_global"], 7).result(LIMIT) == 0
    del names["DATA"]
    with pytest.raises(NameError):
        executor.submit(names["of_global"], 7).result(LIMIT)


def test_what_is_shared_is_the_value_as_it_was(executor):
    value = array()
    data = cw.share(value)
    value[:] = 5
    assert executor.submit(total, data).result(LIMIT) == total(array()) == total(data.value)
    assert not data.value.flags.writeable


def test_arrays_are_read_only_of_any_size_and_a_write_says_what_to_do(executor):
    def write(a):
        a[0] = 1

    for data in cw.share(array()), cw.share(numpy.arange(3)):
        with pytest.raises(ValueError, match="read-only") as caught:
            executor.submit(write, data).result(LIMIT)
        told = getattr(caught.value, "__notes__", [str(caught.value)])
        assert "data.copy()" in told[-1]
        with pytest.raises(ValueError, match="read-only") as caught:
            list(executor.map(write, [data] * 2, chunksize=2))
        assert "data.copy()" in getattr(caught.value, "__notes__", [str(caught.value)])[-1]
    with pytest.raises(ValueError, match="read-only") as caught:  # of a job without shared values
        executor.submit(write, numpy.frombuffer(b"12345678")).result(LIMIT)
    assert "share" not in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def test_what_can_change_is_fresh_for_each_call(executor):
    def put(table, n):
        table[n] = n
        return len(table), table["data"].flags.writeable

    table = cw.share({"data": array()})
    assert [executor.submit(put, table, n).result(LIMIT) for n in range(4)] == [(2, False)] * 4
    assert list(executor.map(put, [table] * 8, range(8), chunksize=4)) == [(2, False)] * 8


def test_a_global_table_is_fresh_for_each_call(script, executor):
    names = script(
        """
        import cw
        TABLE = cw.share({})
        def put(n):
            TABLE[n] = n
            return len(TABLE)
        """
    )
    assert [executor.submit(names["put"], n).result(LIMIT) for n in range(4)] == [1] * 4
    assert list(executor.map(names["put"], range(8), chunksize=4)) == [1] * 8


def test_a_value_is_one_object_in_a_call(executor):
    data, table = cw.share(array()), cw.share({"x": []})
    assert executor.submit(lambda a, b: a is b[0], data, [data]).result(LIMIT)
    assert executor.submit(lambda a: a is table, table).result(LIMIT)


def test_bytes_texts_and_values_inside_each_other_are_shared(executor):
    inner = cw.share(array())
    outer = cw.share([inner, "text"])
    assert executor.submit(lambda value: total(value[0]), outer).result(LIMIT) == total(array())
    del inner
    gc.collect()
    assert executor.submit(lambda value: value[1], outer).result(LIMIT) == "text"
    for value in (b"x" * SIZE, "y" * SIZE, (1, "z")):
        assert executor.submit(jobs.echo, cw.share(value)).result(LIMIT) == value


def test_instances_of_the_scripts_classes_are_shared(script, executor):
    names = script(
        """
        import cw
        class Model:
            def __init__(self, rate):
                self.rate = rate
        def rate_of(models):
            return models[0].rate, type(models[0]) is Model
        """
    )
    shared = cw.share([names["Model"](7)])
    assert executor.submit(names["rate_of"], shared).result(LIMIT) == (7, True)


def test_all_runners_of_a_machine_read_the_same_memory(executor):
    data = cw.share(array())
    found = {executor.submit(where_it_is, data, 0.2).result(LIMIT) for _ in range(1)}
    found |= set(executor.map(where_it_is, [data] * 8, [0.2] * 8))
    assert len({pid for pid, _ in found}) == 2  # two runners, and one memory file
    assert len({inodes for _, inodes in found}) == 1 and len(next(iter(found))[1]) == 1


def test_a_value_is_freed_everywhere_when_it_is_released_or_dropped(executor):
    for end in ("release", "with", "drop"):
        data = cw.share(array())
        if end == "with":
            with data:
                future = executor.submit(where_it_is, data, 0.3)
        else:
            future = executor.submit(where_it_is, data, 0.3)
        if end == "release":
            data.release()
            data.release()
        del data
        assert len(future.result(LIMIT)[1]) == 1  # a submitted job has it in any case
        wait_until(lambda: not any(inodes for _, inodes in executor.map(where_it_is, [0] * 4, [0.05] * 4)))
        wait_until(lambda: not executor._session.calls.objects._objects.shared_size)


def test_a_released_handle_raises_value_error(executor, script):
    data = cw.share(array())
    names = script("def of_global(n):\n    return DATA[n]\n")
    names["DATA"] = data
    executor.submit(total, data).result(LIMIT)
    executor.submit(names["of_global"], 1).result(LIMIT)
    data.release()
    for use in (
        lambda: executor.submit(total, data),
        lambda: executor.submit(total, [data]),
        lambda: executor.submit(lambda: data[0]),
        lambda: executor.submit(names["of_global"], 1),
        lambda: list(executor.map(total, [data])),
        lambda: data.value,
    ):
        with pytest.raises(ValueError, match="was released"):
            use()
    assert "released" in repr(data)
    assert issubclass(cw.SharedValueReleased, cw.Error)


def test_a_map_over_handles_that_nobody_else_holds_is_whole(executor):
    made = (cw.share(numpy.full(100_000, n)) for n in range(6))
    assert list(executor.map(lambda a: int(a[0]), made, chunksize=2)) == list(range(6))


def test_a_handle_has_no_meaning_elsewhere(executor):
    data = cw.share(array())
    for dumps in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(TypeError, match=r"pickle its \.value"):
            dumps({"x": data})

    def share_it():
        return cw.share([1])

    with pytest.raises(cw.NotPicklable, match=r"cw\.share\(\)"):
        executor.submit(share_it).result(LIMIT)
    with pytest.raises(cw.NotPicklable, match="the value to share: cannot pickle"):
        cw.share([open(os.devnull)])


def test_a_job_shares_values_of_its_own():
    def outer(host, a):
        with cw.ClusterExecutor(host) as executor, cw.share(a + 1) as more:
            return sum(executor.map(total, [more] * 3))

    with cw.mp.allocate(2) as cluster, cw.ClusterExecutor(cluster.master) as executor:
        data = cw.share(numpy.zeros(10_000))
        assert executor.submit(outer, cluster.master, data).result(LIMIT) == 30_000


def test_a_handle_serves_several_executors():
    data = cw.share(array())
    with cw.ClusterExecutor() as one, cw.ClusterExecutor() as two:
        assert {each.submit(total, data).result(LIMIT) for each in (one, two, one)} == {total(array())}
    with cw.ClusterExecutor() as three:
        assert three.submit(total, data).result(LIMIT) == total(array())


def test_a_store_knows_a_call_by_the_value(tmp_path, monkeypatch):
    monkeypatch.setattr("cw.client.store_client._is_interactive", lambda: True)

    def noted(a, k):
        with open(tmp_path / "ran", "a") as file:
            file.write("x")
        return float(a[0]) + k

    def ran():
        return len((tmp_path / "ran").read_text())

    path = tmp_path / "store"
    with cw.ClusterExecutor(store=path) as executor:
        executor.submit(noted, array(1.0), 0).result(LIMIT)
        executor.submit(noted, cw.share(array(2.0)), 0).result(LIMIT)
        executor.submit(noted, [cw.share(array(3.0)), 4][0], k=1).result(LIMIT)
    assert ran() == 3
    with cw.ClusterExecutor(store=path) as executor:
        data = cw.share(array(1.0))
        assert executor.submit(noted, data, 0).result(LIMIT) == 1.0
        assert executor.submit(noted, array(2.0), 0).result(LIMIT) == 2.0
        assert executor.submit(noted, cw.share(array(3.0)), k=1).result(LIMIT) == 4.0
        assert ran() == 3
        for n in range(1, 4):  # the value is walked through once
            assert executor.submit(noted, data, n).result(LIMIT) == 1.0 + n
        assert len(data._content.keys) == 1
        assert executor.submit(noted, cw.share(array(1.5)), 0).result(LIMIT) == 1.5
    assert ran() == 7
    (recorded,) = [each.args for each in cw.results(path) if each.value == 4.0 and each.kwargs == {}]
    assert repr(recorded) == "(<shared ndarray (500000,) float64, 4 MB>, 3)"


# --- over a network ---------------------------------------------------------------------------


def test_a_value_goes_once_to_each_worker_also_late_and_restarted_ones():
    with Master() as master, Relay(master.port) as relay, cw.ClusterExecutor(master.address) as executor:
        data = cw.share(array())
        jobs_of_each = 6
        first = Worker(relay.address, "-n", "2")
        with first:
            for count in (1, 1):
                calls = executor.map(where_it_is, [data] * jobs_of_each, [0.05] * jobs_of_each)
                assert {len(inodes) for _, inodes in calls} == {1}
                assert count * SIZE < relay.passed < count * SIZE * 1.2
            with Worker(relay.address, "-n", "2"):  # a late one
                wait_until(
                    lambda: (
                        len({pid for pid, _ in executor.map(where_it_is, [data] * 8, [0.1] * 8)}) == 4
                        and relay.passed > 2 * SIZE
                    ),
                    LIMIT,
                )
                assert relay.passed < 2 * SIZE * 1.2
                first.end(signal.SIGKILL)
                assert executor.submit(total, data).result(LIMIT) == total(array())
                with Worker(relay.address, "-n", "2"):  # one that comes back
                    wait_until(
                        lambda: (
                            len({pid for pid, _ in executor.map(where_it_is, [data] * 8, [0.1] * 8)}) == 4
                        ),
                        LIMIT,
                    )
                assert relay.passed < 3 * SIZE * 1.2


def test_a_job_that_is_tried_again_has_its_value():
    def die_once(a, path):
        if not os.path.exists(path):
            jobs.note(path)
            os.kill(os.getpid(), signal.SIGKILL)
        return total(a)

    with cw.mp.allocate(1) as cluster, cw.ClusterExecutor(cluster.master) as executor:
        mark = Path(os.environ["CW_HOME"]).parent / "mark"
        assert executor.submit(die_once, cw.share(array()), str(mark)).result(LIMIT) == total(array())


def test_another_master_gets_what_its_jobs_need(tmp_path):
    port = free_port()
    with Master("--port", str(port)) as master, cw.ClusterExecutor(f"127.0.0.1:{port}") as executor:
        data = cw.share(array())
        with Worker(f"127.0.0.1:{port}"):
            assert executor.submit(total, data).result(LIMIT) == total(array())
            waiting = executor.submit(jobs.until, tmp_path / "go")
            behind = executor.submit(total, data, 2)
            master.end(signal.SIGKILL)
            with Master("--port", str(port)):
                jobs.note(tmp_path / "go")
                waiting.result(LIMIT)
                assert behind.result(LIMIT) == 2 * total(array())
                assert executor.submit(total, data).result(LIMIT) == total(array())


@pytest.mark.slow
def test_values_for_which_there_is_no_room_go_and_come_again(tmp_path):
    """The worker says that it has memory for two of three values."""
    source = f"import cw.net.memory\ncw.net.memory.half_of_all = lambda: {SIZE * 5 // 2}\n"
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(source))
    here = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(cw.__file__).parent.parent)])}
    with Master() as master, Relay(master.port) as relay, cw.ClusterExecutor(master.address) as executor:
        with Worker(relay.address, **here) as worker:
            values = [cw.share(array(float(n))) for n in range(3)]
            passed = []
            for n in (0, 1, 0, 2, 0, 1):  # 2 takes the place of 1, and 1 that of 2
                assert executor.submit(lambda a: float(a[0]), values[n]).result(LIMIT) == n
                passed.append(round(relay.passed / SIZE))
            assert passed == [1, 2, 2, 3, 3, 4]
            _, inodes = executor.submit(where_it_is, values[1]).result(LIMIT)
            assert len(inodes) <= 2
            assert children_of(worker.pid)
