"""What the user has chosen to see: a view, details, words that filter, a column that sorts. No terminal here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cw.observer.model import Snapshot
from cw.top import tables
from cw.top.changes import History
from cw.top.details import Detail, detail
from cw.top.tables import Table

VIEWS = ("functions", "workers", "running", "failures", "clients", "cluster", "log")

NO_CLUSTER = (
    "a cluster is looked for; `cw local` starts one on this machine, `cw slurm start -n 32` one in Slurm"
)
"""Said while no master has answered yet."""

_TABLES: dict[str, Callable[[Snapshot], Table]] = {
    "functions": tables.functions, "workers": tables.workers, "running": tables.running,
    "failures": tables.failures, "clients": tables.clients,
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """The screen below the head. `table` None: none belongs to it; `empty`: what is said in place of rows."""

    about: Detail | None
    table: Table | None
    empty: str
    column: int | None
    """Column by which the table is sorted."""
    is_descending: bool


class Choice:
    """The user's choice. Changed by keys."""

    def __init__(self) -> None:
        self.view = VIEWS[0]
        self.opened: tuple[str, str] | None = None
        """The row whose details are seen: its view and key."""
        self.words = ""
        self._sorting: dict[str, tuple[int | None, bool]] = {}  # by kind of rows: column, is descending

    @property
    def rows(self) -> str:
        """Kind of the rows that the keys act on: details list running jobs."""
        return "running" if self.opened else self.view

    @property
    def worker(self) -> str | None:
        """Key of the worker whose details are seen."""
        return self.opened[1] if self.opened and self.opened[0] == "workers" else None

    def sort_next(self, columns: int) -> None:
        """Sort by the next of the columns; after the last one, not at all."""
        column, _ = self._sorting.get(self.rows, (None, False))
        following = 0 if column is None else column + 1
        self._sorting[self.rows] = (following if following < columns else None, False)

    def reverse(self) -> None:
        """Sort the other way round."""
        column, is_descending = self._sorting.get(self.rows, (None, False))
        self._sorting[self.rows] = (0 if column is None else column, not is_descending)

    def sort_by(self, column: int) -> None:
        """Sort by that column; the second time, the other way round."""
        before = self._sorting.get(self.rows)
        self._sorting[self.rows] = (column, before == (column, False))

    def open(self, snapshot: Snapshot | None, key: str | None) -> bool:
        """Look into a row of the view; returns False if there is nothing behind it."""
        if self.opened or not snapshot or not key or not detail(snapshot, self.view, key):
            return False
        self.opened, self.words = (self.view, key), ""
        return True

    def leave(self) -> None:
        """Leave what was entered last: the filter, or the details."""
        if self.words:
            self.words = ""
        else:
            self.opened = None

    def shown(self, history: History, batch: tuple[tuple[str, str], ...] = ()) -> Shown:
        """Return what is seen of what is known."""
        last = history.last
        about = detail(last, *self.opened) if last and self.opened else None
        table = (about.running if about else None) if self.opened else self._table(history, batch)
        column, is_descending = self._sorting.get(self.rows, (None, False))
        if table is None:
            gone = "it has ended: Escape goes back" if self.opened and not about else ""
            gone = NO_CLUSTER if history.last is None else gone
            return Shown(about, None, gone, column, is_descending)
        rows = table.filtered(self.words).sorted_by(column, is_descending)
        empty = "" if rows.rows else f"no row has {self.words!r}" if table.rows else table.empty
        return Shown(about, rows, empty, column, is_descending)

    def _table(self, history: History, batch: tuple[tuple[str, str], ...]) -> Table | None:
        if self.view == "log":
            return history.log()
        if history.last is None:
            return None
        return (
            tables.cluster(history.last, batch)
            if self.view == "cluster"
            else _TABLES[self.view](history.last)
        )
