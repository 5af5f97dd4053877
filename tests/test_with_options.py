"""What `executor.options(...)` gives, beside its submit and map, which other tests use."""

import gc

import jobs
import pytest
from programs import LIMIT

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


def test_it_keeps_the_session_when_its_executor_is_forgotten():
    settings = cw.ClusterExecutor().options(attempts=1)
    gc.collect()
    assert settings.submit(jobs.nap, 0, "there").result(LIMIT) == "there"
    assert list(settings.map(abs, [-1, -2, -3], timeout=LIMIT)) == [1, 2, 3]


@pytest.mark.parametrize("settings", [{}, {"chunksize": 2}, {"chunksize": 2, "as_completed": True}])
def test_a_map_keeps_the_session_when_its_executor_is_forgotten(settings):
    results = cw.ClusterExecutor().map(abs, range(-9, 0), buffersize=2, timeout=LIMIT, **settings)
    gc.collect()
    assert sorted(results) == list(range(1, 10))
