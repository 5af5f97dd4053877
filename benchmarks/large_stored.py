"""1,000 results of 10 MB, stored and not stored: results per second."""

from benchmarks.functions import zeros
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw-thread", "cw-thread-stored")
FIGURES = (Figure("results/s"),)
LIMIT = 400
NBYTES = 10_000_000


def measure(system_class, quick):
    njobs = 50 if quick else 1000
    with system_class(2) as system:
        warm_up(system, 2)
        seconds, count = timed(lambda: system.count(zeros, [NBYTES] * njobs))
    if count != njobs:
        raise ValueError(f"{count} results")
    return {"n": njobs, "results/s": njobs / seconds}
