"""Where a process runs, as a batch system knows it: a value, and its text for environments and the wire.

batch script --- CW_LOCATION=slurm/hpc/4711/0/n17 ---> worker, master --- place ---> launchers
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

VARIABLE = "CW_LOCATION"
"""The environment variable with the location of master or worker; set by who starts them."""

_TITLES = {"slurm": "Slurm"}
"""Batch systems that are written otherwise than in a location."""

# What stood in CW_PLACE before there was a Location: a job that was submitted then may run for weeks.
_WORDS = re.compile(
    r"Slurm job (?P<job>\d+)(, step (?P<step>\S+), node (?P<node>\S+))?|cluster (?P<cluster>\S+)"
)


class Location(NamedTuple):
    """Where a process runs. What is '' is not known, or there is none."""

    system: str = ""
    """A batch system such as 'slurm'; 'local': a process that a launcher has started on the user's machine."""
    cluster: str = ""
    """Of several that the system serves; for a local process, the token of the cluster that it belongs to."""
    job: str = ""
    step: str = ""
    node: str = ""

    def __str__(self) -> str:
        if not self.job:
            return "/".join(filter(None, self))
        job = f"{_TITLES.get(self.system, self.system)} job {self.job}"
        return job + f", step {self.step}" * bool(self.step) + f", node {self.node}" * bool(self.node)

    def as_text(self) -> str:
        """The form that `parse` reads."""
        return "/".join(self).rstrip("/")

    @classmethod
    def parse(cls, text: str) -> Location:
        """The location that `as_text` gave; an empty one for a text that is none."""
        if words := _WORDS.fullmatch(text):
            found = {name: value or "" for name, value in words.groupdict().items()}
            return cls("local" if found["cluster"] else "slurm", **found)
        parts = text.split("/")
        return cls(*parts) if parts[0] and len(parts) <= len(cls._fields) else cls()


def of_this_process() -> Location:
    """What the environment says."""
    return Location.parse(os.environ.get(VARIABLE) or os.environ.get("CW_PLACE", ""))
