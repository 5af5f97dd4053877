"""Warning about jobs that do not end: they were cut short more than once because their worker's time was over.

The master's notes on a job (cw.master.policy.cuts) ---> one warning for each function, when a job of it was cut short
twice
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cw.events import EventLogger

logger = EventLogger("cw.client")

TIMES = 2
"""Number of cuts of one job from which it is told. More: an endless job costs more. Fewer: what is usual is told."""


class CutJobs:
    """Functions of one session whose jobs were cut short."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def on_attempt_counts(self, name: str, notes: Sequence[Any]) -> None:
        """Warn if a job of this function was cut short again; `notes` are the master's on its attempts."""
        cuts = [note for note in notes if isinstance(note, dict) and note.get("cuts")]
        if not cuts or cuts[-1]["cuts"] < TIMES or name in self._told:
            return
        self._told.add(name)
        logger.warning(
            "client.job_cut_short",
            "a job of %s was cut short %d times%s; each time its worker's time was over, and it runs again from the "
            "beginning. Give workers more time (--time), or let the job save its state in time "
            "(cw.current_job().time_left()); options(attempts_by_limit=N) gives up after N times, min_time=S starts it "
            "only where S seconds are left",
            name,
            cuts[-1]["cuts"],
            _times(cuts),
        )


def _times(cuts: Sequence[dict[str, Any]]) -> str:
    """Return ': it ran 50 s and 55 s', of the latest ones."""
    times = [f"{cut['seconds']:.3g} s" for cut in cuts if isinstance(cut.get("seconds"), (int, float))]
    if not times:
        return ""
    return (
        f": it ran {', '.join(times[:-1])} and {times[-1]}"
        if len(times) > 1
        else f": it ran {times[0]} at last"
    )
