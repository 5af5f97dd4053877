"""200 numpy arrays of 1 MB, all different: an array in, its sum out. Arrays per second."""

from benchmarks.functions import total
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw", "pool-async", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask",
           "ipyparallel")  # fmt: skip
FIGURES = (Figure("arrays/s"),)
LIMIT = 120
MEGABYTE = 1_000_000


def measure(system_class, quick):
    import numpy  # here, so that the other workloads run without it

    count = 40 if quick else 200
    generator = numpy.random.default_rng(0)
    # Whole numbers, since the sum of others depends on how the array lies in memory.
    arrays = [generator.integers(0, 1000, MEGABYTE // 8).astype(float) for _ in range(count)]
    expected = sorted(total(array) for array in arrays)
    with system_class(2) as system:
        warm_up(system, 2)
        system.run(total, arrays[:10])  # numpy is imported by now
        seconds, sums = timed(lambda: system.run(total, arrays))
    if sorted(sums) != expected:
        raise ValueError("wrong sums")
    return {"n": count, "arrays/s": count / seconds}
