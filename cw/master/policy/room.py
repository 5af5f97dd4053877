"""How much work a worker gets at once, and how much of one session before the next has its turn."""

from __future__ import annotations

from cw.master.policy.jobs import AHEAD_JOBS, AHEAD_SECONDS, Job, Worker

QUANTUM_SECONDS = 0.0005
"""Work given to an idle slot before the next idle slot has its turn (seconds). Larger: short batches run in fewer
places. Smaller: with many workers, the shortest jobs travel in frames of one, which costs the master most of its
time."""

QUANTUM_JOBS = 64
"""Most jobs given to an idle slot before the next idle slot has its turn, if no more than QUANTUM_PLACES times as many
wait."""

QUANTUM_PLACES = 8
"""Idle slots over which a longer queue is spread, as far as QUANTUM_SECONDS and LONGEST_QUANTUM allow it. Larger: with
many workers, more and shorter frames. Smaller: such jobs wait for a few runners, and not for the master any more
(which needs half as long for a no-op as a runner)."""

LONGEST_QUANTUM = AHEAD_JOBS // 4
"""Most jobs given to an idle slot at once, however many wait. Larger: more to recall from a worker that stalls; with
half of AHEAD_JOBS, the only worker would not be topped up at once."""

TURN_JOBS = 32
"""Jobs of one session dispatched before the next has its turn. Larger: longer frames, coarser turns."""

TURN_SECONDS = 0.001
"""Length of a turn in estimated seconds: jobs that take longer are dispatched one at a time."""

RECALL_BACKOFF_TICKS = 5
"""Ticks until a worker that had nothing to give back is asked again. By then its runners may be in long jobs."""


class Room:
    """Limits on the work that a worker gets at once, beyond a job for each free slot, and from one session."""

    __slots__ = ("has_turns", "jobs", "seconds", "turn_jobs", "turn_seconds")

    def __init__(self, worker: Worker, ahead: bool, waiting: int = 0) -> None:
        """`waiting`: length of the queue from which idle slots get their jobs."""
        quantum = QUANTUM_JOBS
        if waiting > QUANTUM_JOBS * QUANTUM_PLACES:
            quantum = min(waiting // QUANTUM_PLACES, LONGEST_QUANTUM)
        self.jobs = worker.slots * (AHEAD_JOBS if ahead else quantum)
        self.seconds = worker.slots * (AHEAD_SECONDS if ahead else QUANTUM_SECONDS)

    def begin_turn(self, is_alone: bool) -> None:
        """Begin the next session's turn. It has no limit of its own if the session is alone."""
        self.has_turns = not is_alone
        self.turn_jobs, self.turn_seconds = 0, 0.0


def cost_of(job: Job) -> float:
    """Estimated duration of a job (seconds), at most AHEAD_SECONDS."""
    seconds = job.function.estimate.seconds
    return seconds if seconds < AHEAD_SECONDS else AHEAD_SECONDS
