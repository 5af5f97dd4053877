"""1,000,000 no-op jobs outstanding at once, through cw's ClientThread, which keeps no futures.

The rate from the first submit to the last callback, and its ratio to the rate with 20,000 in the same trial (median of
three before and three after). Then the same again, with every slot kept busy so that no job can start before all are
submitted: the rate, without the time of the blockade, against 20,000 treated in the same way; the growth of the
client's memory per job, without the pickled arguments; and the master's peak memory.
"""

import gc
import os
import pickle
import statistics
import time

from benchmarks.functions import noop
from benchmarks.measuring import Figure, check_sum, rate, slots_blocked, timed, warm_up
from benchmarks.processes import peak_resident_kib, resident_kib, settled_kib

SYSTEMS = ("cw-thread",)
FIGURES = (
    Figure("jobs/s"),
    Figure("share of the rate at 20,000"),
    Figure("the same, all submitted before the first starts"),
    Figure("client B a job beyond the payload", higher_is_better=False),
    Figure("master's peak MiB", higher_is_better=False),
)
LIMIT = 400


def measure(system_class, quick):
    many, few = (100_000, 5_000) if quick else (1_000_000, 20_000)
    with system_class(2) as system:
        warm_up(system, 2)
        rate(system, few)
        few_held, _ = _rate_when_held(system, few)
        many_held, client_bytes = _rate_when_held(system, many)  # first of the large runs: a fresh heap
        few_rates = [rate(system, few) for _ in range(3)]
        many_rate = rate(system, many)
        few_rates += [rate(system, few) for _ in range(3)]
        payload = statistics.mean(len(pickle.dumps(((i,), {}), 5)) for i in range(0, many, 1000))
        return {
            "n": many,
            "jobs/s": many_rate,
            "share of the rate at 20,000": many_rate / statistics.median(few_rates),
            "the same, all submitted before the first starts": many_held / few_held,
            "client B a job beyond the payload": client_bytes / many - payload,
            "master's peak MiB": max(map(peak_resident_kib, system.master_pids())) / 1024,
        }


def _rate_when_held(system, njobs):
    """Return jobs per second, and the client's growth (bytes) with all of them outstanding."""
    gc.collect()
    before = resident_kib(os.getpid())
    with slots_blocked(system, 2):
        submitting, handles = timed(lambda: system.submit_all(noop, range(njobs)))
        grown = settled_kib([os.getpid()]) - before
        start = time.perf_counter()
    results = system.gather(handles)
    seconds = submitting + time.perf_counter() - start
    check_sum(results, njobs)
    return njobs / seconds, 1024 * grown
