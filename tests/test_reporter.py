"""What a user reads who waits, from real masters and workers."""

import os
import re
import sys
import threading
import time

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, start_script
from test_master import Peer

import cw
from cw.launch import status_client
from cw.net import address
from cw.net import messages as m
from cw.observer.demand import PossibleWorker
from cw.requirements import WorkerCapacity


@pytest.fixture(scope="module")
def master():
    with Master() as master:
        yield master


def said(caplog, event):
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == event]


def wait_for(caplog, event, text):
    wait_until(lambda: any(text in line for line in said(caplog, event)), LIMIT, lambda: caplog.text)


def test_no_worker_then_another_python_then_one_that_serves(master, caplog):
    executor = cw.ClusterExecutor(master.address)
    future = executor.submit(jobs.square, 5)
    wait_for(caplog, "client.waits", "no worker is connected to the master")
    (line,) = said(caplog, "client.waits")
    assert line.endswith(f"to start one on this machine: {sys.executable} -m cw.worker {master.address}")
    with Peer(master, python=[3, 99]) as other, Peer(master, python=[3, 98]) as another:
        for peer in (other, another):
            assert type(peer.receive()) is m.Welcome
            peer.send(m.InventoryEnd([]))
        wait_for(caplog, "client.waits", "Python 3.98, 3.99")
        line = said(caplog, "client.waits")[-1]
        assert "the program runs Python {}.{}, but".format(*sys.version_info) in line
        advice = line.partition("to start one on this machine: ")[2].split()
        assert advice == [sys.executable, "-m", "cw.worker", master.address]
        with Worker(*advice[3:]):
            assert future.result(LIMIT) == 25
            wait_for(caplog, "client.wait_over", "the jobs wait no longer, after ")
        executor.shutdown()
    assert len(said(caplog, "client.waits")) == 2 and len(said(caplog, "client.wait_over")) == 1


def test_a_job_that_no_worker_can_run_is_reported_within_three_seconds(master, caplog):
    """The best worker is named, and the job waits for one that has more."""
    executor = cw.ClusterExecutor(master.address)
    with Worker(master.address), Worker(master.address, "-n", "2"):
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
        wait_until(lambda: cw.status(master.address).totals.slots == 3, LIMIT)
        submitted = time.monotonic()
        large = executor.options(cpus=1000).submit(jobs.square, 4)
        wait_for(caplog, "client.waits", "the next job needs 1000 CPUs; the best worker")
        assert time.monotonic() - submitted < 3
        (line,) = said(caplog, "client.waits")
        seen = cw.status(master.address)
        most = max(worker.capacity.cpus for worker in seen.workers)
        text = f"the next job needs 1000 CPUs; the best worker, {os.uname().nodename}, has {most} CPU"
        assert text in line and seen.clients[0].why_waiting.startswith(text)
        command = f"python -m cw.worker {master.address}"
        assert line.endswith(f": start one with more ({command}), or ask for less in options()")
        assert [(shape.needs, shape.waiting) for shape in seen.shapes] == [("1000 CPUs", 1)]
        assert executor.submit(jobs.square, 5).result(LIMIT) == 25  # others go on
        with Worker(master.address, "--cpus", "1000"):
            assert large.result(LIMIT) == 16
            wait_for(caplog, "client.wait_over", "the jobs wait no longer, after ")
            executor.shutdown()
    assert len(said(caplog, "client.waits")) == 1


def machines():
    job = cw.current_job()
    return job.nodes, job.hostfile, job.cpus


def test_a_job_on_several_nodes_waits_for_a_worker_that_has_as_many(master, caplog, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=4\nn2 slots=4\n")
    executor = cw.ClusterExecutor(master.address)
    with Worker(master.address):
        future = executor.options(nodes=2).submit(machines)
        wait_for(
            caplog, "client.waits", f"needs 2 nodes; the only worker, {os.uname().nodename}, has 1 node: "
        )
        command = f"python -m cw.worker {master.address} --hostfile FILE"
        assert said(caplog, "client.waits")[0].endswith(f": start one with as many ({command})")
        assert executor.submit(machines).result(LIMIT)[:2] == ((os.uname().nodename,), None)
        with Worker(master.address, "--hostfile", hosts):
            assert future.result(LIMIT) == (("n1", "n2"), str(hosts), 1)
            executor.shutdown()


def test_a_worker_that_a_tender_may_start_is_waited_for_and_its_trouble_is_a_warning(
    master, caplog, tmp_path
):
    kind = PossibleWorker(sys.version_info[:2], WorkerCapacity(1000))
    candidates = address.find_master(master.address)
    good = m.WorkersToCome([kind.to_wire()], 60.0, "", "")
    paused = good._replace(notice="the cluster is paused: it has had enough")
    executor = cw.ClusterExecutor(master.address)
    with Worker(master.address):
        assert status_client.ask_demand(candidates, good).shapes == ()
        large = executor.options(cpus=1000).submit(jobs.square, 4)
        wait_for(
            caplog, "client.waits", "no worker with 1000 CPUs is connected yet: the cluster starts workers as"
        )
        assert status_client.ask_demand(candidates, paused)
        wait_for(caplog, "client.waits", f"no worker with 1000 CPUs is connected yet: {paused.notice}")
        assert large.cancel() and not said(caplog, "client.notice")
        held = [executor.submit(jobs.until, tmp_path / "go on") for _ in range(2)]
        wait_for(caplog, "client.notice", paused.notice)  # jobs wait, though not for the tender alone
        renewal = m.WorkersToCome(
            [], 60.0, "", "no job follows Slurm job 7 (master) yet: sbatch: too many jobs"
        )
        assert status_client.ask_demand(candidates, renewal)
        wait_for(caplog, "client.notice", renewal.problem)  # also of a cluster that is not elastic
        assert status_client.ask_demand(candidates, m.WorkersToCome([], 0.0, "", ""))
        (tmp_path / "go on").touch()
        assert [future.result(LIMIT) for future in held]
        executor.shutdown()


def test_others_hold_all_slots_and_a_submit_waits_for_room(master, caplog, tmp_path):
    """Three programs at once: one holds a slot, one waits in submit() for its own job, one gets no slot."""
    go_on = tmp_path / "go on"
    with Worker(master.address, "-n", "2"):
        first = cw.ClusterExecutor(master.address)
        full = cw.ClusterExecutor(master.address, max_outstanding=(1, None))
        last = cw.ClusterExecutor(master.address)
        held = [first.submit(jobs.until, str(go_on)), full.submit(jobs.until, str(go_on))]
        wait_until(lambda: all(future.running() for future in held), LIMIT)
        waits = last.submit(jobs.square, 6)
        submits = threading.Thread(target=lambda: held.append(full.submit(jobs.square, 7)))
        submits.start()
        wait_for(caplog, "client.waits", "jobs of other programs hold all 2 slots: ")
        wait_for(caplog, "client.waits", "submit() waits: 1 job is outstanding, as many as max_outstanding")
        name = f"client {os.uname().nodename}:{os.getpid()}"
        (busy,) = [line for line in said(caplog, "client.waits") if "hold all" in line]
        assert f"{name} (1), {name} (1); these jobs have their turn as those end" in busy
        assert not said(caplog, "client.wait_over")
        go_on.touch()
        submits.join(LIMIT)
        assert waits.result(LIMIT) == 36 and held[2].result(LIMIT) == 49
        wait_for(caplog, "client.wait_over", "submit() goes on, after ")
        wait_for(caplog, "client.wait_over", "the jobs wait no longer, after ")
        for executor in (first, full, last):
            executor.shutdown()


def test_a_run_without_waits_says_nothing(master, tmp_path):
    with Worker(master.address), start_script(
        tmp_path,
        f"""
import cw, time
executor = cw.ClusterExecutor({master.address!r})
assert list(executor.map(time.sleep, [0.5] * 8)) == [None] * 8
executor.shutdown()
""",
    ) as script:  # fmt: skip
        assert script.wait() == 0 and script.err == ""


def test_a_program_shows_the_lines_without_any_settings_of_its_log(tmp_path):
    """The master is killed in the middle of a wait, and is back: what its line says then is said once more."""
    with Master() as master:
        with start_script(
            tmp_path,
            f"""
import cw
executor = cw.ClusterExecutor({master.address!r})
print(executor.submit(pow, 2, 5).result())
executor.shutdown()
""",
        ) as script:  # fmt: skip
            script.wait_for("the jobs wait: no worker is connected to the master at 127.0.0.1:")
            master.process.kill()
            master.process.wait()
            script.wait_for("the client looks for it for 300 s")
            with Master("--port", str(master.port)) as again, Worker(again.address):
                assert script.wait() == 0 and script.out == "32\n"
            lines = [re.sub("[0-9.:]*[0-9]+", "N", line) for line in script.err.splitlines()]
            assert lines[0].startswith("the jobs wait: ") and lines[-1].startswith("the client is connected")
            assert len(lines) == 3 and "no longer" not in script.err


def test_a_first_master_that_is_long_awaited_is_said(caplog, tmp_path):
    with Master() as master:
        pass
    found = []
    start = threading.Thread(
        target=lambda: found.append(cw.ClusterExecutor(master.address, connect_timeout=LIMIT))
    )
    began = time.monotonic()
    start.start()
    wait_for(caplog, "client.master_awaited", "no cw master answers (127.0.0.1:")
    assert time.monotonic() - began >= 3
    with Master("--port", str(master.port)):
        start.join(LIMIT)
        wait_for(caplog, "client.master_found", "a master answers")
        found[0].shutdown()
