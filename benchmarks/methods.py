"""Methods of objects, submitted one by one with an int.

A small object; one with an array of 10 MB that does not change; the same with one number changed before each submit.
"""

from benchmarks.functions import Simulation
from benchmarks.measuring import Figure, affordable, check_sum, rate, timed, warm_up

SYSTEMS = ("cw", "processpool", "loky")
FIGURES = (Figure("small: jobs/s"), Figure("10 MB: jobs/s"), Figure("10 MB, changed: jobs/s"))
LIMIT = 240


def measure(system_class, quick):
    small, large = Simulation(10), Simulation(1_250_000)
    with system_class(2) as system:
        warm_up(system, 2)
        figures = {}
        for name, simulation in (("small: jobs/s", small), ("10 MB: jobs/s", large)):
            njobs = affordable(system, 20_000, quick, simulation.step)
            figures[name] = rate(system, njobs, simulation.step)
        njobs = max(20, affordable(system, 20_000, quick, large.step) // 4)
        seconds, results = timed(
            lambda: [handle.result() for handle in _submit_changed(system, large, njobs)]
        )
        check_sum(results, njobs)
        return {"n": njobs, **figures, "10 MB, changed: jobs/s": njobs / seconds}


def _submit_changed(system, simulation, njobs):
    for number in range(njobs):
        simulation.values[0] = number
        yield system.submit(simulation.first)
