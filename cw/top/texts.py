"""Numbers, times and texts as `cw top` shows them. Nothing from the cluster is shown but through `plain`."""

from __future__ import annotations

from collections.abc import Sequence

from cw.observer import bounds
from cw.observer.text import size as size

LEVELS = "▁▂▃▄▅▆▇█"
"""Heights of a sparkline's columns."""

UNITS = ((1, "s"), (60, "min"), (3600, "h"))

PARTS = " ▏▎▍▌▋▊▉█"
"""Eighths of a bar's cell."""


def plain(text: str, most: int = bounds.TEXT) -> str:
    """Return the text on one line, without what could steer a terminal; cut to `most` characters."""
    return bounds.clean(text, most)


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units: '45 s', '5 min 30 s', '2 h 05 min', '3 d 04 h'; '' for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return "0 s" if seconds < 0.001 else f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"


def rate(per_second: float) -> str:
    """Return a rate: '3.5/s'; a slow one by the minute or the hour: '4.2/min'; '' for none."""
    if per_second <= 0:
        return ""
    factor, unit = next(((f, u) for f, u in UNITS if per_second * f >= 0.095), UNITS[-1])
    value = per_second * factor
    return f"{value:.0f}/{unit}" if value >= 99.95 else f"{value:.1f}/{unit}"


def joined(between: str, *counts: tuple[int, str]) -> str:
    """Return counts with their units: '1 slot, 2 hosts'."""
    return between.join(f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in counts)


def bar(part: float, width: int) -> str:
    """Return a bar of `width` characters; `part` of it, 0 to 1, is filled."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (PARTS[rest] if rest else "")).ljust(width)


def progress(part: float, width: int) -> str:
    """Return a bar and the per cent, in `width` + 5 characters. Says 100 % only when all is done."""
    per_cent = int(min(max(part, 0.0), 1.0) * 100)
    return f"{bar(part, width)}{per_cent:3d} %"


def sparkline(values: Sequence[float], most: float, width: int) -> str:
    """Return a line of at most `width` columns whose heights are the values, `most` the highest; each is the mean of
    the values that share its column. The last is the newest."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    means = []
    for column in range(count):
        part = values[column * len(values) // count : (column + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    top = max(most, *means) or 1.0
    return "".join(LEVELS[min(int(mean / top * len(LEVELS)), len(LEVELS) - 1)] for mean in means)
