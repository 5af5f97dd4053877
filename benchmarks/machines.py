"""Between machines, encrypted: client, master and worker in a network namespace each. Trips, and 100 MB both ways.

The first figures are of one trip at a time, the others of 100 MB there and back (MB/s counts both ways). Only root can
make the namespaces, and the virtual cards between them. Otherwise the systems are left out.
"""

from benchmarks import bulk, roundtrip

SYSTEMS = ("cw-namespaces", "dask-namespaces")
FIGURES = (*roundtrip.FIGURES, *bulk.FIGURES)
LIMIT = roundtrip.LIMIT + bulk.LIMIT


def measure(system_class, quick):
    figures = {}
    for workload in (bulk, roundtrip):
        figures.update(workload.measure(system_class, quick))
    return figures
