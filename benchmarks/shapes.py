"""CPU time of the master's policy for a job, of one shape and of five: `python -m benchmarks.shapes [WORKERS]`.

Only the policy runs, without sockets: workers with 8 slots each hold what fits, and end one job after the other. Each
client has jobs of all shapes, of unknown duration, so each takes a dispatch and a result of its own. Prints the
microseconds for a job, and the ratios to jobs of one CPU.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterable
from random import Random
from typing import Any

from cw.master.policy.actions import Action, Assign
from cw.master.policy.dispatch import Dispatcher
from cw.master.policy.jobs import Job
from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import JobOptions, WorkerCapacity

PYTHON = (3, 11)
CAPACITY = WorkerCapacity(8, 8, 64 * 10**9, ("0", "1"))

ONE_CPU: list[dict[str, Any]] = [{}]
ONE_SHAPE: list[dict[str, Any]] = [{"cpus": 2}]
FIVE_SHAPES: list[dict[str, Any]] = [
    {}, {"cpus": 2}, {"cpus": 4}, {"gpus": 1}, {"cpus": 2, "memory": "20GB"},
]  # fmt: skip


def measure(workers: int, clients: int, shapes: list[dict[str, Any]], ends: int = 20_000) -> float:
    """Return the microseconds for the end of a job, and the start of the next one."""
    random = Random(1)
    policy = Dispatcher()
    running: deque[tuple[str, int]] = deque()

    def perform(actions: Iterable[Action]) -> None:
        for action in actions:
            if type(action) is Assign:
                running.extend((action.worker, job.dispatch) for job in action.jobs)

    for number in range(workers):
        perform(policy.on_worker_joined(f"w{number}", CAPACITY, PYTHON))
    for client in range(clients):
        policy.on_session_opened(client, PYTHON)
        objects = [Object(n, JobOptions(**shape).to_wire(), m.OPTIONS) if shape else None
                   for n, shape in enumerate(shapes, 1)]  # fmt: skip
        functions = [Object(n) for n in range(100, 100 + len(shapes))]
        jobs = []
        for number in range((8 * workers + ends) // clients):
            kind = random.randrange(len(shapes))
            jobs.append(Job(number + 1, functions[kind], objects[kind], b""))
        perform(policy.on_submitted(client, jobs))
    order = list(running)
    random.shuffle(order)
    running = deque(order)
    began = time.process_time()
    count = 0
    while running and count < ends:
        worker, dispatch = running.popleft()
        perform(policy.on_results(worker, [dispatch], [0], [1.0], [b""]))
        count += 1
    return (time.process_time() - began) / count * 1e6


def main(workers: int, clients: int, rounds: int) -> None:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, shapes in (("one CPU", ONE_CPU), ("one shape", ONE_SHAPE), ("five shapes", FIVE_SHAPES)):
            found.setdefault(name, []).append(measure(workers, clients, shapes))
    base = min(found["one CPU"])
    for name, values in found.items():
        print(f"{name:12} {min(values):8.1f} us a job   ratio {min(values) / base:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shapes", description=__doc__.partition(": `")[0] + "."
    )
    parser.add_argument("workers", metavar="WORKERS", type=int, nargs="?", default=1000, help="default: 1000")
    parser.add_argument("--clients", type=int, default=3, help="default: 3")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    arguments = parser.parse_args()
    main(arguments.workers, arguments.clients, arguments.rounds)
