"""A soak: clients submit without end while runners, workers, the master and connections are killed, frozen and cut.

By hand, for as long as one likes:  python tests/test_chaos.py --minutes 10 [--seed N]

Each job must call back once, with its own result; in the end nothing may be left, and master and workers must be no
larger than at the beginning.
"""

import argparse
import contextlib
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import templates
from conftest import wait_until
from programs import Master, Relay, Worker, children_of, free_port, is_running

import cw

WORKERS = 4
CLIENTS = 3
OUTSTANDING = 500
"""Jobs of each client at one time."""

SILENCE = 2.0
LIMIT = 120.0
"""Seconds for what takes some seconds when nothing is killed any more."""

GROWTH = 40e6
"""Bytes by which a process may be larger in the end: what Python and malloc keep of what they once had."""


def work(n, seconds, payload, size):
    """A job whose result says that it is its own."""
    time.sleep(seconds)
    return n, zlib.crc32(payload), bytes([n % 256]) * size


class Client:
    """Submits until it is told to stop, and keeps count of what comes back."""

    def __init__(self, address, seed):
        self.calls = Counter()  # by job
        self.wrong = []
        self.submitted = 0
        self.is_stopped = False
        self._expected = {}
        self._random = Random(seed)
        self.thread = cw.ClientThread(
            self._on_result,
            address,
            on_error=self._on_error,
            connect_timeout=LIMIT,
            max_outstanding=(OUTSTANDING, None),
        )
        self._feeder = threading.Thread(target=self._feed)

    def start(self):
        self.thread.start()
        self._feeder.start()

    def stop(self):
        self.is_stopped = True
        self._feeder.join()

    def _feed(self):
        random = self._random
        submit = self.thread.options(attempts=1000).submit  # runners die all the time
        while not self.is_stopped:
            n = self.submitted
            seconds = random.choice([0] * 20 + [0.001] * 5 + [0.01] * 5 + [0.1, 0.3])
            payload = random.randbytes(random.choice([10] * 20 + [1000, 10_000, 200_000]))
            size = random.choice([0] * 20 + [1000, 10_000, 300_000])
            self._expected[n] = zlib.crc32(payload), size
            submit(n, work, n, seconds, payload, size)
            self.submitted += 1

    def _on_result(self, jobid, result):
        self.calls[jobid] += 1
        crc, size = self._expected.pop(jobid, (None, None))
        if result != (jobid, crc, bytes([jobid % 256]) * (size or 0)):
            self.wrong.append((jobid, repr(result)[:100]))

    def _on_error(self, jobid, error):
        self.calls[jobid] += 1
        self.wrong.append((jobid, repr(error), getattr(error, "attempts", None)))

    def check(self):
        assert not self.wrong, self.wrong[:5]
        missing = [n for n in range(self.submitted) if not self.calls[n]]
        twice = [n for n, count in self.calls.items() if count > 1]
        assert not missing and not twice, (missing[:5], twice[:5])


class Chaos:
    """A cluster, its clients, and what befalls them."""

    def __init__(self, seed, stack):
        self.random = Random(seed)
        self.faults = Counter()
        self._stack = stack
        self._port = free_port()
        self.master = self._start_master()
        self._relay = stack.enter_context(Relay(self._port))
        # Half of all are on the master's machine, with local sockets; half of them come through a network.
        self._addresses = [f"127.0.0.1:{self._port}", self._relay.address]
        self.workers = [self._start_worker(n) for n in range(WORKERS)]
        self.clients = [Client(self._addresses[n % 2], seed * 1000 + n) for n in range(CLIENTS)]

    def _start_master(self):
        return self._stack.enter_context(
            Master("--port", self._port, "--silence", SILENCE, "--client-grace", LIMIT)
        )

    def _start_worker(self, n):
        options = "--grace", "1", "--silence", SILENCE
        # (it need not have joined: its master may be away)
        return self._stack.enter_context(
            Worker(self._addresses[n % 2], "-n", "2", *options, is_awaited=False)
        )

    def run(self, seconds, say=lambda text: None):
        """Returns what is to be reported."""
        before = self._sizes_when_idle()
        for client in self.clients:
            client.start()
        end = time.monotonic() + seconds
        told = time.monotonic()
        while time.monotonic() < end:
            time.sleep(self.random.uniform(0.05, 0.5))
            fault = self.random.choice(FAULTS)
            fault(self)
            self.faults[fault.__name__] += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(self.report())
        for client in self.clients:
            client.stop()
        for client in self.clients:
            client.thread.wait(LIMIT)
        for client in self.clients:
            client.check()
        after = self._sizes_when_idle()
        for client in self.clients:
            client.thread.stop()
        wait_until(lambda: self._descriptors() <= 16 + WORKERS, LIMIT, self._descriptors)
        grown = {who: size - before[who] for who, size in after.items()}
        assert max(grown.values()) < GROWTH, grown
        for program in (self.master, *self.workers):
            assert "Traceback" not in program.err, program.err
        for worker in self.workers:
            assert worker.end() == 0, worker.err
        assert self.master.end() == 0, self.master.err
        return f"{self.report()}; grown by {', '.join(f'{who} {size / 1e6:.1f} MB' for who, size in grown.items())}"

    def report(self):
        jobs = sum(sum(client.calls.values()) for client in self.clients)
        return f"{sum(self.faults.values())} faults ({dict(self.faults)}), {jobs} results"

    def _sizes_when_idle(self):
        """Of the master and the largest worker, when all have joined and worked, and have nothing to do."""
        wait_until(lambda: all("worker.joined" in worker.events for worker in self.workers), LIMIT)
        with cw.ClusterExecutor(self._addresses[0]) as executor:
            list(executor.map(abs, range(1000)))
        return {"master": resident(self.master.pid), "worker": max(resident(w.pid) for w in self.workers)}

    def _descriptors(self):
        return len(os.listdir(f"/proc/{self.master.pid}/fd"))

    # --- faults ---

    def runner_is_killed(self):
        for pid in self._some_runner():
            os.kill(pid, signal.SIGKILL)

    def runner_freezes(self):
        for pid in self._some_runner():
            self._freeze(pid, 0.5)

    def worker_is_killed(self):
        self._end_worker(signal.SIGKILL)

    def worker_drains(self):
        self._end_worker(signal.SIGTERM)

    def worker_freezes(self):
        self._freeze(self.random.choice(self.workers).pid, self.random.choice([0.3, 0.3, SILENCE + 1]))

    def keeper_is_killed(self):
        for pid in children_of(self.random.choice(self.workers).pid):
            os.kill(pid, signal.SIGKILL)

    def master_is_killed(self):
        with self.master:
            self.master.end(signal.SIGKILL)
            assert "Traceback" not in self.master.err, self.master.err
        time.sleep(self.random.choice([0, 0.5, 1]))
        self.master = self._start_master()

    def master_freezes(self):
        self._freeze(self.master.pid, self.random.choice([0.3, 0.3, SILENCE + 1]))

    def connections_are_cut(self):
        self._relay.drop()

    def _some_runner(self):
        keepers = children_of(self.random.choice(self.workers).pid)
        runners = [pid for keeper in keepers for pid in children_of(keeper)]
        return self.random.sample(runners, min(1, len(runners)))

    def _end_worker(self, number):
        n = self.random.randrange(WORKERS)
        with self.workers[n] as worker:
            worker.end(number)
            assert "Traceback" not in worker.err, worker.err
        self.workers[n] = self._start_worker(n)

    def _freeze(self, pid, seconds):
        """It may end meanwhile: then its number is not used again so soon."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)


FAULTS = [
    *[Chaos.runner_is_killed] * 4, *[Chaos.runner_freezes] * 2, *[Chaos.worker_is_killed] * 2, Chaos.worker_drains,
    *[Chaos.worker_freezes] * 2, Chaos.keeper_is_killed, Chaos.master_is_killed, Chaos.master_freezes,
    *[Chaos.connections_are_cut] * 2,
]  # fmt: skip


def resident(pid):
    """Bytes of memory that a process has for itself."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
    ]
    return int(line.split()[1]) * 1024


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_whatever_is_killed_frozen_or_cut_each_job_calls_back_once_and_nothing_is_left():
    """For a minute. (In the ordinary run the same faults come one by one, in test_faults.py, and all of them in a
    simulated cluster, in test_simulation.py.)"""
    descriptors = len(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        print(Chaos(2, stack).run(60))
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, LIMIT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        temporary = Path(home, "temporary")
        temporary.mkdir()
        marker = secrets.token_hex(8)
        os.environ.update(TMPDIR=str(temporary), CW_HOME=f"{home}/cw", CW_TEST_RUN=marker)
        tempfile.tempdir = str(temporary)
        shared = set(os.listdir("/dev/shm"))
        with contextlib.ExitStack() as stack:
            print(Chaos(options.seed, stack).run(60 * options.minutes, say=print))
        templates.close_all()
        wait_until(lambda: not _marked(marker), LIMIT, lambda: _marked(marker))
        left = [*temporary.iterdir(), *(set(os.listdir("/dev/shm")) - shared)]
        assert not left, left
    print("nothing is left")


def _marked(marker):
    """Running processes that were started by this one, however far they strayed."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if pid != os.getpid() and f"CW_TEST_RUN={marker}".encode() in environment and is_running(pid):
                found.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main())
