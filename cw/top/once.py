"""`cw top --once`: the tables of `cw top` as plain text, without Textual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cw.observer.model import Snapshot
from cw.top import tables
from cw.top.tables import Table

NARROW = 28
"""Characters to which a column may shrink. Smaller: texts are not legible. Larger: more columns are left out."""


def lines(snapshot: Snapshot, width: int, batch: Iterable[tuple[str, str]] = ()) -> Iterator[str]:
    """Yield the lines of all tables, each at most `width` characters wide."""
    slots, jobs, *waits = tables.head(snapshot)
    yield from (f"slots  {slots}", f"jobs   {jobs}", *waits)
    for title, table in (
        ("Functions", tables.functions(snapshot)),
        ("Workers", tables.workers(snapshot)),
        ("Running", tables.running(snapshot)),
        ("Failures", tables.failures(snapshot)),
        ("Clients", tables.clients(snapshot)),
        ("Cluster", tables.cluster(snapshot, batch)),
    ):
        yield ""
        yield title
        yield from as_text(table, width)


def as_text(table: Table, width: int) -> Iterator[str]:
    """Yield a table's lines. The widest columns shrink if they do not fit, and the last are left out if that does not
    help; so are columns without any text."""
    if not table.rows:
        yield f"  {table.empty}"
        return
    used = [n for n in range(len(table.columns)) if any(row.cells[n].text.strip() for row in table.rows)]
    widths = _fit([max(len(text) for text in _column(table, n)) for n in used], width - 2)
    for line in zip(*(_column(table, n) for n in used), strict=True):
        cells = []
        for n, text, room in zip(used, line, widths, strict=False):  # (the last columns may be left out)
            cut = text if len(text) <= room else text[: room - 1] + "…"
            cells.append(cut.rjust(room) if table.columns[n].endswith("#") else cut.ljust(room))
        yield f"  {'  '.join(cells)}".rstrip()


def _column(table: Table, place: int) -> list[str]:
    return [table.columns[place].removesuffix("#"), *(row.cells[place].text for row in table.rows)]


def _fit(widths: list[int], room: int) -> list[int]:
    """Return the widths that these columns get, of the first ones that have room."""
    while len(widths) > 1 and sum(min(width, NARROW) + 2 for width in widths) - 2 > room:
        widths.pop()
    while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths
