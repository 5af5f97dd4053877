"""Texts of a report: durations in words, and users' texts without what is no letter. Pure."""

from __future__ import annotations

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def duration(seconds: float) -> str:
    """Return a duration with two or three digits: '1.2 ms', '90 s', '2.5 h'."""
    if seconds <= 0:
        return "0 s"
    # (Up to two minutes, hours or days, the smaller unit says more.)
    name, size = next(
        (unit for unit in _UNITS if seconds >= unit[1] * (2 if unit[1] > 1 else 0.9995)), _UNITS[-1]
    )
    value = seconds / size
    return f"{value:.2g} {name}" if value < 9.95 else f"{value:.0f} {name}"


def legible(text: str) -> str:
    """Return a text with a sign in place of each control character, change of direction and the like."""
    return "".join(c if c.isprintable() else "·" for c in text.replace("\n", " ⏎ "))
