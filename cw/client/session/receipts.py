"""Receipts: results are acknowledged to the master several at a time. Pure."""

from __future__ import annotations

ACKNOWLEDGED_JOBS = 256
"""Number of results after which they are acknowledged to the master. Larger: workers keep more of them until then.
Smaller: more messages."""


class Receipts:
    """Counts of results over one connection: those that arrived, and those that are acknowledged to the master."""

    __slots__ = ("acknowledged", "received")

    def __init__(self) -> None:
        self.received = self.acknowledged = 0

    def note(self, count: int) -> bool:
        """Count results that have arrived. True: acknowledge them now; False: a moment later."""
        self.received += count
        return self.received - self.acknowledged >= ACKNOWLEDGED_JOBS

    def acknowledge(self) -> int:
        """Return the count of results to acknowledge to the master now; 0: it knows."""
        if self.received == self.acknowledged:
            return 0
        self.acknowledged = self.received
        return self.received
