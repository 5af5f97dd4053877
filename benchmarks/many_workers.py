"""32 slots on this machine, no-op jobs, 20,000 of them.

32 worker processes of one slot each, for cw and the peers; and cw with one worker of 32 slots, with the ratio of its
rate to that of one worker with 2 slots, measured before and after it.
"""

import statistics

from benchmarks.measuring import Figure, affordable, steady_rate, warm_up

SYSTEMS = ("cw-workers", "cw-one-worker", "pool-imap", "processpool", "loky", "mpi4py", "executorlib", "ray",
           "parsl", "dask", "ipyparallel")  # fmt: skip
FIGURES = (Figure("jobs/s"), Figure("share of the 2-slot rate"))
LIMIT = 400


def measure(system_class, quick):
    if system_class.label != "cw, one worker":
        njobs, jobs_per_second = _rate(system_class, 8 if quick else 32, quick)
        return {"n": njobs, "jobs/s": jobs_per_second}
    _, before = _rate(system_class, 2, quick)
    njobs, wide = _rate(system_class, 8 if quick else 32, quick)
    _, after = _rate(system_class, 2, quick)
    share = wide / statistics.mean([before, after])
    return {"n": njobs, "jobs/s": wide, "share of the 2-slot rate": share}


def _rate(system_class, slots, quick):
    with system_class(slots) as system:
        warm_up(system, slots)
        njobs = affordable(system, 20_000, quick)
        return njobs, steady_rate(system, njobs)
