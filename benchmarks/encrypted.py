"""Cost of encryption: connections between machines are encrypted, those on one machine are not, except here.

20,000 no-op jobs, one trip at a time, and 100 MB of bytes there and back (MB/s counts both ways), through a
master and a worker that talk TLS over loopback: both ends of each connection encrypt on the same two CPUs.
"""

from benchmarks import bulk, noop, roundtrip

SYSTEMS = ("cw", "cw-encrypted", "dask", "dask-encrypted")
FIGURES = (*noop.FIGURES, *roundtrip.FIGURES, *bulk.FIGURES)
LIMIT = noop.LIMIT + roundtrip.LIMIT + bulk.LIMIT


def measure(system_class, quick):
    figures = {}
    for workload in (bulk, roundtrip, noop):
        figures.update(workload.measure(system_class, quick))
    return figures
