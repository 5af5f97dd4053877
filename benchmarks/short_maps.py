"""`map` of a no-op over 16 items, 500 times, one after the other; each system chooses the chunks.

Median and 99th percentile, in milliseconds.
"""

import statistics

from benchmarks.functions import noop
from benchmarks.measuring import Figure, check_sum, timed, warm_up

SYSTEMS = ("cw-pool", "pool")
FIGURES = (Figure("median ms", higher_is_better=False), Figure("p99 ms", higher_is_better=False))
LIMIT = 120
ITEMS = 16


def measure(system_class, quick):
    def once() -> float:
        seconds, results = timed(lambda: system.map(noop, range(ITEMS), None))
        check_sum(results, ITEMS)
        return seconds

    count = 100 if quick else 500
    with system_class(2) as system:
        warm_up(system, 2)
        for _ in range(count // 10):
            once()
        times = [once() for _ in range(count)]
    return {
        "n": count,
        "median ms": 1000 * statistics.median(times),
        "p99 ms": 1000 * statistics.quantiles(times, n=100)[98],
    }
