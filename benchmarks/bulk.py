"""100 MB there and back: one job that returns its argument, a numpy array, then bytes.

MB/s counts both ways: 200 MB divided by the time of the trip. Median of up to five trips, after some of 1 MB.
"""

from benchmarks.functions import noop
from benchmarks.measuring import Figure, steady, timed, warm_up

SYSTEMS = ("cw", "pool-async", "processpool", "loky", "mpi4py", "executorlib", "ray", "parsl", "dask",
           "ipyparallel")  # fmt: skip
FIGURES = (Figure("numpy MB/s"), Figure("bytes MB/s"))
LIMIT = 300
MEGABYTE = 1_000_000


def measure(system_class, quick):
    import numpy  # here, so that the other workloads run without it

    megabytes = 20 if quick else 100
    array = numpy.random.default_rng(0).random(megabytes * MEGABYTE // 8)
    data = array.tobytes()

    def speed(payload, is_same) -> float:
        seconds, answer = timed(lambda: system.submit(noop, payload).result())
        if not is_same(answer, payload):
            raise ValueError("another value came back")
        return 2 * megabytes / seconds

    with system_class(2) as system:
        warm_up(system, 2)
        system.run(noop, [array[: MEGABYTE // 8]] * 2 + [data[:MEGABYTE]] * 2)
        return {
            "n": 1,
            "numpy MB/s": steady(lambda: speed(array, numpy.array_equal)),
            "bytes MB/s": steady(lambda: speed(data, bytes.__eq__)),
        }
