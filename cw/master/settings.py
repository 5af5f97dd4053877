"""Time limits of the master and its peers, in seconds."""

from __future__ import annotations

from typing import NamedTuple

AWAY = 1.0
"""Seconds in which a worker whose connection broke may come back with all that it holds, before its jobs are taken for
lost. Larger: the jobs of a dead worker wait. Smaller: a broken connection costs more than that."""


class Settings(NamedTuple):
    """What the options of `cw.master` say."""

    silence: float = 30.0
    """A worker without a sign of life for this long is lost."""
    client_grace: float = 60.0
    """The session of a client that is gone without goodbye is kept for this long, and what runs of it goes on."""
