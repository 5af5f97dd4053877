"""A snapshot of a cluster, for tests of what shows it."""

from __future__ import annotations

from dataclasses import replace

from cw.observer.model import (
    AmountStatus,
    CapacityStatus,
    ClientStatus,
    FailedJob,
    FunctionStatus,
    HostStatus,
    LostWorker,
    MasterStatus,
    RunningJob,
    ShapeStatus,
    Snapshot,
    Totals,
    WorkerStatus,
)

NOW = 1_800_000_000.0
SESSIONS = ("0123456789abcdef", "fedcba9876543210")
WORKERS = ("a" * 32, "b" * 32, "c" * 32)


def _cpus(count: int, used: int) -> CapacityStatus:
    return CapacityStatus(count, used, 0, 0.0, None, 0, (), "")


def shaped() -> Snapshot:
    """The same where some jobs need more than one CPU."""
    plain = sample()
    gpus = CapacityStatus(
        16, 10, 2, 1.5, 64 * 10**9, 8 * 10**9, (AmountStatus("licence", 2, 1),), "avx512 v100"
    )
    first, *others = plain.workers
    return replace(
        plain,
        totals=replace(plain.totals, capacity=gpus),
        shapes=(
            ShapeStatus("1 CPU", "3.11", 1000, 7, 2, 2.25),
            ShapeStatus("8 CPUs, 0.5 GPU or 16 CPUs", "3.11", 170, 1, 1, None),
        ),
        workers=(replace(first, capacity=gpus), *others),
        hosts=(replace(plain.hosts[0], capacity=gpus), plain.hosts[1]),
    )


def sample() -> Snapshot:
    """A cluster of three workers on two hosts, with two clients that have three functions."""
    sim, fit = "sim.py on login1, pid 4711", "fit.py on login1, pid 4712"
    return Snapshot(
        at=NOW,
        master=MasterStatus("f" * 32, "login1", 4000, "0.2.0", 7500.0, ""),
        totals=Totals(2, 3, 2, 12, 9, 1170, 9, 2130, 4, 3.5, _cpus(12, 9)),
        clients=(
            ClientStatus(SESSIONS[0], sim, "login1", 4711, "sim.py", 0, 3600.0, True, 1100, 8, 2100, 4,
                         "all 12 slots are busy"),
            ClientStatus(SESSIONS[1], fit, "login1", 4712, "fit.py", 0, 60.0, False, 70, 1, 30, 0, ""),
        ),
        functions=(
            FunctionStatus(SESSIONS[0], "simulate", 1000, 7, 2000, 3, 3.0, 2.8, 2.25, 4.5, 330.0),
            FunctionStatus(SESSIONS[0], "Model.analyse", 100, 1, 100, 1, 0.5, 0.4, 0.5, 0.75, 200.0),
            FunctionStatus(SESSIONS[1], "fit", 70, 1, 30, 0, 0.0, 0.0, None, None, None),
        ),
        workers=(
            WorkerStatus(WORKERS[0], "node7:100", "node7", "", 4, 4, 2, 1000, 1.5, 3.9, 2 * 2**30, 3600.0,
                         None, False, False, "", _cpus(4, 4)),
            WorkerStatus(WORKERS[1], "node7:200", "node7", "", 4, 4, 0, 900, 1.5, 3.9, 2**30, 3600.0,
                         None, True, False, "SIGKILL 90 s ago", _cpus(4, 4)),
            WorkerStatus(WORKERS[2], "node8:100", "node8", "Slurm job 4711, step 0, node node8", 4, 1, 0,
                         230, 0.5, None, None, 600.0, 3000.0, False, True, "", _cpus(4, 1)),
        ),
        hosts=(
            HostStatus("node7", 2, 8, 8, 1900, 3.0, 3.9, 3 * 2**30, _cpus(8, 8)),
            HostStatus("node8", 1, 4, 1, 230, 0.5, None, None, _cpus(4, 1)),
        ),
        running=(
            RunningJob(SESSIONS[0], 17, "simulate", sim, WORKERS[0], "node7", 2, 754.0),
            RunningJob(SESSIONS[1], 3, "fit", fit, WORKERS[2], "node8", None, 12.5),
        ),
        failures=(
            FailedJob(SESSIONS[0], 16, "simulate", sim, "node7", NOW - 30, "ValueError: no convergence",
                      "after 100 steps"),
            FailedJob(SESSIONS[0], 9, "Model.analyse", sim, "node8", NOW - 300, "ZeroDivisionError: division by zero",
                      ""),
        ),
        losses=(LostWorker("node9:100", "", "silent for 30 s", NOW - 1000),),
        where="login1:5494",
    )  # fmt: skip
