"""What a tender must know of a kind when it goes on after a restart, and what `status` shows. Plain values."""

from __future__ import annotations

import math
from statistics import median
from typing import Any, NamedTuple

from cw.elastic.failures import Failures
from cw.elastic.offer import Offer

STARTS_KEPT = 9
"""Starts of pieces of which the median is taken. More: it follows a change slowly. Fewer: one slow node changes it."""

START_SECONDS = 10.0
"""Seconds from a piece's start to its worker's hello, before one was measured."""


class KindNotes(NamedTuple):
    """Notes on one kind of pieces."""

    failures: Failures = Failures()
    starts: tuple[float, ...] = ()
    """Seconds from the start to the hello of the latest pieces."""
    offer: Offer | None = None
    """What a whole piece has, by the largest worker so far; None: none has joined yet."""
    wanted: int = 0
    """Slots that the jobs want."""
    refused: tuple[str, ...] = ()
    """Needs that no kind can ever satisfy, in words. (Noted with the first kind.)"""
    tail: str = ""
    """Last lines of the log of the piece that failed last."""

    @property
    def start_seconds(self) -> float:
        return median(self.starts) if self.starts else START_SECONDS

    def on_joined(self, seconds: float) -> KindNotes:
        """Note the time that a piece took from its start to its worker's hello."""
        return self._replace(starts=(*self.starts, max(0.0, seconds))[-STARTS_KEPT:])

    def to_json(self) -> list[Any]:
        """Return the values as JSON knows them."""
        offer = self.offer
        if offer is not None and offer.seconds == math.inf:
            offer = offer._replace(seconds=0.0)
        return [*self[:2], offer, *self[3:]]

    @classmethod
    def from_json(cls, noted: list[Any]) -> KindNotes:
        """Return the notes with this `to_json`. Raises TypeError, ValueError."""
        failures, starts, offer, wanted, refused, tail = noted
        return cls(
            Failures(*failures), tuple(starts), _offer(offer) if offer else None, wanted, tuple(refused), tail
        )


def _offer(noted: list[Any]) -> Offer:
    slots, cpus, gpus, memory, resources, tags, seconds, python, nodes = noted
    amounts = tuple((name, amount) for name, amount in resources)
    version = (python[0], python[1]) if python else None
    return Offer(slots, cpus, gpus, memory, amounts, tuple(tags), seconds or math.inf, version, nodes)
