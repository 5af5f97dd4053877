"""Wakeups of a cluster at rest, counted by the kernel: nothing looks every few milliseconds for a change."""

import re
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import wait_until
from programs import Master, Worker, descendants_of

import cw

SPAN = 5.0
"""Time over which wakeups are counted (seconds)."""

MOST = 4.0
"""Most wakeups of a thread a second: more than its ticks of a second, and heartbeats."""


def wakeups(pid):
    """How often each thread of a process has gone to sleep so far, by thread."""
    return {
        task.name: int(
            re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)[1]
        )
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def most_wakeups(master, worker):
    """The wakeups a second of the thread that has most of them, in these processes and in the client here."""
    pids = [master.pid, worker.pid, *descendants_of(worker.pid)]
    own = {str(thread.native_id) for thread in threading.enumerate() if thread.name.startswith("cw")}
    assert len(pids) >= 4 and own

    def count():
        found = {name: number for name, number in wakeups("self").items() if name in own}
        for pid in pids:
            found |= wakeups(pid)
        return found

    before, began = count(), time.monotonic()
    time.sleep(SPAN)
    after, lasted = count(), time.monotonic() - began
    return max((after.get(name, 0) - number) / lasted for name, number in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "timeout, options", [(None, ()), (1000.0, ("--enforce-memory",))], ids=["plain", "with limits"]
)
def test_a_cluster_sleeps_while_its_jobs_run_and_while_it_has_none(timeout, options):
    with (
        Master() as master,
        Worker(master.address, "-n", "2", *options) as worker,
        cw.ClusterExecutor(master.address) as executor,
    ):
        executor.submit(abs, 1).result()
        assert most_wakeups(master, worker) < MOST
        jobs = [executor.options(timeout=timeout).submit(time.sleep, 3 * SPAN) for _ in range(2)]
        wait_until(lambda: all(job.running() for job in jobs))
        assert most_wakeups(master, worker) < MOST
        assert not any(job.done() for job in jobs)


def sleep(mark):
    Path(mark).touch()
    time.sleep(3 * SPAN)


@pytest.mark.slow
def test_a_worker_sleeps_while_it_finishes_its_last_job(tmp_path):
    with (
        Master() as master,
        Worker(master.address, "--grace", "600") as worker,
        cw.ClusterExecutor(master.address) as executor,
    ):
        job = executor.submit(sleep, tmp_path / "mark")
        wait_until((tmp_path / "mark").exists)  # what has not begun is given back
        worker.send_signal(signal.SIGTERM)
        worker.wait_for_event("worker.draining")
        assert most_wakeups(master, worker) < MOST and not job.done()
        assert job.result() is None and worker.wait() == 0
