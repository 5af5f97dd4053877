"""Time to the first result with a local cluster of 2 slots, in seconds.

The process is fresh and has imported no module of the system: the clock starts before its modules are imported, or
after it and before the pool or cluster is made; it stops when the first job's result has arrived. The start of the
interpreter itself is not included. The CPU time is that of all processes up to then, the import included: on a machine
with few cores, or busy ones, it says more than the time.
"""

import importlib
import os
from contextlib import suppress

from benchmarks.functions import noop
from benchmarks.measuring import Figure, timed
from benchmarks.processes import cpu_seconds, descendants, harness_pid

SYSTEMS = ("cw", "pool-async", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask",
           "ipyparallel")  # fmt: skip
FIGURES = (
    Figure("seconds with the import", higher_is_better=False),
    Figure("seconds without it", higher_is_better=False),
    Figure("CPU seconds", higher_is_better=False),
)
LIMIT = 120


def measure(system_class, quick):
    def first_result():
        system = system_class(2)
        return system, system.submit(noop, 1).result()

    before = cpu_seconds(os.getpid())
    importing, _ = timed(lambda: [importlib.import_module(module) for module in system_class.modules])
    starting, (system, result) = timed(first_result)
    used = _cpu_seconds_of_trial() - before
    system.close()
    if result != 1:
        raise ValueError(f"the job returned {result!r}")
    return {
        "n": 1,
        "seconds with the import": importing + starting,
        "seconds without it": starting,
        "CPU seconds": used,
    }


def _cpu_seconds_of_trial():
    used = 0.0
    for pid in descendants(harness_pid()):
        with suppress(FileNotFoundError):  # it ended meanwhile
            used += cpu_seconds(pid)
    return used
