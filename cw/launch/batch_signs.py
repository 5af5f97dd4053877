"""Signs that a batch system serves this machine, where no program may start a cluster unasked; none is called."""

from __future__ import annotations

import os

from cw import advice

SLURM = ("sbatch", "squeue")
OTHERS = ("qsub", "qstat", "bsub")
"""Programs of PBS and Grid Engine, and of LSF."""

DIRECTORIES = ("/etc/slurm",)
"""Directories of machines of a batch system."""

PREFIXES = ("SLURM_", "PBS_", "LSF_", "SGE_")
"""Beginnings of variables that batch systems set."""


def find() -> str:
    """Return what shows that a batch system serves this machine: 'sbatch is on the PATH'; '' if nothing does."""
    for variable in os.environ:
        if variable.startswith(PREFIXES):
            return f"{variable} is set"
    for command in SLURM + OTHERS:
        for directory in os.get_exec_path():
            if os.access(os.path.join(directory, command), os.X_OK):
                return f"{command} is on the PATH"
    return next((f"there is {directory}" for directory in DIRECTORIES if os.path.isdir(directory)), "")


def refusal(sign: str) -> str:
    """Return the message for a client without a cluster on a machine with this sign."""
    if "slurm" in sign.lower() or sign.startswith(SLURM):
        start = advice.command("slurm", "start", "-n", "8")
        how = f"start one with `{start}`, or in the program: `with cw.allocate(8):`"
    else:
        master, worker = advice.module("master"), advice.elsewhere("worker", "HOST", "-n", "auto")
        how = f"start one with `{master}`, and `{worker}` in its jobs"
    return (
        f"no cluster is known, and none is made on a machine of a batch system ({sign}): {how}; "
        "local=4 asks for four slots on this machine"
    )
