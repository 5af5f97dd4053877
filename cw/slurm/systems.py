"""The batch systems that cw knows. Another one is a file with a class like `cw.slurm.system.Slurm`, and a line here."""

from __future__ import annotations

from cw.launch.batch_system import BatchSystem
from cw.slurm.system import Slurm

SYSTEMS: tuple[BatchSystem, ...] = (Slurm(),)
"""In the order in which they are looked for."""


def find_system() -> BatchSystem:
    """The batch system of this machine: the first whose programs are there; otherwise the first, which says so."""
    return next((system for system in SYSTEMS if system.is_installed()), SYSTEMS[0])
