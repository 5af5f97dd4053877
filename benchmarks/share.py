"""An array of 200 MB that all jobs read, on 8 slots: cw.share, Dask's scatter, Ray's put, joblib's memory maps.

The time until the first job has begun on each slot, with the array in its hands; the bytes that went through the
network (loopback) meanwhile; and how many times the array is in memory, all processes together, the caller's own
array included. cw and Ray are measured as one machine with 8 slots, Dask and cw's encrypted workers as 8 machines of
one slot; joblib knows one machine only. Figures of the network are right where nothing else uses loopback.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.functions import begin_with
from benchmarks.measuring import Figure, warm_up
from benchmarks.processes import descendants, harness_pid

SYSTEMS = ("cw", "cw-machines", "ray", "dask", "joblib-loky")
FIGURES = (
    Figure("s to the first job on each", higher_is_better=False),
    Figure("MB through the network", higher_is_better=False),
    Figure("copies in memory", higher_is_better=False),
)
LIMIT = 200
SLOTS = 8
MEGABYTE = 1_000_000


def measure(system_class, quick):
    import numpy  # here, so that the other workloads run without it

    size = (40 if quick else 200) * MEGABYTE
    with system_class(SLOTS) as system:
        warm_up(system, SLOTS)
        small = numpy.ones(10)
        system.run_all(begin_with, [(small, 0.05)] * SLOTS)  # numpy is imported by now
        memory = Memory()
        array = numpy.ones(size // 8)
        before, began = through_loopback(), time.time()
        shared = system.share(array)
        begun: dict[int, float] = {}
        rounds = 0
        while len(begun) < SLOTS and rounds < 20:
            for pid, when, total in system.run_all(begin_with, [(shared, 0.3)] * SLOTS):
                if total != size // 8:
                    raise ValueError("wrong sums")
                begun[pid] = min(when, begun.get(pid, when))
            rounds += 1
        passed, grown = through_loopback() - before, memory.stop()
    return {
        "n": rounds * SLOTS,
        "s to the first job on each": max(begun.values()) - began,
        "MB through the network": passed / MEGABYTE,
        "copies in memory": grown / size,
    }


def through_loopback() -> int:
    """Return the bytes that this machine has sent to itself."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, columns = line.partition(":")
        if name.strip() == "lo":
            return int(columns.split()[0])
    return 0


class Memory:
    """Memory of all processes of the trial, watched by a thread. Pages that several map count once."""

    def __init__(self) -> None:
        self._before = self._most = _proportional()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            self._most = max(self._most, _proportional())

    def stop(self) -> int:
        """Return the most that it has grown (bytes)."""
        self._is_over.set()
        self._thread.join()
        return max(self._most, _proportional()) - self._before


def _proportional() -> int:
    found = 0
    for pid in descendants(harness_pid()):
        with suppress(OSError):  # it ended meanwhile
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found += int(line.split()[1]) * 1024
    return found
