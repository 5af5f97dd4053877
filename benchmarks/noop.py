"""No-op jobs one by one, 20,000 of them.

All are submitted through futures (or the system's counterpart), then all results are gathered; jobs per second from the
first submit to the last result. Pool has separate rows for imap_unordered with a chunk size of 1 and for apply_async;
cw's ClientThread, with one callback for all, has a row, too.
"""

from benchmarks.measuring import Figure, affordable, steady_rate, warm_up

SYSTEMS = ("cw", "cw-thread", "pool-imap", "pool-async", "processpool", "loky", "mpi4py", "executorlib",
           "ray", "parsl", "dask", "ipyparallel")  # fmt: skip
FIGURES = (Figure("jobs/s"),)
LIMIT = 180


def measure(system_class, quick):
    with system_class(2) as system:
        warm_up(system, 2)
        njobs = affordable(system, 20_000, quick)
        return {"n": njobs, "jobs/s": steady_rate(system, njobs)}
