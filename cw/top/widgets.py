"""Parts of the screen of `cw top`: its head, a table that keeps its place while its rows change, and a question.

Texts from the cluster go into rich's Text, which shows them as they are: nothing in them is markup.
"""

from __future__ import annotations

import operator
import time

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import Button, DataTable, Static

from cw.top import tables, texts
from cw.top.changes import History
from cw.top.tables import Cell, Table

STYLES = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim"}
"""A style for each mood of a cell."""

STALE = 4.0
"""Seconds without a snapshot after which the screen says so. Larger: old figures seem to be new. Smaller: a master that
is busy for a moment makes the line blink."""

MOST = (26, 72)
"""Most characters of a cell in the first column, and in another one. (A row's details have all.)"""


def styled(text: str, mood: str = "") -> Text:
    """Return a text with the style of its mood."""
    return Text(text, STYLES.get(mood, ""), no_wrap=True, end="")


def facts(lines: tuple[tuple[str, str], ...]) -> Text:
    """Return names and values, one below the other."""
    width = max((len(name) for name, _ in lines), default=0)
    shown = [Text.assemble((name.ljust(width + 2), "dim"), value) for name, value in lines]
    return Text("\n").join(shown)


class Head(Static):
    """The lines above the tables. `away`: a sentence while there is no master, or ''."""

    def __init__(self, history: History, takes_orders: bool) -> None:
        super().__init__(id="head")
        self._history = history
        self._takes_orders = takes_orders
        self._seen_at = time.monotonic()
        self.away = "the master is looked for"

    def on_news(self) -> None:
        """A snapshot has come."""
        self.away, self._seen_at = "", time.monotonic()

    def tick(self) -> None:
        """Let the clock go on, where no snapshot does."""
        if time.monotonic() - self._seen_at > 1.5:
            self.show()

    def on_resize(self) -> None:
        self.show()

    def show(self) -> None:
        """Write the lines anew."""
        width, last, clock = self.size.width, self._history.last, time.strftime("%H:%M:%S")
        where = f"  {last.where or last.master.host}, up {texts.duration(last.master.age)}" if last else ""
        rights = "" if self._takes_orders else "  read-only"
        title = Text.assemble(("cw top", "bold"), texts.plain(where), (rights, "yellow"))
        title.truncate(max(width - len(clock) - 1, 10), overflow="ellipsis", pad=True)
        lines = [Text.assemble(title, " ", (clock, "dim"))]
        age = time.monotonic() - self._seen_at
        if self.away:
            old = "; what follows is old" if last else ""
            lines.append(styled(f"{self.away}{old}", "bad"))
        elif age > STALE:
            lines.append(styled(f"no news for {age:.0f} s: what follows is old", "bad"))
        if last:
            slots, jobs, *waits = tables.head(last)
            slots = f"slots  {slots}  "
            curve = self._history.busy(max(width - len(slots), 0))
            lines += [Text.assemble(slots, (curve, "cyan")), Text(f"jobs   {jobs}")]
            lines += [styled(line, "warn") for line in waits]
        for line in lines[1:]:
            line.truncate(max(width, 10), overflow="ellipsis")
        self.update(Text("\n").join(lines))


class TableView(DataTable[Text]):
    """A table whose cursor stays on its row, and whose columns and scroll position stay, when the rows change."""

    BINDINGS = [Binding("enter", "select_cursor", "Details")]

    def __init__(self, id: str, has_keys: bool = True) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True, show_cursor=has_keys)
        self.can_focus = has_keys
        self._columns: tuple[str, ...] = ()
        self._widths: list[int] = []
        self._labels: tuple[str, ...] = ()
        self._keys: list[str] = []
        self._lines: list[list[Text]] = []

    @property
    def selected(self) -> str | None:
        """Key of the row under the cursor; None if there is no row."""
        return self._keys[self.cursor_row] if 0 <= self.cursor_row < len(self._keys) else None

    def show(self, table: Table, sorted_by: int | None = None, is_descending: bool = False) -> None:
        """Show these rows."""
        arrow = "▼" if is_descending else "▲"
        names = [name.removesuffix("#") for name in table.columns]
        labels = tuple(name + (arrow if place == sorted_by else "") for place, name in enumerate(names))
        lines = [
            [_shown(cell, table.columns[x], x) for x, cell in enumerate(row.cells)] for row in table.rows
        ]
        widths = [
            max(map(cell_len, (label, *(line[x].plain for line in lines)))) for x, label in enumerate(labels)
        ]
        keys = [row.key for row in table.rows]
        if table.columns != self._columns:
            self._rebuild(table, labels, lines, widths)
            self.scroll_home(animate=False)
        elif labels != self._labels or keys != self._keys or any(map(operator.gt, widths, self._widths)):
            self._refill(table, labels, lines, [*map(max, widths, self._widths)], keys)
        else:
            self._update(lines)
        self._columns, self._labels, self._keys, self._lines = table.columns, labels, keys, lines

    def _update(self, lines: list[list[Text]]) -> None:
        """Change only the cells that differ."""
        for y, (before, after) in enumerate(zip(self._lines, lines, strict=True)):
            for x, (was, text) in enumerate(zip(before, after, strict=True)):
                if was != text or was.style != text.style:
                    self.update_cell_at(Coordinate(y, x), text)

    def _refill(
        self,
        table: Table,
        labels: tuple[str, ...],
        lines: list[list[Text]],
        widths: list[int],
        keys: list[str],
    ) -> None:
        """Show other rows of the same table: where the cursor was, and what was seen, stays."""
        selected, before, scroll = self.selected, self.cursor_row, self.scroll_offset
        self._rebuild(table, labels, lines, widths)
        place = keys.index(selected) if selected in keys else min(before, len(keys) - 1)
        if place >= 0:
            self.move_cursor(row=place, animate=False, scroll=False)
        self.scroll_to(scroll.x, scroll.y, animate=False, force=True)

    def _rebuild(
        self, table: Table, labels: tuple[str, ...], lines: list[list[Text]], widths: list[int]
    ) -> None:
        self.clear(columns=True)
        for label, column, width in zip(labels, table.columns, widths, strict=True):
            self.add_column(Text(label, justify="right" if column.endswith("#") else "left"), width=width)
        for line in lines:
            self.add_row(*line)
        self._widths = widths


def _shown(cell: Cell, column: str, place: int) -> Text:
    text = styled(cell.text, cell.mood)
    text.truncate(MOST[bool(place)], overflow="ellipsis")
    text.justify = "right" if column.endswith("#") else "left"
    return text


class Question(ModalScreen[bool]):
    """Asks before an order is given. No is the default."""

    BINDINGS = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No"),
        Binding("left,right", "app.focus_next", show=False),
    ]

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question = question
        self._yes = yes

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question), id="question")
            with Horizontal():
                yield Button(Text("No (n)"), id="no")
                yield Button(Text(f"{self._yes} (y)"), id="yes", variant="error")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, is_yes: bool) -> None:
        self.dismiss(is_yes)
