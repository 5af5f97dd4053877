"""No-op jobs on one slot, each with one instance of a class: an imported one, or the script's; compared with an int.

ProcessPoolExecutor's processes are forked with the script's class in them; loky sends its definition with each job.
"""

import dataclasses
import sys

from benchmarks.functions import Reading, noop
from benchmarks.measuring import Figure, affordable, steady, timed, warm_up

SYSTEMS = ("cw", "processpool", "loky")
FIGURES = (Figure("int: jobs/s"), Figure("imported: jobs/s"), Figure("script: jobs/s"))
LIMIT = 180


def measure(system_class, quick):
    own = class_of_script()
    with system_class(1) as system:
        warm_up(system, 1)
        njobs = affordable(system, 20_000, quick)
        figures = {}
        for name, make in (("int", int), ("imported", Reading), ("script", own)):
            arguments = [make(number) for number in range(njobs)]
            figures[f"{name}: jobs/s"] = steady(lambda arguments=arguments: _rate(system, arguments))
        return {"n": njobs, **figures}


def class_of_script():
    """Return a class of the running program, which pickle names as part of `__main__`."""
    script = sys.modules["__main__"]
    names = {"__module__": "__main__", "__annotations__": {"number": int}}
    script.OwnReading = dataclasses.dataclass(type("OwnReading", (), names))
    return script.OwnReading


def _rate(system, arguments):
    seconds, results = timed(lambda: system.run(noop, arguments))
    if results != arguments:
        raise ValueError("wrong results")
    return len(arguments) / seconds
