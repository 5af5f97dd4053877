"""Location of a process in a batch system: a value, and its text for environments and the wire.

batch script --- CW_LOCATION=slurm/hpc/4711/0/n17 ---> worker, master --- WorkerInfo, StatusReport ---> launchers
"""

from __future__ import annotations

import os
import re

from cw.named_tuple import NamedTuple

VARIABLE = "CW_LOCATION"
"""Environment variable with the location of master or worker; set by the launcher that starts them."""

_TITLES = {"slurm": "Slurm"}
"""Batch systems whose names are written differently in a location."""

# Texts in CW_PLACE, from before there was a Location: a job that was submitted then may run for weeks.
_WORDS = re.compile(
    r"Slurm job (?P<job>\d+)(, step (?P<step>\S+), node (?P<node>\S+))?|cluster (?P<cluster>\S+)"
)


class Location(NamedTuple):
    """Location of a process. A field that is '' is not known, or does not exist."""

    system: str = ""
    """A batch system such as 'slurm'; 'local': a process that a launcher has started on the user's machine."""
    cluster: str = ""
    """One of several clusters that the system serves; for a local process, the token of the cluster it belongs to."""
    job: str = ""
    step: str = ""
    node: str = ""

    def __str__(self) -> str:
        if not self.job:
            return "/".join(filter(None, self))
        job = f"{_TITLES.get(self.system, self.system)} job {self.job}"
        return job + f", step {self.step}" * bool(self.step) + f", node {self.node}" * bool(self.node)

    def as_text(self) -> str:
        """Return the form that `parse` reads."""
        return "/".join(self).rstrip("/")

    @classmethod
    def parse(cls, text: str) -> Location:
        """Return the location with this `as_text`; an empty one for another text."""
        if words := _WORDS.fullmatch(text):
            found = {name: value or "" for name, value in words.groupdict().items()}
            return cls("local" if found["cluster"] else "slurm", **found)
        parts = text.split("/")
        return cls(*parts) if parts[0] and len(parts) <= len(cls._fields) else cls()


def of_this_process() -> Location:
    """Return the location that the environment gives."""
    return Location.parse(os.environ.get(VARIABLE) or os.environ.get("CW_PLACE", ""))
