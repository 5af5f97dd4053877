"""Hints in the log: one for a large argument that many calls have."""

import functools

import jobs
import pytest
from conftest import events
from programs import LIMIT

import cw
from cw.client.hints import LARGE_ARGUMENT, TIMES, LargeArguments

numpy = pytest.importorskip("numpy")


def large():
    return numpy.zeros(LARGE_ARGUMENT, dtype="u1")


def test_the_hint_comes_once_and_names_the_argument(caplog):
    with cw.mp.allocate(1) as cluster, cw.ClusterExecutor(cluster.master) as executor:
        data, caplog.records[:] = large(), []
        for n in range(2 * TIMES):
            executor.submit(len, data).result(LIMIT)
            assert events(caplog).count("client.large_argument") == (n + 1 >= TIMES)
        executor.submit(jobs.echo, value=large())
        (record,) = [each for each in caplog.records if each.event == "client.large_argument"]
        assert "len()" in record.getMessage() and "1.05 MB" in record.getMessage()
        assert "cw.share(" in record.getMessage()


def test_the_hint_comes_for_a_map_too(caplog):
    with cw.mp.allocate(1) as cluster:
        data, size = large(), 4
        for chunks in TIMES - 1, TIMES:
            caplog.clear()
            with cw.ClusterExecutor(cluster.master) as executor:
                calls = executor.map(jobs.add, [data] * size * chunks, range(size * chunks), chunksize=size)
                assert [int(value[0]) for value in calls] == list(range(size * chunks))
            assert events(caplog).count("client.large_argument") == (chunks == TIMES)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(lambda: [large() for _ in range(9)], id="each another one"),
        pytest.param(lambda: [large()[: LARGE_ARGUMENT // 2]] * 9, id="a smaller one"),
        pytest.param(lambda: [bytes(LARGE_ARGUMENT)] * 9, id="one without weak references"),
    ],
)
def test_no_hint_where_share_would_not_help(arguments, caplog):
    found = LargeArguments()
    for value in arguments():
        found.look(jobs.echo, (value,), {})
    assert not events(caplog)


def test_nothing_is_kept_alive(caplog):
    import weakref

    found, data = LargeArguments(), large()
    gone = weakref.ref(data)
    found.look(jobs.echo, (1, data), {})
    del data
    assert gone() is None
    look = functools.partial(found.look, jobs.echo, (), {"value": large()})
    for _ in range(TIMES):
        look()
    assert events(caplog) == ["client.large_argument"] and "argument 'value' of echo()" in caplog.text
