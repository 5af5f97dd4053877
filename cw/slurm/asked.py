"""What the workers of a plan ask of Slurm for each slot and each piece, by the options that a user has given."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from cw.launch.batch_system import Asked
from cw.launch.plan import Plan
from cw.slurm import batch
from cw.slurm.sinfo import value_of

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def asked(plan: Plan) -> Asked:
    """Return what one slot of the plan gets, and one piece, as far as its options say."""
    options = plan.system_options("worker")
    cpus = value_of(options, "--cpus-per-task", "-c")
    number = int(cpus) if cpus.isdigit() and int(cpus) else 1
    by_cpu = _bytes(value_of(options, "--mem-per-cpu", "") or plan.mem_per_cpu)
    limit = value_of(options, "--time", "-t") or plan.time or os.environ.get("SBATCH_TIMELIMIT", "")
    return Asked(
        number,
        by_cpu * number,
        _bytes(value_of(options, "--mem", "")),
        plan.gpus or _gpus(options),
        batch.seconds_of(limit),
    )


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", size.strip(), re.IGNORECASE)
    return int(match[1]) * _UNITS[match[2].upper() or "M"] if match else 0


def _gpus(options: Sequence[str]) -> int:
    """Return the number of GPUs of a node: from '--gres=gpu:a100:2', '--gpus-per-node=2'."""
    for entry in value_of(options, "--gres", "").split(","):
        name, *rest = entry.split(":")
        if name == "gpu":
            return int(rest[-1]) if rest and rest[-1].isdigit() else 1
    number = value_of(options, "--gpus-per-node", "").rpartition(":")[2]
    return int(number) if number.isdigit() else 0
