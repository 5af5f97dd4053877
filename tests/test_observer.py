"""An observer of a real cluster: names, backlogs and errors that clients tell, orders, and who may look."""

import threading
import time
from types import SimpleNamespace

import jobs
import pytest
from conftest import wait_until

import cw
from cw import overview
from cw.errors import RemoteTraceback
from cw.net import messages as m
from cw.net.objects import Object
from cw.observer.bounds import FAILURES
from cw.observer.reporter import Reporter, lines_of, program_name


class Watcher:
    """Looks at a cluster in a thread of its own."""

    def __init__(self, host):
        self.seen = []
        self.observer = overview.observe(host, self.seen.append)
        self.thread = threading.Thread(target=self.observer.run)
        self.thread.start()

    def until(self, condition):
        """The first snapshot for which the condition is true."""
        return wait_until(lambda: next(filter(condition, self.seen[-1:]), None), 30, lambda: self.seen[-1:])

    def close(self):
        self.observer.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def watch():
    watchers = []

    def start(host):
        watchers.append(Watcher(host))
        return watchers[-1]

    yield start
    for watcher in watchers:
        watcher.close()


def raise_two_lines(text):
    raise ValueError(f"{text}\nas the second line says")


def test_an_observer_sees_jobs_and_stops_them(cluster, watch, tmp_path):
    watcher = watch(cluster.master)
    gate = tmp_path / "gate"
    with cw.ClusterExecutor(cluster.master) as executor:
        failing = [executor.submit(raise_two_lines, "no convergence") for _ in range(2)]
        assert all(isinstance(future.exception(30), ValueError) for future in failing)
        held = [executor.submit(jobs.until, gate) for _ in range(20_000)]  # more than the master's window
        seen = watcher.until(lambda seen: len(seen.running) == 2 and seen.totals.waiting > 19_000)
        by_name = {one.name: one for one in seen.functions}
        assert by_name["raise_two_lines"].failed == 2
        assert by_name["until"].running == 2 and by_name["until"].done == 0
        assert by_name["until"].waiting == pytest.approx(20_000 - 2, rel=0.05)
        assert seen.clients[0].why_waiting == "its own jobs hold all 2 slots"
        first = seen.failures[0]
        assert (first.function, first.first) == ("raise_two_lines", "ValueError: no convergence")
        assert first.last == "as the second line says" and first.host
        running = seen.running[0]
        watcher.observer.stop_job(running.session, running.number)
        with pytest.raises(cw.JobStopped, match=rf"job {running.number} was stopped by .+ on .+"):
            held[running.number - 3].result(30)
        watcher.until(lambda seen: seen.totals.failed == 3)
        executor.shutdown(wait=False, cancel_futures=True)
        gate.touch()
    watcher.until(lambda seen: not seen.clients)


def test_an_observer_drains_a_worker(cluster, watch):
    watcher = watch(cluster.master)
    key = watcher.until(lambda seen: seen.workers).workers[0].key
    watcher.observer.drain(key)
    watcher.until(lambda seen: not seen.workers)
    assert not watcher.seen[-1].losses  # it left as ordered


def test_status_raises_with_what_to_do_where_no_master_is():
    with pytest.raises(cw.ConnectionError, match=r"no master answers \(.*\): start a cluster \(`.*cw local`"):
        cw.status("127.0.0.1:1")
    with pytest.raises(Exception, match="no address"):
        cw.status("a b")


def test_an_observer_says_why_it_ended(cluster, watch):
    watcher = watch(cluster.master)
    watcher.until(lambda seen: True)
    cluster.close()
    watcher.thread.join(30)
    assert watcher.observer.reason


# --- what a client tells --------------------------------------------------------------------


def error_with(text):
    error = ValueError("its own text")
    error.__cause__ = RemoteTraceback(text, {})
    return error


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (ValueError("one"), ("ValueError: one", "")),
        (ValueError("one\ntwo\nthree"), ("ValueError: one", "three")),
        (ValueError(), ("ValueError: ", "")),
        (error_with('job 1\nTraceback (most recent call last):\n  File "x.py", line 2, in f\n    1 / 0\n    ~~^~~\n'
                    "ZeroDivisionError: division by zero\n"), ("ZeroDivisionError: division by zero", "")),
        (error_with("Traceback (most recent call last):\n  frame\nKeyError: 1\n\nDuring the handling of the above\n\n"
                    "Traceback (most recent call last):\n  frame\nlib.Error: a\nb\n"), ("lib.Error: a", "b")),
        (error_with("no traceback"), ("no traceback", "")),
        (ValueError("\x1b[31m" + "x" * 10_000), None),
    ],
)  # fmt: skip
def test_the_lines_of_an_error_are_those_of_its_text(error, lines):
    found = lines_of(error)
    assert all(text.isprintable() and len(text) <= 200 for text in found)
    if lines is not None:
        assert found == tuple(line.strip() for line in lines)


def test_an_error_that_cannot_be_shown_has_its_type():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    assert lines_of(Odd()) == ("Odd", "")


class Jobs:
    def __init__(self, waiting, sent):
        self.sent = [SimpleNamespace(function=1) for _ in range(sent)]
        self.waiting = [SimpleNamespace(function=1 + n % 2) for n in range(waiting)]
        self.held = SimpleNamespace(all=lambda: [SimpleNamespace(function=9)] * 3)

    def all(self):
        return [*self.sent, *self.waiting]

    def is_sent(self, job):
        return any(job is one for one in self.sent)


class Loop(list):
    def call_later(self, seconds, callback):
        self.append(callback)


def test_a_client_tells_its_backlog_while_somebody_looks_and_only_then():
    sent, loop = [], Loop()
    reporter = Reporter(loop, sent.append, Jobs(10, 5), {1: "f", 2: "g"})
    reporter.on_watched(m.Watched(True))
    assert sent == [m.Backlog({"f": 5, "g": 5, "?": 3})]
    loop.pop()()
    assert len(sent) == 1 and len(loop) == 1  # it has not changed
    reporter.on_watched(m.Watched(False))
    loop.pop()()
    assert len(sent) == 1 and not loop


def test_a_large_backlog_is_estimated():
    jobs = Jobs(100_000, 0)
    found = Reporter(Loop(), print, jobs, {1: "f", 2: "g", 9: "h"}).backlog()
    assert sum(found.values()) == pytest.approx(100_000, rel=0.05)
    began = time.thread_time()
    Reporter(Loop(), print, jobs, {}).backlog()
    assert time.thread_time() - began < 0.5


def test_only_the_first_failures_of_a_second_are_told():
    sent = []
    reporter = Reporter(Loop(), sent.append, Jobs(0, 0), {})
    for number in range(1000):
        reporter.on_failed(number, ValueError("no"))
    assert sent[0] == m.JobFailed(0, "ValueError: no", "") and FAILURES <= len(sent) <= 3 * FAILURES


def test_a_name_travels_once_with_the_code():
    sent = []
    reporter = Reporter(Loop(), sent.append, Jobs(0, 0), {3: "f", 4: "f", 6: "g\x1b"})
    environment, code = Object(1, b"", m.ENVIRONMENT), Object(2, b"", m.VALUE)
    one, again = (
        Object(3, b"", m.FUNCTION, [environment, code]),
        Object(4, b"", m.FUNCTION, [environment, code]),
    )
    reporter.on_objects_sent([environment, code, one])
    reporter.on_objects_sent([again])
    reporter.on_objects_sent([Object(6, b"", m.FUNCTION, [environment]), Object(7)])
    assert sent == [m.FunctionName(3, "f"), m.FunctionName(6, "g ")]


def test_the_program_has_the_name_of_its_script(monkeypatch):
    for argv, name in ((["/home/a/sim.py", "x"], "sim.py"), (["-c"], ""), ([""], ""), ([], "")):
        monkeypatch.setattr("sys.argv", argv)
        assert program_name() == name
