"""What a batch system gives the job in which this process runs, on this machine: variables of Slurm.

Bounds, beside those of the kernel: not every site binds processes to what their job was given.
"""

from __future__ import annotations

from collections.abc import Mapping

FOR_WORKERS = "CW_NODE_MEMORY"
"""Variable with the memory of a worker's job on this node (MiB). Its script sets it, since srun would take Slurm's own
variables for options."""

VARIABLES = FOR_WORKERS, "SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"
"""What a worker in a container must know to offer no more than its job has, besides the variables of its devices."""

_MIB = 2**20


def is_inside(environ: Mapping[str, str]) -> bool:
    """True if a job of Slurm has this environment."""
    return "SLURM_JOB_ID" in environ


def cpus(environ: Mapping[str, str]) -> int:
    """Return the number of the job's CPUs; 0: unknown."""
    return _number(environ, "SLURM_CPUS_ON_NODE")


def cpus_of_task(environ: Mapping[str, str]) -> int:
    """Return the number of CPUs of each of the job's tasks."""
    return _number(environ, "SLURM_CPUS_PER_TASK") or 1


def memory(environ: Mapping[str, str]) -> int:
    """Return the job's memory (bytes); 0: unknown, or all that the machine has."""
    of_cpus = _number(environ, "SLURM_MEM_PER_CPU") * cpus(environ)
    return _MIB * (_number(environ, FOR_WORKERS) or _number(environ, "SLURM_MEM_PER_NODE") or of_cpus)


def gpus(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the variable that names the job's devices, and its value, if there is one."""
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if name in environ:
            return name, environ[name]
    return None


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
