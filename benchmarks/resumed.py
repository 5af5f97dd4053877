"""A second run of no-op jobs, in a process of its own: `python -m benchmarks.resumed SYSTEM NJOBS`.

Prints seconds: for the jobs alone, and in total, from the start of the cluster.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.functions import noop
from benchmarks.measuring import check_sum, timed
from benchmarks.systems import SYSTEMS, System


def seconds(system_class: type[System], njobs: int) -> tuple[float, float]:
    """Return the seconds for the jobs alone, and in total."""
    (name,) = [name for name, known in SYSTEMS.items() if known is system_class]
    command = [sys.executable, "-m", "benchmarks.resumed", name, str(njobs)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    jobs, whole = map(float, printed.splitlines()[-1].split())
    return jobs, whole


def main() -> None:
    system_class, njobs = SYSTEMS[sys.argv[1]], int(sys.argv[2])

    def run() -> float:
        with system_class(2) as system:
            duration, results = timed(lambda: system.run(noop, range(njobs)))
        check_sum(results, njobs)
        return duration

    whole, jobs = timed(run)
    print(jobs, whole)


if __name__ == "__main__":
    main()
