"""A local function that has captured a small list, which might change, called with an int.

(The workload `closure` has 10 MB of `bytes` instead, which cannot change.) Pool and ProcessPoolExecutor cannot pickle
such a function.
"""

from benchmarks.functions import with_list
from benchmarks.measuring import Figure, affordable, rate, steady, warm_up

SYSTEMS = ("cw", "loky")
FIGURES = (Figure("jobs/s"),)
LIMIT = 180


def measure(system_class, quick):
    function = with_list([1, 2, 3])
    with system_class(2) as system:
        warm_up(system, 2)
        njobs = affordable(system, 20_000, quick, function)
        return {"n": njobs, "jobs/s": steady(lambda: rate(system, njobs, function, offset=3))}
