"""The page of a report: one HTML file that needs no other, and in which nothing runs.

Figures, texts of calls --> sections --> page()

All that comes from a user (names, arguments, errors, paths) goes through `_text`. The page also forbids scripts, and
loads from elsewhere, by its policy: should an escape ever be missed, nothing happens.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cw.report import drawing, texts
from cw.report.bins import Axis
from cw.report.figures import SHOWN, Figures, Totals
from cw.report.reader import Described
from cw.report.style import STYLE
from cw.report.timeline import Timeline
from cw.version import VERSION

LONGEST = 300
"""Letters of an argument or an error that are shown. Larger: tables fill the page. Smaller: more is cut."""

MOST_HOSTS = 50
"""Rows of the table of hosts. Larger: a longer page. Smaller: more hosts are summed."""


class Report(NamedTuple):
    """What a page is made of."""

    title: str
    """What was run: the path of the store, say."""
    figures: Figures
    slowest: Sequence[Described]
    failures: Sequence[Described]
    made: datetime.datetime
    remarks: Sequence[str] = ()
    """Sentences at the end of the page about what it says, and does not say."""


def page(report: Report) -> str:
    """Return the page. The figures must have a call."""
    figures = report.figures
    axis = Axis(figures.bins)
    by_seconds = sorted(figures.functions.items(), key=lambda item: (-item[1].durations.total, item[0]))
    colors = {name: f"f{n}" for n, (name, _) in enumerate(by_seconds[: drawing.FUNCTION_COLORS])}
    sections = [
        _header(report),
        _tiles(figures, axis),
        _over_time(figures, axis),
        _timeline(figures, axis, colors),
        _functions(by_seconds, colors),
        _hosts(figures),
        _failed(report) if figures.failed else "",
        _section("Slowest calls", _calls(report.slowest)),
        _footer(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(report.title)} – cw report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    figures = report.figures
    return (
        f'<header><p class="kind">cw report</p><h1>{_text(report.title)}</h1>'
        f"<p>{_when(figures.begin)} to {_when(figures.end)}</p></header>"
    )


def _tiles(figures: Figures, axis: Axis) -> str:
    durations, failed = figures.totals.durations, figures.failed
    paused = sum(seconds for _, seconds in axis.pauses())
    most = max(column.busy for column in figures.bins.columns(drawing.SIZES[0].columns))
    tiles = [
        ("calls done", f"{durations.count - figures.totals.failed:,}", ""),
        ("calls failed", f"{failed:,}", _recovered(figures)),
        ("from start to end", texts.duration(axis.seconds), f"and {texts.duration(paused)} pause" if paused else ""),
        ("spent in calls", texts.duration(durations.total), ""),
        ("slots busy", _number(durations.total / axis.seconds), f"on average; at most {most:,.0f}"),
        ("median call", texts.duration(durations.quantile(0.5)), f"longest {texts.duration(durations.longest)}"),
    ]  # fmt: skip
    shown = (
        f'<div class="tile{" bad" if name == "calls failed" and failed else ""}"><span>{name}</span>'
        f"<strong>{value}</strong><small>{more}</small></div>"
        for name, value, more in tiles
    )
    return f'<section class="tiles">{"".join(shown)}</section>'


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _recovered(figures: Figures) -> str:
    number = figures.done_after_failure
    return f"{number:,} more failed, and were done later" if number else ""


def _over_time(figures: Figures, axis: Axis) -> str:
    drawn: dict[str, list[str]] = {"throughput": [], "busy": []}
    per = drawing.Unit("", 0)
    for size in drawing.SIZES:
        # (Columns of few calls are a comb, and no picture of a rate.)
        most = min(size.columns, max(24, figures.totals.durations.count // 6))
        columns = figures.bins.columns(most)
        per = per if per.name else drawing.rate_unit(columns)
        drawn["throughput"].append(_sized(drawing.throughput(columns, axis, size, per), size))
        drawn["busy"].append(_sized(drawing.busy(figures.bins.columns(size.columns), axis, size), size))
    legend = _legend([("accent", "done"), ("bad", "failed")]) if figures.totals.failed else ""
    rate = _section(
        f"Throughput <small>calls per {per.name}</small>",
        legend + "".join(drawn["throughput"]),
        _pauses(axis),
    )
    return f"{rate}\n{_section('Busy slots', ''.join(drawn['busy']))}"


def _pauses(axis: Axis) -> str:
    pauses = axis.pauses()
    if not pauses:
        return ""
    if len(pauses) == 1:
        return f"The dashed line is a pause of {texts.duration(pauses[0][1])}, which is left out."
    longest = texts.duration(max(seconds for _, seconds in pauses))
    return f"The dashed lines are {len(pauses)} pauses, the longest of {longest}, which are left out."


def _timeline(figures: Figures, axis: Axis, colors: Mapping[str, str]) -> str:
    timeline, drawn = figures.timeline, []
    for size in drawing.SIZES:
        rows = timeline.rows(size.rows)
        picture = drawing.timeline(rows, axis, colors, size)
        drawn.append(_sized(picture + _note(_about_timeline(timeline, len(rows))), size))
    entries = [(color, name) for name, color in colors.items()]
    if len(figures.functions) > len(colors) or timeline.has_mixed_bars:
        entries.append(("other", "others, or several functions"))
    if figures.totals.failed:
        entries.append(("bad", "failed"))
    return _section("Timeline <small>a row for each slot</small>", _legend(entries) + "".join(drawn))


def _about_timeline(timeline: Timeline, shown: int) -> str:
    """What the timeline has summed, and left out."""
    parts = []
    if timeline.width:
        parts.append(f"Calls shorter than {texts.duration(timeline.width)} are drawn together.")
    if shown < timeline.count:
        parts.append(f"{shown} of {timeline.count:,} rows are drawn.")
    if timeline.left_out:
        parts.append(f"{timeline.left_out:,} calls are in none of them.")
    return " ".join(parts)


def _functions(by_seconds: Sequence[tuple[str, Totals]], colors: Mapping[str, str]) -> str:
    tiles = []
    for number, (name, totals) in enumerate(by_seconds[: len(colors)]):
        picture = drawing.histogram(totals.durations, colors[name], f"histogram-{number}")
        caption = f'<i class="{colors[name]}"></i><code>{_text(name)}</code>'
        tiles.append(f"<figure><figcaption>{caption}</figcaption>{picture}</figure>")
    rows = []
    for name, totals in by_seconds:
        known = totals.durations
        quantiles = known.quantile(0.5), known.quantile(0.95), known.longest
        rows.append((f"<code>{_text(name)}</code>", *_counted(totals), *map(texts.duration, quantiles)))
    heads = ("function", "calls", "failed", "total time", "median", "95 %", "longest")
    return (
        _section("Durations <small>calls by their length</small>", f'<div class="histograms">{"".join(tiles)}</div>')
        + "\n" + _section("Functions", _table(heads, rows))
    )  # fmt: skip


def _hosts(figures: Figures) -> str:
    by_seconds = sorted(figures.hosts.items(), key=lambda item: (-item[1].durations.total, item[0]))
    rows = []
    for name, totals in by_seconds[:MOST_HOSTS]:
        median = texts.duration(totals.durations.quantile(0.5))
        rows.append(
            (_text(name or "unknown"), *_counted(totals), median, f"{figures.timeline.rows_of(name):,}")
        )
    note = f"{MOST_HOSTS} of {len(by_seconds):,} hosts: those with most time in calls."
    heads = ("host", "calls", "failed", "total time", "median", "slots, about")
    return _section("Hosts", _table(heads, rows), note if len(by_seconds) > MOST_HOSTS else "")


def _counted(totals: Totals) -> tuple[str, str, str]:
    failed = f'<b class="bad">{totals.failed:,}</b>' if totals.failed else "0"
    return f"{totals.durations.count:,}", failed, texts.duration(totals.durations.total)


def _failed(report: Report) -> str:
    number = report.figures.failed
    some = f" <small>the last {SHOWN} of {number:,}</small>" if number > SHOWN else ""
    return _section(f"Failed calls{some}", _calls(report.failures))


def _calls(calls: Sequence[Described]) -> str:
    return f'<ol class="calls">{"".join(map(_call, calls))}</ol>'


def _call(described: Described) -> str:
    call = described.call
    arguments = f"({_text(described.arguments)})" if described.is_loaded else ""
    lines = [
        _text(described.error),
        f"… {_text(described.error_end)}" if described.error_end else "",
        f'<span class="facts">{_text(described.where)}</span>' if described.where else "",
    ]
    error = f'<pre class="bad">{"<br>".join(filter(None, lines))}</pre>' if any(lines) else ""
    facts = f"job {call.job[1]} on {_text(call.host or 'an unknown host')}, {_when(call.end)}"
    return (
        f"<li><p><code>{_text(call.function)}{arguments}</code></p>"
        f'<p class="facts"><b>{texts.duration(call.seconds)}</b>, {facts}</p>{error}</li>'
    )


def _footer(report: Report) -> str:
    remarks = "".join(f"<p>{_text(remark)}</p>" for remark in report.remarks)
    return f"<footer>{remarks}<p>Made by cw {VERSION}, {_when(report.made.timestamp())}.</p></footer>"


# --- parts ---------------------------------------------------------------------------------------


def _section(title: str, content: str, note: str = "") -> str:
    """A section. The title and the content are HTML, the note is a text."""
    return f"<section><h2>{title}</h2>{content}{_note(note)}</section>"


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>' if text else ""


def _sized(svg: str, size: drawing.Size) -> str:
    return f'<div class="{size.name}">{svg}</div>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    shown = (f'<span><i class="{color}"></i>{_text(name)}</span>' for color, name in entries)
    return f'<p class="legend">{"".join(shown)}</p>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are HTML."""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _when(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


def _text(text: str) -> str:
    """Escape a text, shortened."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST * 2 // 3]} … {text[-LONGEST // 3 :]}"
    return html.escape(texts.legible(text))
