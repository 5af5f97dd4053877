"""Jobs of 0.25 ms, stored and not stored: the cost of storing for jobs that do some work."""

from benchmarks.functions import work_shortly
from benchmarks.measuring import Figure, rate, warm_up

SYSTEMS = ("cw", "cw-stored", "cw-thread", "cw-thread-stored")
FIGURES = (Figure("jobs/s"),)
LIMIT = 60


def measure(system_class, quick):
    njobs = 2000 if quick else 10_000
    with system_class(2) as system:
        warm_up(system, 2)
        return {"n": njobs, "jobs/s": rate(system, njobs, work_shortly)}
