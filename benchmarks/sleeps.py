"""400 jobs that sleep 10 ms, on 2 slots: the share of the ideal, which is 2.0 s.

The bare loop sleeps 200 times in one process, and shows what the machine's timers leave of the ideal.
"""

from benchmarks.functions import nap
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw", "bare-loop", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask",
           "ipyparallel")  # fmt: skip
FIGURES = (Figure("share of the ideal"),)
LIMIT = 120
NAP = 0.010


def measure(system_class, quick):
    with system_class(2) as system:
        slots = 1 if system_class.in_process else 2
        njobs = (50 if quick else 200) * slots
        warm_up(system, slots)
        system.run(nap, [NAP] * 10)
        seconds, results = timed(lambda: system.run(nap, [NAP] * njobs))
    if results != [NAP] * njobs:
        raise ValueError(f"wrong results: {len(results)} of {njobs}")
    return {"n": njobs, "share of the ideal": njobs * NAP / slots / seconds}
