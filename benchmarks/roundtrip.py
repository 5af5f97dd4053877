"""One job at a time: submit a no-op, wait for its result, submit the next. 2,000 trips after 200 others.

Median and 99th percentile, in milliseconds. Slow systems get fewer trips, but 1,000 at least.
"""

import statistics

from benchmarks.functions import noop
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask", "ipyparallel")
FIGURES = (Figure("median ms", higher_is_better=False), Figure("p99 ms", higher_is_better=False))
LIMIT = 180
SLOW = 0.005  # time of a trip of a slow system (seconds)


def measure(system_class, quick):
    def trip(number: int) -> float:
        seconds, result = timed(lambda: system.submit(noop, number).result())
        if result != number:
            raise ValueError(f"job {number} returned {result!r}")
        return seconds

    with system_class(2) as system:
        warm_up(system, 2)
        pace = statistics.median(trip(number) for number in range(50 if quick else 200))
        ntrips = 200 if quick else 1000 if pace > SLOW else 2000
        trips = [trip(number) for number in range(ntrips)]
    percentiles = statistics.quantiles(trips, n=100)
    return {"n": ntrips, "median ms": 1000 * percentiles[49], "p99 ms": 1000 * percentiles[98]}
