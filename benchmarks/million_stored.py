"""1,000,000 no-op jobs with a store, and the same script once more: the time to find all of them.

The second run is a new process: its time is from the start of its cluster to its end.
"""

from pathlib import Path

from benchmarks import resumed
from benchmarks.measuring import Figure, rate, warm_up

SYSTEMS = ("cw-thread-stored",)
FIGURES = (
    Figure("jobs/s"),
    Figure("seconds to find them all", higher_is_better=False),
    Figure("B in the store for each job", higher_is_better=False),
)
LIMIT = 400


def measure(system_class, quick):
    njobs = 50_000 if quick else 1_000_000
    with system_class(2) as system:
        warm_up(system, 2)
        figures = {"n": njobs, "jobs/s": rate(system, njobs)}
    size = sum(path.stat().st_size for path in Path(system_class.stores).rglob("*") if path.is_file())
    figures["B in the store for each job"] = size / njobs
    figures["seconds to find them all"] = resumed.seconds(system_class, njobs)[1]
    return figures
