"""50,000 no-op jobs outstanding: KiB per job, memory of client and master together.

Every slot is kept busy while they are submitted; when the memory has stopped growing, its growth is divided by their
number. The master is any process of its own that holds the queue (ray: its GCS and raylet); if client and scheduler are
one process, only the client counts. Afterwards the slots are freed, and the first hundred results are checked.
"""

import gc
import os

from benchmarks.functions import noop
from benchmarks.measuring import Figure, slots_blocked, warm_up
from benchmarks.processes import resident_kib, settled_kib

SYSTEMS = ("cw", "cw-thread", "processpool", "loky", "executorlib", "ray", "parsl", "dask")
FIGURES = (
    Figure("KiB a job", higher_is_better=False),
    Figure("of it in the client", higher_is_better=False),
)
LIMIT = 300


def measure(system_class, quick):
    njobs = 10_000 if quick else 50_000
    system = system_class(2)  # not closed: some would run all jobs first, for minutes
    warm_up(system, 2)
    client, masters = [os.getpid()], system.master_pids()
    gc.collect()
    client_before = settled_kib(client)
    masters_before = settled_kib(masters)
    with slots_blocked(system, 2):
        handles = system.submit_all(noop, range(njobs))
        both = settled_kib(client + masters) - client_before - masters_before
        client_grown = resident_kib(os.getpid()) - client_before
    if handles is not None and system.gather(handles[:100]) != list(range(100)):
        raise ValueError("wrong results")
    return {"n": njobs, "KiB a job": both / njobs, "of it in the client": client_grown / njobs}
