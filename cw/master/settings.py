"""Time limits of the master and its peers, in seconds."""

from __future__ import annotations

from cw.named_tuple import NamedTuple

AWAY = 1.0
"""Time for a worker whose connection broke to come back with all that it holds, before its jobs count as lost. Larger:
the jobs of a dead worker wait. Smaller: a short break of a connection costs jobs."""


class Settings(NamedTuple):
    """Values of the options of `cw.master`."""

    silence: float = 30.0
    """A worker without a sign of life for this long is lost."""
    client_grace: float = 60.0
    """The session of a client that is gone without goodbye is kept for this long; its running jobs continue."""
