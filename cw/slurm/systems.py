"""Batch systems that cw knows. Another one is a file with a class like `cw.slurm.system.Slurm`, and a line here."""

from __future__ import annotations

from cw.launch.batch_system import BatchSystem
from cw.slurm.system import Slurm

SYSTEMS: tuple[BatchSystem, ...] = (Slurm(),)
"""Known batch systems, in the order in which they are looked for."""


def find_system() -> BatchSystem:
    """Return the batch system of this machine: the first with installed programs; if there is none, the first of all,
    whose errors say so."""
    return next((system for system in SYSTEMS if system.is_installed()), SYSTEMS[0])
