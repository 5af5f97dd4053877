"""joblib.Parallel by backend: 20,000 no-op calls, and 200 that share an array of 8 MB; joblib chooses the batches.

No-op calls per second, and calls with the array per second. A backend that takes more than a second for 200 or 2,000 of
the calls does no more: joblib begins with batches of one call, so fewer calls are slower for all.
"""

from benchmarks.functions import noop
from benchmarks.measuring import Figure, check_sum, steady, timed, warm_up

SYSTEMS = ("joblib-cw", "joblib-loky", "joblib-dask")
FIGURES = (Figure("calls/s"), Figure("calls with array/s"))
LIMIT = 240
MEGABYTE = 1_000_000


def measure(system_class, quick):
    import numpy
    from joblib import Parallel, delayed

    array = numpy.arange(MEGABYTE, dtype=float)

    def with_array() -> float:
        seconds, found = timed(lambda: Parallel()(delayed(numpy.take)(array, n) for n in range(shared)))
        if found != list(range(shared)):
            raise ValueError("wrong values")
        return shared / seconds

    def short() -> float:
        seconds, results = timed(lambda: system.run(noop, range(count)))
        check_sum(results, count)
        return count / seconds

    count, shared = 200, 50 if quick else 200
    with system_class(2) as system:
        warm_up(system, 2)
        while count < (2_000 if quick else 20_000) and short() > count:
            count *= 10
        with_array()
        return {"n": count, "calls/s": steady(short), "calls with array/s": steady(with_array)}
