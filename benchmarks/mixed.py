"""Long and short jobs of the same function, so that estimates of its duration are wrong on purpose.

One job of 5 s among 2,000 of 1 ms on 2 slots, and two of 5 s among them on 4. The long ones come early (as the 21st and
41st), so that nearly all short ones follow. The time until all short ones are done, divided by the time that the same
2,000 take without the slots of the long ones, in the same trial: 1.0 means that a long job costs only its own slot.
"""

from benchmarks.functions import nap
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask")
FIGURES = (
    Figure("1 long on 2 slots: time against 1 slot", higher_is_better=False),
    Figure("2 long on 4 slots: time against 2 slots", higher_is_better=False),
)
LIMIT = 240
SHORT = 0.001


def measure(system_class, quick):
    nshort, long = (500, 3.0) if quick else (2000, 5.0)
    figures = {"n": nshort}
    for figure, nlong, slots in zip(FIGURES, (1, 2), (2, 4), strict=True):
        mixed = _seconds_for_short(system_class, slots, nshort, [long] * nlong)
        figures[figure.name] = mixed / _seconds_for_short(system_class, slots - nlong, nshort, [])
    return figures


def _seconds_for_short(system_class, slots, nshort, long_naps):
    """Return the seconds until the short jobs are done that were submitted together with the long ones."""
    with system_class(slots) as system:
        warm_up(system, slots)
        system.run(nap, [SHORT] * 100)  # so that its duration has been estimated

        def run_short():
            short, long = [], []
            for number in range(nshort):
                if number and number % 20 == 0 and len(long) < len(long_naps):
                    long.append(system.submit(nap, long_naps[len(long)]))
                short.append(system.submit(nap, SHORT))
            return [job.result() for job in short], long

        seconds, (results, long) = timed(run_short)
        if results != [SHORT] * nshort or [job.result() for job in long] != long_naps:
            raise ValueError("wrong results")
    return seconds
