"""Thousands of workers that join at once over TLS, and come back at once when the master was killed and started again.

A few processes play the workers (joiners.py), with root's rights each in a network namespace of its own. The times are
from the start of these processes, and of the second master, until the last worker is welcomed; memory is that of the
first master then, CPU time that of each master. Meanwhile workers hold jobs: that each of these runs once and gives its
result is checked. In the end all workers are killed at once, and the master's lines about that are counted.
"""

import resource
import time

from benchmarks.functions import noop
from benchmarks.measuring import Figure
from benchmarks.processes import cpu_seconds, resident_kib

SYSTEMS = ("cw-joiners",)
FIGURES = (
    Figure("seconds to join", higher_is_better=False),
    Figure("seconds to be back", higher_is_better=False),
    Figure("master's KiB a worker", higher_is_better=False),
    Figure("master's CPU ms a worker", higher_is_better=False),
    Figure("CPU ms when they are back", higher_is_better=False),
    Figure("lines when all are lost", higher_is_better=False),
)
LIMIT = 600
OWN = 100  # descriptors that the master needs beside those of its workers
MOURNING = 5.0  # time in which the master logs the loss of all (seconds)


def measure(system_class, quick):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the master and the joiners inherit it
    workers = min(1000 if quick else 20_000, most - OWN) // 4 * 4
    njobs = workers // 4
    before = time.monotonic()
    with system_class(workers) as system:
        system.wait()
        joined = time.monotonic() - before
        kib, cpu = resident_kib(system.master.process.pid), cpu_seconds(system.master.process.pid)
        jobs = system.submit_all(noop, range(njobs))
        while len(system.began()) < njobs:
            time.sleep(0.1)
        system.kill_master()
        before = time.monotonic()
        system.start_master()
        system.wait()
        back = time.monotonic() - before
        cpu_back = cpu_seconds(system.master.process.pid)
        system.finish()
        check(system.gather(jobs), njobs, "results")
        check(sorted(system.began()), njobs, "runs")
        logged = count_lines(system)
        system.kill_workers()
        time.sleep(MOURNING)
        lines = count_lines(system) - logged
    return {
        "n": workers,
        "seconds to join": joined,
        "seconds to be back": back,
        "master's KiB a worker": kib / workers,
        "master's CPU ms a worker": 1000 * cpu / workers,
        "CPU ms when they are back": 1000 * cpu_back / workers,
        "lines when all are lost": lines,
    }


def check(numbers, njobs, what):
    if numbers != list(range(njobs)):
        raise RuntimeError(f"{len(numbers)} {what} of {njobs} jobs, {len(set(numbers))} different ones")


def count_lines(system):
    return system.log.read_bytes().count(b"\n")
