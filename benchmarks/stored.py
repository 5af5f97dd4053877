"""No-op jobs whose results are stored, up to 20,000, and the same once more in a new process, which finds them.

Jobs per second from the first submit to the last result: when each result is written to disk before it is delivered,
and when all are stored already. For cw, a row without a store shows the cost of storing.
"""

from benchmarks import resumed
from benchmarks.functions import noop
from benchmarks.measuring import Figure, rate, timed, warm_up

SYSTEMS = ("cw", "cw-stored", "cw-thread", "cw-thread-stored", "joblib-stored", "executorlib-stored")
FIGURES = (Figure("jobs/s"), Figure("jobs/s when all is there"))
LIMIT = 240
PROBE = 200


def measure(system_class, quick):
    with system_class(2) as system:
        warm_up(system, 2)
        # Other jobs than those that are measured, which must not be stored yet.
        seconds, _ = timed(lambda: system.run(noop, range(-PROBE, 0)))
        njobs = min(2000 if quick else 20_000, max(20, round((1.0 if quick else 10.0) * PROBE / seconds)))
        figures = {"n": njobs, "jobs/s": rate(system, njobs)}
    if system_class.stores:
        figures["jobs/s when all is there"] = njobs / resumed.seconds(system_class, njobs)[0]
    return figures
