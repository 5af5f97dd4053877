"""`map` of a no-op over 200,000 items with a chunk size of 100.

Items per second until the last result has arrived. Systems whose map has no chunk size are not included.
"""

from benchmarks.functions import noop
from benchmarks.measuring import Figure, check_sum, steady, timed, warm_up

SYSTEMS = ("cw", "pool", "processpool", "loky", "mpi4py", "ipyparallel")
FIGURES = (Figure("items/s"),)
LIMIT = 180


def measure(system_class, quick):
    nitems = 20_000 if quick else 200_000

    def once() -> float:
        seconds, results = timed(lambda: system.map(noop, range(nitems), 100))
        check_sum(results, nitems)
        return nitems / seconds

    with system_class(2) as system:
        warm_up(system, 2)
        system.map(noop, range(2000), 100)
        return {"n": nitems, "items/s": steady(once)}
