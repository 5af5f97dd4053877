"""Jobs that submit jobs, by each of the ways to wait for them; and what each call saw."""

import asyncio
import concurrent.futures
import os
import time

from jobs import note, until

import cw


def by_result(function, items, **settings):
    with cw.ClusterExecutor(**settings) as executor:
        return [future.result() for future in [executor.submit(function, item) for item in items]]


def by_exception(function, items):
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(function, item) for item in items]
        assert [future.exception() for future in futures] == [None] * len(futures)
        return [future.result() for future in futures]


def by_map(function, items, **settings):
    with cw.ClusterExecutor(**settings) as executor:
        return list(executor.map(function, items))


def by_map_of_chunks(function, items):
    with cw.ClusterExecutor() as executor:
        return list(executor.map(function, items, chunksize=2))


def by_map_as_completed(function, items):
    with cw.ClusterExecutor() as executor:
        return list(executor.map(function, items, as_completed=True, buffersize=2))


def by_cw_map(function, items):
    return list(cw.map(function, items))


def by_wait(function, items):
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(function, item) for item in items]
        done, pending = concurrent.futures.wait(futures)
        assert not pending
        return [future.result() for future in done]


def by_first_completed(function, items):
    with cw.ClusterExecutor() as executor:
        pending = {executor.submit(function, item) for item in items}
        values = []
        while pending:
            done, pending = concurrent.futures.wait(
                pending, return_when=concurrent.futures.FIRST_COMPLETED, timeout=100
            )
            values += [future.result() for future in done]
        return values


def by_as_completed(function, items):
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(function, item) for item in items]
        return [future.result() for future in concurrent.futures.as_completed(futures)]


def by_end_of_block(function, items):
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(function, item) for item in items]
    return [future.result(timeout=0) for future in futures]


def by_shutdown(function, items):
    executor = cw.ClusterExecutor()
    futures = [executor.submit(function, item) for item in items]
    executor.shutdown()
    return [future.result(timeout=0) for future in futures]


def by_client_thread(function, items):
    values = []
    with cw.ClientThread(lambda jobid, value: values.append(value)) as thread:
        for item in items:
            thread.submit(function, item)
    return values


def by_thread_wait(function, items):
    values = []
    thread = cw.ClientThread(lambda jobid, value: values.append(value))
    thread.start()
    try:
        for item in items:
            thread.submit(function, item)
        thread.wait(timeout=100)
    finally:
        thread.stop()
    return values


def by_room(function, items):
    """Wait in `submit`, for room."""
    with cw.ClusterExecutor(max_outstanding=(1, None)) as executor:
        return [future.result() for future in [executor.submit(function, item) for item in items]]


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]


def tree(depth, way=by_map, width=2):
    """Return the number of leaves of a tree of jobs."""
    return 1 if not depth else sum(way(Branch(depth - 1, way, width), range(width)))


class Branch:
    def __init__(self, depth, way, width):
        self.depth, self.way, self.width = depth, way, width

    def __call__(self, item):
        return tree(self.depth, self.way, self.width)


def most_processes(depth):
    """Return the number of processes of jobs that are there at a leaf of a tree of jobs: the most of all leaves."""
    if depth:
        return max(by_map(most_processes, [depth - 1] * 2))
    with open(f"/proc/{os.getppid()}/stat") as file:
        worker = file.read().rpartition(")")[2].split()[1]
    return sum(len(children(keeper)) for keeper in children(worker))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def square(number):
    return number * number


def squares(way, count):
    """Compute squares in a job, by jobs of its own."""
    return sum(way(square, range(count)))


def hold(directory, name):
    """A job that leaves its pid in a file of this name and waits for the file `go-NAME`."""
    note(os.path.join(directory, name), os.getpid())
    until(os.path.join(directory, f"go-{name}"))
    return name


def hold_inside(directory, name, settings):
    """A job that waits for such a job of its own."""
    note(os.path.join(directory, f"outer-{name}"), os.getpid())
    with cw.ClusterExecutor(**settings) as executor:
        return executor.submit(hold, directory, name).result()


def impatient(directory):
    """Return the seconds that a `timeout` of 0.5 s took while the job that it waited for had the slot."""
    with cw.ClusterExecutor() as executor:
        future = executor.submit(hold, directory, "long")
        began = time.monotonic()
        try:
            future.result(timeout=0.5)
        except concurrent.futures.TimeoutError:
            took = time.monotonic() - began
        note(os.path.join(directory, "go-long"))
        return took, future.result()


def next_in_turn():
    """Return how many of six jobs had begun when the job that submitted them had the first one's result."""
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(began_at, 0.05) for _ in range(6)]
        futures[0].result()
        back = time.monotonic()
        return sum(future.result() < back for future in futures)


def began_at(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return began


def elsewhere(directory):
    """A job that waits for one at a cluster of its own, while one of its own cluster here waits for a slot: when that
    began, and when the other ended."""
    with cw.ClusterExecutor() as here:
        until(os.path.join(directory, "go"))
        with cw.mp.allocate(1) as own, cw.ClusterExecutor(own.master) as there:
            future = here.submit(began_at, 0)
            there.submit(time.sleep, 0.5).result()
            ended = time.monotonic()
        return future.result(), ended


def by_asyncio(function, items):
    """Wait in a way that cw does not see."""

    async def gather():
        with cw.ClusterExecutor() as executor:
            futures = [asyncio.wrap_future(executor.submit(function, item)) for item in items]
            return await asyncio.gather(*futures)

    return asyncio.run(gather())


def by_thread(function, items):
    """Wait in another thread than the main one."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(by_map, function, items).result()


def nested_twice(directory, name):
    """A job that waits for a job that waits for `hold`."""
    with cw.ClusterExecutor() as executor:
        return executor.submit(hold_inside, directory, name, {}).result()


def in_a_fork():
    """Return the depth of a forked child of a job, and whether it cannot lend."""
    from cw import nested

    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, bytes([nested.depth, nested.lender is None]))
        os._exit(0)
    os.waitpid(pid, 0)
    depth, is_nobody = os.read(read, 2)
    return [depth, bool(is_nobody)]
