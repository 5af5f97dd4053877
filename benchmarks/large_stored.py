"""1,000 results of 10 MB, stored and not stored: results per second.

Beside it what the disk takes at that time: files of 10 MB per second, written by one program, each forced to the disk
(as `dd bs=10MB count=1 conv=fsync` does).
"""

import os

from benchmarks.functions import zeros
from benchmarks.measuring import Figure, timed, warm_up

SYSTEMS = ("cw-thread", "cw-thread-stored")
FIGURES = (Figure("results/s"), Figure("synced files/s"))
LIMIT = 400
NBYTES = 10_000_000
NFILES = 40


def measure(system_class, quick):
    njobs = 50 if quick else 1000
    with system_class(2) as system:
        warm_up(system, 2)
        seconds, count = timed(lambda: system.count(zeros, [NBYTES] * njobs))
    if count != njobs:
        raise ValueError(f"{count} results")
    figures = {"n": njobs, "results/s": njobs / seconds}
    if system_class.stores:
        figures["synced files/s"] = NFILES / timed(_write_synced_files)[0]
    return figures


def _write_synced_files():
    data = bytes(NBYTES)
    for number in range(NFILES):
        with open(f"synced-{number}", "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        os.unlink(f"synced-{number}")
