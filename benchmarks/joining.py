"""Thousands of workers that join at once over TLS, and come back at once when the master was killed and started again.

A few processes play the workers (joiners.py). The times are from the start of these processes, and of the second
master, until the last worker is welcomed; memory and CPU time are those of the first master then.
"""

import resource
import time

from benchmarks.measuring import Figure
from benchmarks.processes import cpu_seconds, resident_kib

SYSTEMS = ("cw-joiners",)
FIGURES = (
    Figure("seconds to join", higher_is_better=False),
    Figure("seconds to be back", higher_is_better=False),
    Figure("master's KiB a worker", higher_is_better=False),
    Figure("master's CPU ms a worker", higher_is_better=False),
)
LIMIT = 600
OWN = 200  # descriptors that the master needs beside those of its workers


def measure(system_class, quick):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the master and the joiners inherit it
    workers = 400 if quick else min(20_000, (most - OWN) // 4 * 4)
    before = time.monotonic()
    with system_class(workers) as system:
        pid = system.master.process.pid
        system.wait()
        joined = time.monotonic() - before
        kib, cpu = resident_kib(pid) / workers, cpu_seconds(pid) / workers
        before = time.monotonic()
        system.restart_master()
        system.wait()
        back = time.monotonic() - before
    return {
        "n": workers,
        "seconds to join": joined,
        "seconds to be back": back,
        "master's KiB a worker": kib,
        "master's CPU ms a worker": 1000 * cpu,
    }
