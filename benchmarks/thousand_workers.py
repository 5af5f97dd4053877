"""1,000 workers connected, no-op jobs: the master's CPU time per job, against that with 2 workers.

One process plays all workers (crowd.py), since 1,000 real ones would occupy the whole machine. The figure is the
master's user and system time from the first submit to the last result, divided by the number of jobs; the case with 2
workers is measured before and after, each with its own master.
"""

import resource
import statistics

from benchmarks.measuring import Figure, rate
from benchmarks.processes import cpu_seconds

SYSTEMS = ("cw-crowd",)
FIGURES = (
    Figure("master's CPU us a job", higher_is_better=False),
    Figure("against 2 workers", higher_is_better=False),
)
LIMIT = 300


def measure(system_class, quick):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the master and the crowd inherit it
    workers, njobs = (100, 20_000) if quick else (1000, 100_000)
    before = _cpu_per_job(system_class, 2, njobs)
    crowded = _cpu_per_job(system_class, workers, njobs)
    after = _cpu_per_job(system_class, 2, njobs)
    ratio = crowded / statistics.mean([before, after])
    return {"n": njobs, "master's CPU us a job": 1e6 * crowded, "against 2 workers": ratio}


def _cpu_per_job(system_class, workers, njobs):
    with system_class(workers) as system:
        rate(system, 5000)
        pid = system.master.process.pid
        before = cpu_seconds(pid)
        rate(system, njobs)
        return (cpu_seconds(pid) - before) / njobs
