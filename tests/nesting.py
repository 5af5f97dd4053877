"""Jobs that give out jobs, by each of the ways to wait for them; and what each call of them saw."""

import concurrent.futures
import os
import threading
import time

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
    """At `submit`, for room."""
    with cw.ClusterExecutor(max_outstanding=(1, None)) as executor:
        return [future.result() for future in [executor.submit(function, item) for item in items]]


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]


def tree(depth, way=by_map, width=2):
    """The number of leaves of a tree of jobs."""
    return 1 if not depth else sum(way(Branch(depth - 1, way, width), range(width)))


class Branch:
    def __init__(self, depth, way, width):
        self.depth, self.way, self.width = depth, way, width

    def __call__(self, item):
        return tree(self.depth, self.way, self.width)


def square(number):
    return number * number


def squares(way, count):
    """In a job: squares, by jobs of its own."""
    return sum(way(square, range(count)))


def mark(directory, name):
    open(os.path.join(directory, f"{name}-{os.getpid()}"), "w").close()
    return name


def wait_for(directory, name, seconds=60.0):
    """Until the file is there."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(os.path.join(directory, name)):
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.005)
    return os.getpid()


def hold(directory, name):
    """A job that says that it runs and waits for the file `go-NAME`."""
    mark(directory, name)
    wait_for(directory, f"go-{name}")
    return os.getpid()


def hold_inside(directory, name, settings):
    """A job that waits for such a job."""
    mark(directory, f"outer-{name}")
    with cw.ClusterExecutor(**settings) as executor:
        return executor.submit(hold, directory, name).result()


def impatient(directory):
    """The seconds that a `timeout` of half a second took, while the job that was waited for held the slot."""
    with cw.ClusterExecutor() as executor:
        future = executor.submit(hold, directory, "long")
        began = time.monotonic()
        try:
            future.result(timeout=0.5)
            took = -1.0
        except concurrent.futures.TimeoutError:
            took = time.monotonic() - began
        open(os.path.join(directory, "go-long"), "w").close()
        return took, future.result()


def in_order(directory):
    """While it waits for one job, others of its own run; who comes back is before those that wait."""
    with cw.ClusterExecutor() as executor:
        futures = [executor.submit(stamp, 0.05) for _ in range(6)]
        futures[0].result()
        back = time.monotonic()
        began = [future.result()[0] for future in futures]
        return sum(start < back for start in began)


def stamp(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def by_event(function, items):
    """In a way that cw does not see."""
    done = threading.Event()
    values = []

    def note(jobid, value):
        values.append(value)
        if len(values) == len(items):
            done.set()

    thread = cw.ClientThread(note)
    thread.start()
    try:
        for item in items:
            thread.submit(function, item)
        done.wait(100)
    finally:
        thread.stop()
    return values
