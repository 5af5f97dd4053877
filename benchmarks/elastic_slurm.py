"""Slot-seconds that a long-tailed batch wastes in Slurm: a fixed cluster against an elastic one.

    PYTHONPATH=. python benchmarks/elastic_slurm.py        needs Debian's packages slurm-wlm and munge

150 jobs with lognormal durations (sleeps, so that the machine's own CPUs do not count) run on 16 CPUs of a private
Slurm, first on 16 fixed slots, then on an elastic cluster of up to 16 in pieces of 1. A cluster is charged for all
slots that Slurm has given it, until it is stopped after the last job. With --mixed, jobs of 1, 2 and 4 CPUs and of a
GPU run on an elastic cluster with a kind of pieces with GPUs, and the time is compared with what the CPUs and GPUs
allow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sandbox  # noqa: E402

import cw  # noqa: E402

CPUS = 16


def durations(jobs: int, median: float, sigma: float, seed: int) -> list[float]:
    """Return the jobs' durations (seconds)."""
    made = random.Random(seed)
    return [median * made.lognormvariate(0.0, sigma) for _ in range(jobs)]


def rest(seconds: float) -> None:
    time.sleep(seconds)


def held_seconds() -> float:
    """Return the slot-seconds for which Slurm has held slots of workers for the cluster, by its own records."""
    out = subprocess.run(
        ["squeue", "-h", "-t", "all", "-o", "%j|%C|%S|%e|%T"], capture_output=True, text=True, check=True,
        env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
    ).stdout  # fmt: skip
    total = 0.0
    for line in out.splitlines():
        name, cpus, start, end, _ = line.split("|")
        if "-workers-" in name and start.isdigit() and end.isdigit():
            total += int(cpus) * max(0, min(int(end), int(time.time())) - int(start))
    return total


def run(title: str, seconds: list[float], **options: object) -> tuple[float, float, float]:
    """Run the batch on a cluster with these options. Returns its makespan, the slot-seconds held, and those wasted."""
    began = time.monotonic()
    cw.slurm.start(name="bench", local_master=True, **options)
    os.environ["CW_CLUSTER"] = "bench"
    with cw.ClusterExecutor() as executor:
        for future in [executor.submit(rest, each) for each in seconds]:
            future.result()
    makespan = time.monotonic() - began
    cw.slurm.stop(name="bench", grace=0)
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout:
        time.sleep(0.2)
    held = held_seconds()
    wasted = held - sum(seconds)
    print(
        f"{title:>8}: {makespan:6.1f} s; {sum(seconds):.0f} of {held:.0f} slot-seconds used, {wasted:.0f} wasted "
        f"({wasted / held:.0%})"
    )
    return makespan, held, wasted


@contextlib.contextmanager
def private_slurm(**options: object) -> Iterator[sandbox.Sandbox]:
    """A Slurm of its own, and a home directory of its own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home, sandbox.Sandbox(**options) as slurm:
        os.environ |= {"CW_HOME": home, "PYTHONPATH": str(ROOT), **slurm.environment}
        yield slurm


def compare(options: argparse.Namespace) -> None:
    seconds = durations(options.jobs, options.median, options.sigma, options.seed)
    print(f"{len(seconds)} jobs, {sum(seconds):.0f} s in all, the longest {max(seconds):.0f} s; {CPUS} CPUs")
    with private_slurm(nodes=4, cpus=CPUS // 4):
        fixed = run("fixed", seconds, nworkers=CPUS)
    with private_slurm(nodes=4, cpus=CPUS // 4):
        elastic = run("elastic", seconds, max=CPUS, piece=1, idle=options.idle, backlog=options.backlog)
    less, longer = fixed[2] / elastic[2], elastic[0] / fixed[0]
    print(f"elastic: {less:.1f} times fewer slot-seconds wasted, in {longer:.2f} of the time")


def mixed(options: argparse.Namespace) -> None:
    """Run jobs of several shapes on pieces of 4 CPUs, and on pieces with a GPU."""
    with tempfile.TemporaryDirectory(dir="/tmp") as devices:
        gpus = [os.path.join(devices, f"gpu{number}") for number in range(2)]
        for number, path in enumerate(gpus):
            subprocess.run(["mknod", path, "c", "195", str(number)], check=True)
        slurm = sandbox.Sandbox(nodes=4, cpus=CPUS // 4, settings=["GresTypes=gpu"])
        text = slurm.conf.read_text().replace(
            "NodeName=n4 NodeHostname=localhost", "NodeName=n4 NodeHostname=localhost Gres=gpu:2"
        )
        slurm.conf.write_text(text)
        (slurm.directory / "gres.conf").write_text(
            "".join(f"NodeName=n4 Name=gpu File={path}\n" for path in gpus)
        )
        with tempfile.TemporaryDirectory(dir="/tmp") as home, slurm:
            os.environ |= {
                "CW_HOME": home,
                "PYTHONPATH": str(ROOT),
                **slurm.environment,
                "CW_CLUSTER": "bench",
            }
            made = random.Random(options.seed)
            shapes = [({"cpus": 1}, 120), ({"cpus": 2}, 60), ({"cpus": 4}, 30), ({"gpus": 1}, 20)]
            batch = [(need, made.uniform(2.0, 8.0)) for need, count in shapes for _ in range(count)]
            made.shuffle(batch)
            cw.slurm.start(name="bench", local_master=True, max=12, piece=4, idle=60, backlog=8,
                           worker_options=["--exclude=n4"])  # fmt: skip
            cw.slurm.add(name="bench", kind="gpu", max=2, gpus=1, idle=60)
            with cw.ClusterExecutor() as executor:
                for need in ({"cpus": 4}, {"gpus": 1}):  # all pieces come before the time is taken
                    for future in [executor.options(**need).submit(rest, 3.0) for _ in range(6)]:
                        future.result()
                began = time.monotonic()
                for future in [executor.options(**need).submit(rest, each) for need, each in batch]:
                    future.result()
                makespan = time.monotonic() - began
            cw.slurm.stop(name="bench", grace=0)
            cpu_seconds = sum(need.get("cpus", 0) * each for need, each in batch)
            gpu_seconds = sum(need.get("gpus", 0) * each for need, each in batch)
            # The pieces with GPUs have a CPU each, which jobs of one CPU may use while no job wants the GPU.
            allowed = max(gpu_seconds / 2, (cpu_seconds + gpu_seconds) / 14)
            print(f"mixed: {makespan:.1f} s; the shapes allow {allowed:.1f} s: {allowed / makespan:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=150)
    parser.add_argument("--median", type=float, default=4.0, help="of the durations, in seconds")
    parser.add_argument("--sigma", type=float, default=1.3, help="of their logarithms")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--idle", type=float, default=2.0)
    parser.add_argument("--backlog", type=int, default=8)
    parser.add_argument("--mixed", action="store_true")
    options = parser.parse_args()
    (mixed if options.mixed else compare)(options)


if __name__ == "__main__":
    main()
