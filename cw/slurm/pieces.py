"""Submission of a cluster's pieces: jobs with some of the workers' slots, one after the other.

    sizes --> submit_pieces() --> State.submit(), once for each --> BatchJob with its slots

Each is noted under the lock of the cluster, which is free between two of them: a piece that begins meanwhile may need
it (`cw.slurm.sidecar`), and the cluster may be stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cw.launch.launcher import LaunchError
from cw.slurm import submitted
from cw.slurm.submitted import BatchJob

BURST = 8
"""Number of pieces that are submitted without a pause."""

PAUSE_SECONDS = 0.3
"""Time between two later ones (seconds). Shorter: Slurm refuses some of them, as it has no time for them."""


def submit_pieces(name: str, token: str, sizes: Sequence[int], kind: str = "") -> list[BatchJob]:
    """Submit a piece of each size, of the cluster `name` with this token. Raises LaunchError with the batch system's
    own message, or if the cluster was stopped meanwhile; then those that were submitted before are noted, as always.
    """
    jobs = []
    for number, size in enumerate(sizes):
        if number >= BURST:
            time.sleep(PAUSE_SECONDS)
        with submitted.locked(name) as state:
            if state.token != token or state.is_stopping:
                raise LaunchError(f"the cluster {name!r} was stopped meanwhile")
            jobs.append(state.submit("workers", slots=size, kind=kind))
    return jobs
