"""Bounds of what observers see that clients and masters check before they tell it. (`cw.observer.model` takes long to
load: only who makes a snapshot, or reads one, needs it.)"""

from __future__ import annotations

FAILURES = 20
"""Most failures that are listed."""

LOSSES = 20
"""Most lost workers that are listed."""

TEXT = 200
"""Most characters of a text. Longer ones are cut."""


def clean(text: str, most: int = TEXT) -> str:
    """Return the text on one line, without control characters, and cut if it is long."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else " " for c in cut)
