"""The pictures of a report, as SVG that stands in the page itself.

Figures --> columns, bars, classes --> matplotlib's SVG backend --> its text, with colours of the page: var(--NAME)

Why matplotlib: most users have it, it is well kept, it writes text as text (so that it can be searched, and has the
page's font), and the same figures give the same bytes. Libraries that draw in the browser bring megabytes of
JavaScript, or load it from elsewhere; a report has none. It is the extra `report`.

Each picture is drawn for a wide page and for a narrow one: a wide one made small is not legible on a phone.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cw.report import texts
from cw.report.bins import Axis, Column
from cw.report.durations import Durations
from cw.report.timeline import MOST_DRAWN, Row

FUNCTION_COLORS = 8
"""Number of functions with a colour of their own."""

# Colours that matplotlib writes, and that become the page's variables; none of them is seen.
_NAMES = ["ink", "line", "accent", "bad", "other", *(f"f{n}" for n in range(FUNCTION_COLORS))]
_COLORS = {name: f"#0a0b{16 + number:02x}" for number, name in enumerate(_NAMES)}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.size": 12,
    "axes.edgecolor": _COLORS["line"],
    "axes.labelcolor": _COLORS["ink"],
    "text.color": _COLORS["ink"],
    "xtick.color": _COLORS["line"],
    "ytick.color": _COLORS["line"],
    "xtick.labelcolor": _COLORS["ink"],
    "ytick.labelcolor": _COLORS["ink"],
    "grid.color": _COLORS["line"],
}


class Size(NamedTuple):
    """For which page a picture is drawn: `name` of the style, width, number of columns, rows and letters of a host."""

    name: str
    width: int
    columns: int
    rows: int
    letters: int


SIZES = (Size("wide", 940, 160, MOST_DRAWN, 22), Size("narrow", 360, 80, 24, 10))


class Unit(NamedTuple):
    """A unit of time for an axis."""

    name: str
    seconds: float


def unit_of(seconds: float) -> Unit:
    """Return the unit in which a length of time is a small number."""
    for unit in (Unit("days", 86400), Unit("hours", 3600), Unit("minutes", 60)):
        if seconds >= 3 * unit.seconds:
            return unit
    return Unit("seconds", 1) if seconds >= 0.5 else Unit("milliseconds", 0.001)


def throughput(columns: Sequence[Column], axis: Axis, size: Size, per: Unit) -> str:
    """Draw the calls that ended, by time: those that failed above the others."""
    done = [column.done * per.seconds / column.seconds for column in columns]
    both = [(column.done + column.failed) * per.seconds / column.seconds for column in columns]
    figure, axes = _axes(size, 180)
    edges = _edges(columns, axis)
    axes.stairs(done, edges, fill=True, color=_COLORS["accent"], linewidth=0)
    axes.stairs(both, edges, baseline=done, fill=True, color=_COLORS["bad"], linewidth=0)
    return _finished(figure, axes, axis, size, f"throughput-{size.name}")


def rate_unit(columns: Sequence[Column]) -> Unit:
    """Return the unit for calls per time, in which the highest rate is 1 or more if that can be."""
    most = max((column.done + column.failed) / column.seconds for column in columns)
    for unit in (Unit("second", 1), Unit("minute", 60), Unit("hour", 3600)):
        if most * unit.seconds >= 1:
            return unit
    return Unit("day", 86400)


def busy(columns: Sequence[Column], axis: Axis, size: Size) -> str:
    """Draw the number of busy slots by time."""
    figure, axes = _axes(size, 180)
    values = [column.busy for column in columns]
    edges = _edges(columns, axis)
    axes.stairs(values, edges, fill=True, color=_COLORS["accent"], linewidth=0, alpha=0.25)
    axes.stairs(values, edges, color=_COLORS["accent"], linewidth=1.5)
    return _finished(figure, axes, axis, size, f"busy-{size.name}")


def timeline(rows: Sequence[Row], axis: Axis, colors: Mapping[str, str], size: Size) -> str:
    """Draw what each row did. `colors`: names of colours by function."""
    height = 15 if size.name == "wide" else 14
    letters = min(size.letters, max(len(row.host) for row in rows))
    figure, axes = _axes(size, len(rows) * height + 44, left=max(44, 12 + 7.2 * letters))
    least = axis.seconds / size.width * 1.2
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for place, row in enumerate(rows):
        for bar in row.bars:
            left, right = axis.x(bar.start), axis.x(bar.end)
            color = colors.get(bar.function, "other")
            if right - left > 6 * least:  # a gap between long calls shows where one ends
                right -= least
            boxes.setdefault(color, []).append((left, max(right, left + least), place + 0.1, place + 0.9))
        for when in row.failed:
            right = axis.x(when)
            boxes.setdefault("bad", []).append((right - 2 * least, right, place + 0.1, place + 0.9))
    unit = unit_of(axis.seconds)
    for color in sorted(boxes, key=lambda color: (color == "bad", color)):
        axes.add_artist(_boxes(boxes[color], unit.seconds, _COLORS[color]))
    firsts = [place for place, row in enumerate(rows) if not place or rows[place - 1].host != row.host]
    for place in firsts[1:]:
        axes.axhline(place, color=_COLORS["line"], linewidth=0.6)
    spans = list(zip(firsts, [*firsts[1:], len(rows)], strict=True))
    axes.set_yticks([(first + last) / 2 for first, last in spans])
    axes.set_yticklabels([_label(rows[first].host or "?", size.letters) for first, _ in spans])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows), 0)
    return _finished(figure, axes, axis, size, f"timeline-{size.name}", is_counted=False)


def histogram(durations: Durations, color: str, name: str) -> str:
    """Draw the durations of a function's calls. `name`: one of its own in the page."""
    bars = durations.histogram()
    figure, axes = _axes(Size("tile", 300, 0, 0, 0), 130)
    edges = [bars[0][0], *(upper for _, upper, _ in bars)]
    axes.stairs([count for _, _, count in bars], edges, fill=True, color=_COLORS[color], linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = _duration_ticks(edges[0], edges[-1])
    axes.set_xticks(ticks, [texts.duration(tick) for tick in ticks])
    _count_up(axes, is_whole=True)
    return _svg(figure, name, "number of calls by duration")


def _duration_ticks(shortest: float, longest: float) -> list[float]:
    """Return two to four durations in a range that are easily read."""
    steps = [(1, 2, 5), (1, 3), (1,)] if longest / shortest < 300 else [(1,)]
    for multiples in steps:
        found = [
            base * 10.0**power for power in range(-7, 8) for base in multiples
            if shortest <= base * 10.0**power <= longest
        ]  # fmt: skip
        if 2 <= len(found) <= 4:
            return found
    if len(found) > 4:
        return found[:: -(-len(found) // 4)]
    return [shortest * 1.02, longest * 0.98]


# --- what they have in common ------------------------------------------------------------------


def _axes(size: Size, height: float, left: float = 44) -> tuple[Any, Any]:
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(size.width / 72, height / 72), dpi=72)
        bottom, right, top = 36 if size.name != "tile" else 22, 10, 10
        axes = figure.add_axes(
            (
                left / size.width,
                bottom / height,
                (size.width - left - right) / size.width,
                (height - bottom - top) / height,
            )
        )
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _edges(columns: Sequence[Column], axis: Axis) -> list[float]:
    """The edges of columns, in the unit of the axis."""
    unit = unit_of(axis.seconds).seconds
    return [0.0, *(edge / unit for edge in itertools.accumulate(column.seconds for column in columns))]


def _finished(figure: Any, axes: Any, axis: Axis, size: Size, name: str, is_counted: bool = True) -> str:
    """Add the axis of time, and return the SVG."""
    unit = unit_of(axis.seconds)
    axes.set_xlim(0, axis.seconds / unit.seconds)
    axes.xaxis.set_major_locator(MaxNLocator(9 if size.name == "wide" else 4))
    for where, _ in axis.pauses()[:100]:
        axes.axvline(where / unit.seconds, color=_COLORS["ink"], linewidth=1, linestyle=(0, (3, 3)))
    axes.set_xlabel(f"{unit.name} since the start", fontsize=11)
    if is_counted:
        _count_up(axes, is_whole=name.startswith("busy"))
    return _svg(figure, name, name.partition("-")[0])


def _count_up(axes: Any, is_whole: bool) -> None:
    axes.set_ylim(bottom=0)
    is_whole = is_whole and axes.get_ylim()[1] >= 2
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=is_whole, min_n_ticks=2))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.grid(axis="y", linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _short(value: float, _: object = None) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / min(size, 1000 if name == 'k' else size):g}{name}"
    return f"{value:g}"


def _boxes(boxes: Sequence[tuple[float, float, float, float]], unit: float, color: str) -> Any:
    """Return many rectangles as one shape: this is much shorter than a shape for each."""
    corners = []
    for left, right, top, bottom in boxes:
        left, right = left / unit, right / unit
        corners += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(boxes)
    return PathPatch(Path(corners, codes), facecolor=color, linewidth=0)


def _label(text: str, letters: int) -> str:
    text = texts.legible(text)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _svg(figure: Any, name: str, description: str) -> str:
    """Return the SVG element, which fills the width that it is given, in the page's colours."""
    file = io.StringIO()
    # (`name` makes the ids of each picture differ: a picture must not use a part of one that is not shown.)
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that matplotlib's font lacks: the browser has it
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    text = f'<svg {view[0]} role="img" aria-label="{description}">{text[text.index(">") + 1 :]}'
    for color_name, color in _COLORS.items():
        text = text.replace(color, f"var(--{color_name})")
    return re.sub(r'(?<= d=")[^"]*', _shorter, re.sub(r"\n\s*", "\n", text))


def _shorter(path: re.Match[str]) -> str:
    """Return a path with a hundredth of a pixel as its last digit, on one line."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace(" \n", " ")
