"""A function with 10 MB in its closure, called with an int, after its first call.

Its rate, and the ratio to the no-op rate of the same system in the same trial; the two take turns, and medians are
compared. Pool and ProcessPoolExecutor cannot pickle such a function.
"""

import statistics

from benchmarks.functions import noop, with_closure
from benchmarks.measuring import Figure, affordable, rate, warm_up

SYSTEMS = ("cw", "loky", "mpi4py-cloudpickle", "executorlib", "ray", "parsl", "dask", "ipyparallel")
FIGURES = (Figure("jobs/s"), Figure("share of the no-op rate"))
LIMIT = 240
BALLAST = 10_000_000


def measure(system_class, quick):
    function = with_closure(BALLAST)
    with system_class(2) as system:
        warm_up(system, 2)
        if system.submit(function, 1).result() != BALLAST + 1:
            raise ValueError("wrong result")
        njobs = affordable(system, 20_000, quick, function)
        plain_jobs = affordable(system, 20_000, quick, noop)
        plain, burdened = [], []
        for _ in range(3 if njobs == plain_jobs else 1):
            plain.append(rate(system, plain_jobs))
            burdened.append(rate(system, njobs, function, offset=BALLAST))
    jobs_per_second = statistics.median(burdened)
    share = jobs_per_second / statistics.median(plain)
    return {"n": njobs, "jobs/s": jobs_per_second, "share of the no-op rate": share}
