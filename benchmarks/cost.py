"""CPU time of a job, all processes together, against another checkout: `python -m benchmarks.cost OTHER [ROUNDS]`.

The two take turns, round by round, each in processes of its own: no-op jobs submitted one by one and gathered, and
round trips one at a time. Prints the medians, the ratio of the pairs of rounds as median and 95 % interval (by the
order of the ratios), and the rates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

JOBS, ROUND_TRIPS = 20_000, 1_500

ONE_ROUND = f"""
import json, os, sys, time
import cw
sys.path.insert(0, sys.argv[1])
from benchmarks.functions import noop
from benchmarks.processes import descendants

def cpu():
    total = 0.0
    for pid in [os.getpid(), *descendants(os.getpid())]:
        try:
            for task in os.listdir(f"/proc/{{pid}}/task"):
                with open(f"/proc/{{pid}}/task/{{task}}/schedstat") as file:
                    total += int(file.read().split()[0]) / 1e9
        except OSError:
            pass
    return total

found = {{}}
with cw.mp.allocate(1) as cluster, cw.ClusterExecutor(cluster.master) as executor:
    for future in [executor.submit(noop, n) for n in range(5000)]:
        future.result()
    used, began = cpu(), time.perf_counter()
    for future in [executor.submit(noop, n) for n in range({JOBS})]:
        future.result()
    found["noop"] = (cpu() - used) / {JOBS} * 1e6, {JOBS} / (time.perf_counter() - began)
    used, began = cpu(), time.perf_counter()
    for n in range({ROUND_TRIPS}):
        executor.submit(noop, n).result()
    found["round trip"] = (cpu() - used) / {ROUND_TRIPS} * 1e6, {ROUND_TRIPS} / (time.perf_counter() - began)
print(json.dumps(found))
"""


def one_round(checkout: str) -> dict[str, list[float]]:
    """Measure a checkout: microseconds of CPU per job, and jobs per second."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, "-c", ONE_ROUND, here], env={**os.environ, "PYTHONPATH": checkout}, check=True,
        capture_output=True, text=True, timeout=300, cwd="/",
    )  # fmt: skip
    return json.loads(done.stdout)


def interval(values: list[float]) -> tuple[float, float]:
    """Return the interval that contains the median with 95 % (binomial, for about 20 values)."""
    ordered, skip = sorted(values), max(0, round(len(values) / 2 - 0.98 * len(values) ** 0.5) - 1)
    return ordered[skip], ordered[-1 - skip]


def main(other: str, rounds: int = 21) -> None:
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    pairs = []
    for number in range(rounds):
        order = (here, other) if number % 2 else (other, here)
        found = {checkout: one_round(checkout) for checkout in order}
        pairs.append((found[here], found[other]))
    for name in pairs[0][0]:
        for place, unit in enumerate(("us CPU a job", "jobs/s")):
            ratios = [new[name][place] / old[name][place] for new, old in pairs]
            low, high = interval(ratios)
            new, old = (statistics.median(pair[side][name][place] for pair in pairs) for side in (0, 1))
            print(
                f"{name:12} {unit:14} here {new:10.1f}   other {old:10.1f}   ratio {statistics.median(ratios):.3f} "
                f"({low:.3f} to {high:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__.partition(": `")[0] + ".",
    )
    parser.add_argument("other", metavar="OTHER", help="the other checkout: a directory that has cw/")
    parser.add_argument("rounds", metavar="ROUNDS", type=int, nargs="?", default=21, help="default: 21")
    arguments = parser.parse_args()
    if not os.path.isfile(os.path.join(arguments.other, "cw", "__init__.py")):
        parser.error(f"{arguments.other} is no checkout of cw")
    main(os.path.abspath(arguments.other), arguments.rounds)
