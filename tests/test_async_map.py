"""`amap`, `await` and `async with`: the cluster in asyncio."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import time

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT

import cw


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with cw.ClusterExecutor() as executor:
        yield executor


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT))


def stay(path, name, seconds=60.0):
    """Leave a mark at the beginning, and one at the end."""
    jobs.mark(path / f"{name} began")
    time.sleep(seconds)
    jobs.mark(path / f"{name} ended")
    return name


async def counted(number):
    for each in range(number):
        await asyncio.sleep(0)
        yield each


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def began(path):
    return {name.partition(" ")[0] for name in os.listdir(path) if name.endswith("began")}


async def listed(results):
    return [result async for result in results]


@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("buffersize", [None, 1, 7])
def test_results_come_in_the_order_of_the_input(executor, chunksize, buffersize):
    async def main():
        settings = {"chunksize": chunksize, "buffersize": buffersize}
        assert await listed(executor.amap(jobs.square, range(10), **settings)) == [n * n for n in range(10)]
        assert await listed(executor.amap(jobs.add, counted(5), range(3), **settings)) == [0, 2, 4]
        assert await listed(executor.options(attempts=1).amap(jobs.square, counted(4), **settings)) == [
            0,
            1,
            4,
            9,
        ]
        done = await listed(executor.amap(jobs.square, range(10), as_completed=True, **settings))
        assert sorted(done) == [n * n for n in range(10)]
        assert await listed(executor.amap(jobs.square, [], **settings)) == []
        assert await listed(executor.amap(jobs.square, **settings)) == []

    run(main())


def test_cw_amap_connects_by_itself_and_leaves(cluster, tmp_path):
    async def main():
        assert await listed(cw.amap(jobs.square, counted(100), store=tmp_path / "s")) == [
            n * n for n in range(100)
        ]
        assert await listed(cw.amap(jobs.square, range(3), key=lambda n: n, buffersize=1)) == [0, 1, 4]
        assert not [thread for thread in threading.enumerate() if thread.name == "cw-client"]

    run(main())
    assert len(cw.results(tmp_path / "s")) == 100
    with pytest.raises(TypeError, match="unexpected keyword argument 'chunkize'"):
        cw.amap(jobs.square, [1], chunkize=3)
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        cw.amap(jobs.square, [1], chunksize=0)


def test_other_tasks_run_meanwhile(executor, tmp_path):
    async def main():
        waiting = asyncio.ensure_future(listed(executor.amap(jobs.until, [tmp_path / "go"], [3])))
        await asyncio.sleep(0.05)
        jobs.mark(tmp_path / "go")  # by the thread that would be blocked
        assert await waiting == [3]
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        assert len(await listed(executor.amap(jobs.square, range(2000)))) == 2000
        ticking.cancel()
        assert ticks > 3

    run(main())


def test_the_input_is_read_as_results_are_taken(executor):
    read = []

    def numbers():
        for number in range(100):
            read.append(number)
            yield number

    async def main():
        async with contextlib.aclosing(executor.amap(jobs.square, numbers(), buffersize=4)) as results:
            async for _ in results:
                await asyncio.sleep(0.02)  # the pump may read what it may
                assert len(read) <= 5
                break

    run(main())


def test_an_error_is_raised_in_its_place_or_returned(executor):
    async def main():
        results = executor.amap(jobs.divide, [1, 1, 1], [1, 0, 2])
        assert await anext(results) == 1
        with pytest.raises(ZeroDivisionError):
            await anext(results)
        found = await listed(executor.amap(jobs.divide, [1, 1], [0, 1], return_exceptions=True))
        assert isinstance(found[0], ZeroDivisionError) and found[1] == 1

        async def broken():
            yield 3
            raise LookupError("no more input")

        results = executor.amap(jobs.square, broken(), chunksize=5)
        assert await anext(results) == 9
        with pytest.raises(LookupError, match="no more input"):
            await anext(results)
        with pytest.raises(cw.NotPicklable):
            await listed(executor.amap(jobs.square, [threading.Lock()]))

    run(main())


def test_a_timeout_ends_the_iteration_and_its_jobs(executor, tmp_path):
    async def main():
        with pytest.raises(concurrent.futures.TimeoutError):
            await listed(executor.amap(stay, [tmp_path], ["a"], timeout=0.2))
        assert await executor.asubmit(jobs.square, 2) == 4

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["break", "close", "cancel"])
def test_who_leaves_the_loop_stops_its_jobs(executor, tmp_path, way):
    async def main():
        results = executor.amap(stay, [tmp_path] * 10, range(10), [0] + [60] * 9)
        if way == "break":
            async for _ in results:
                await until(lambda: len(began(tmp_path)) == 3)
                break
            del results
        elif way == "close":
            await anext(results)
            await until(lambda: len(began(tmp_path)) == 3)
            await results.aclose()
        else:
            task = asyncio.ensure_future(listed(results))
            await until(lambda: len(began(tmp_path)) == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await executor.asubmit(jobs.square, 2) == 4  # there is a slot
        assert await executor.asubmit(jobs.square, 3) == 9

    run(main())
    wait_until(lambda: not executor._session.outstanding(), LIMIT)
    assert began(tmp_path) == {"0", "1", "2"} and not (tmp_path / "1 ended").exists()


def test_a_task_that_is_cancelled_stops_the_job_that_it_awaits(executor, tmp_path):
    async def main():
        future = executor.asubmit(stay, tmp_path, "a")
        await until(future.running)
        shielded = asyncio.ensure_future(future)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.05)
        assert not future.cancelled()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.05)
        assert future.cancelled()

    run(main())
    wait_until(lambda: not executor._session.outstanding(), LIMIT)


def test_futures_are_awaited_in_several_loops_at_a_time(executor):
    future = executor.asubmit(jobs.square, 7)
    found = []

    async def one(number):
        return await executor.asubmit(jobs.square, number)

    async def main():
        found.append(await future)
        found.append(
            await asyncio.gather(*(one(number) for number in range(5)), executor.asubmit(jobs.square, 9))
        )

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found.count(49) == found.count([0, 1, 4, 9, 16, 81]) == 3


def test_the_end_of_async_with_waits_without_blocking(cluster, tmp_path):
    async def main():
        async def open_soon():
            await asyncio.sleep(0.05)
            jobs.mark(tmp_path / "go")

        opening = asyncio.ensure_future(open_soon())
        async with cw.ClusterExecutor() as executor:
            future = executor.submit(jobs.until, tmp_path / "go", 3)
        assert future.done() and future.result() == 3
        await opening
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(jobs.square, 1)

    run(main())


def test_a_cancelled_async_with_cancels_its_jobs(cluster, tmp_path):
    async def main(in_the_block):
        async with cw.ClusterExecutor() as executor:
            future = executor.submit(stay, tmp_path, "a")
            futures.append(future)
            await until(future.running)
            if in_the_block:
                await asyncio.sleep(60)

    for in_the_block in (True, False):
        futures = []

        async def cancelled(in_the_block=in_the_block, futures=futures):
            task = asyncio.ensure_future(main(in_the_block))
            await until(lambda: futures and futures[0].running())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(cancelled())
        wait_until(futures[0].done, LIMIT)
        assert not (tmp_path / "a ended").exists()
