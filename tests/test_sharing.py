"""Workers that pass large shared values on among themselves: real masters and workers, on one machine's loopback."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, ROOT, Master, Relay, Worker
from test_faults import NAMESPACES, why_no_namespaces

import cw
from cw.master.policy.passing import WORKERS

SIZE = 8_000_000  # bytes
LARGE = 32_000_000  # takes long enough for a look at what goes on


def value(first=b"x", size=SIZE):
    return first + os.urandom(size - 1)


def look(data, seconds):
    """A job: the worker's process, and what it sees."""
    jobs.nap(seconds)
    return os.getppid(), len(data), data[:1]


class Cluster:
    """A master behind a relay that counts what leaves it, and workers of one slot."""

    def __init__(self, stack, count=WORKERS):
        self.master = stack.enter_context(Master())
        self.relay = stack.enter_context(Relay(self.master.port))
        self.workers = [Worker(self.relay.address, is_awaited=False) for _ in range(count)]
        for worker in self.workers:
            stack.enter_context(worker)
        for worker in self.workers:
            worker.wait_for_event("worker.joined")
        self.executor = stack.enter_context(cw.ClusterExecutor(self.master.address))

    def run_on_all(self, data):
        """Let one job run on each worker; return what they saw."""
        seen = {}

        def have_all():
            count = len(self.workers)
            for pid, *rest in self.executor.map(look, [data] * count, [0.3] * count):
                seen[pid] = rest
            return len(seen) == count

        wait_until(have_all, LIMIT)
        return list(seen.values())


@pytest.fixture
def cluster():
    with ExitStack() as stack:
        yield Cluster(stack)


def listening():
    """The sockets of all processes at which TCP connections are accepted."""
    rows = [row.split() for table in ("tcp", "tcp6") for row in open(f"/proc/self/net/{table}")]
    return {f"socket:[{fields[9]}]" for fields in rows if fields[3] == "0A"}


def that_share(cluster):
    """The workers that have a port open."""
    sockets = listening()
    return [worker for worker in cluster.workers if sockets & links_of(worker.pid)]


def links_of(pid):
    """What a process has open."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found.add(os.readlink(entry.path))
    return found


def test_a_value_leaves_the_master_once_and_all_ports_are_closed_afterwards(cluster):
    data = cw.share(value())
    assert cluster.run_on_all(data) == [[SIZE, b"x"]] * WORKERS
    assert SIZE < cluster.relay.passed < 1.5 * SIZE
    wait_until(lambda: not that_share(cluster), LIMIT)


def test_with_fewer_workers_the_master_sends_to_each():
    with ExitStack() as stack:
        cluster = Cluster(stack, WORKERS - 5)
        assert cluster.run_on_all(cw.share(value())) == [[SIZE, b"x"]] * (WORKERS - 5)
        assert cluster.relay.passed > (WORKERS - 5) * SIZE


def test_the_worker_that_has_it_is_killed_and_the_others_get_it(cluster):
    data = cw.share(value(size=LARGE))
    futures = [cluster.executor.submit(look, data, 0.3) for _ in range(3 * WORKERS)]
    source = wait_until(lambda: that_share(cluster), LIMIT)[0]
    source.end(signal.SIGKILL)
    assert {future.result(LIMIT)[1:] for future in futures} == {(LARGE, b"x")}


def test_other_jobs_are_not_held_up_and_a_release_in_the_middle_harms_nobody(cluster):
    with cw.share(value()) as data:
        futures = [cluster.executor.submit(look, data, 0.01) for _ in range(WORKERS)]
        others = [cluster.executor.submit(jobs.square, n) for n in range(WORKERS)]
    assert [future.result(LIMIT) for future in others] == [n * n for n in range(WORKERS)]
    assert {future.result(LIMIT)[1:] for future in futures} == {(SIZE, b"x")}
    wait_until(lambda: not that_share(cluster), LIMIT)


@pytest.mark.slow
def test_a_client_that_ends_in_the_middle_leaves_no_port_open(cluster):
    with cw.ClusterExecutor(cluster.master.address) as executor:
        futures = [executor.submit(look, cw.share(value()), 30) for _ in range(WORKERS)]
        wait_until(lambda: any(future.running() for future in futures), LIMIT)
        executor.shutdown(wait=False, cancel_futures=True)
        executor._session.close(is_waiting=False)
    assert cluster.run_on_all(cw.share(value(b"y"))) == [[SIZE, b"y"]] * WORKERS
    wait_until(lambda: not that_share(cluster), LIMIT)


@pytest.mark.slow
def test_the_master_is_killed_in_the_middle_and_all_get_it_from_the_next_one():
    with ExitStack() as stack:
        cluster = Cluster(stack)
        data = cw.share(value(size=LARGE))
        futures = [cluster.executor.submit(look, data, 0.5) for _ in range(2 * WORKERS)]
        wait_until(lambda: that_share(cluster), LIMIT)
        cluster.master.end(signal.SIGKILL)
        with Master("--port", cluster.master.port):
            assert {future.result(LIMIT)[1:] for future in futures} == {(LARGE, b"x")}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["open", "walls"])
def test_on_machines_with_a_bounded_link_it_leaves_the_master_once_or_where_there_are_walls_for_each(how):
    if reason := why_no_namespaces():
        pytest.skip(reason)
    script = Path(__file__).parent / "scripts" / "passing.py"
    done = subprocess.run(
        [*NAMESPACES, sys.executable, str(script), how],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all have it"
