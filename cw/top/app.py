"""`cw top` in a terminal, on Textual: one table at a time, under lines that say how the cluster is.

Source ---> Update ---> History ---> head; the table of the view that is chosen, or details
 ^                                                   |
 '--- orders, after a question --- keys -------------'
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from cw.top import tables, texts
from cw.top.changes import Event, History
from cw.top.source import Away, Batch, Source, Update
from cw.top.views import VIEWS, Choice
from cw.top.widgets import Head, Question, TableView, facts


class Arrived(Message):
    """An update of the source, on its way from the source's thread to the app."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update


class TopApp(App[None]):
    """The program."""

    TITLE = "cw top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False  # its screenshots would be files on the machine that serves a browser
    BINDINGS = [
        Binding("tab", "view(1)", "Next", priority=True),
        Binding("shift+tab", "view(-1)", show=False, priority=True),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("k", "kill", "Kill job"),
        Binding("d", "drain", "Drain"),
        Binding("escape", "leave", "Back"),
        *(Binding(str(place + 1), f"go({place})", show=False) for place in range(len(VIEWS))),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._history = History()
        self._choice = Choice()
        self._batch: tuple[tuple[str, str], ...] = ()
        self._footer_for: object = None  # what the keys in the footer depend on
        self.animation_level = "none"  # the terminal may be far away

    # --- the screen ----------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Head(self._history, self._source.takes_orders)
        yield Tabs(*(Tab(f"{place + 1} {view.capitalize()}", id=view) for place, view in enumerate(VIEWS)))
        yield Input(placeholder="words that a row must contain", id="filter")
        yield Static(id="facts")
        yield TableView("table")
        yield Static(id="empty")
        yield TableView("failed", has_keys=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(Tabs).can_focus = False
        self.query_one("#filter").display = False
        self.table.focus()
        self.show()
        self.set_interval(1.0, self.query_one(Head).tick)
        self._source.start(self._take)

    def on_unmount(self) -> None:
        self._source.close()

    @property
    def table(self) -> TableView:
        """The table that has the keys."""
        return self.query_one("#table", TableView)

    def _take(self, update: Update) -> None:
        """Bring an update from any thread to the app."""
        self.post_message(Arrived(update))

    def on_arrived(self, message: Arrived) -> None:
        update, head = message.update, self.query_one(Head)
        if isinstance(update, Batch):
            self._batch = update.lines
        elif isinstance(update, Away):
            if not head.away and self._history.last:
                self._note(Event(texts.plain(update.why), "bad"))
            head.away = texts.plain(update.why)
        else:
            if head.away and self._history.last:
                self._note(Event("the master is back", "good"))
            head.on_news()
            self._history.add(update, _clock())
        with self.batch_update():
            head.show()
            self.show()

    def _note(self, event: Event) -> None:
        self._history.note(event, _clock())

    def show(self) -> None:
        """Show what is chosen, as it is now."""
        choice = self._choice
        shown = choice.shown(self._history, self._batch)
        about, table = shown.about, shown.table
        failures = about.failures if about and about.failures and about.failures.rows else None
        if about:
            self.query_one("#facts", Static).update(facts(about.lines))
        if failures:
            self.query_one("#failed", TableView).show(failures)
        if table and table.rows:
            self.table.show(table, shown.column, shown.is_descending)
        else:
            self.query_one("#empty", Static).update(Text(shown.empty))
        is_visible = {
            "#facts": about is not None, "#failed": failures is not None, "Tabs": choice.opened is None,
            "#table": bool(table and table.rows), "#empty": not (table and table.rows),
        }  # fmt: skip
        for selector, is_shown in is_visible.items():
            self.query_one(selector).display = is_shown
        last = self._history.last
        footer_for = choice.view, choice.opened, bool(choice.words), bool(last and last.workers)
        if footer_for != self._footer_for:
            self._footer_for = footer_for
            self.refresh_bindings()

    # --- keys ----------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action makes sense now; the footer shows these only."""
        choice, is_typing = self._choice, isinstance(self.focused, Input)
        if isinstance(self.screen, Question):
            return action in ("quit", "focus_next")
        if action in ("kill", "drain") and (is_typing or not self._source.takes_orders):
            return False
        if action == "kill":
            return choice.rows == "running"
        if action == "drain":
            is_listed = self._history.last is not None and bool(self._history.last.workers)
            return is_listed and (choice.rows == "workers" or choice.worker is not None)
        if action == "leave":
            return choice.opened is not None or bool(choice.words) or is_typing
        if action in ("view", "go"):
            return choice.opened is None and not is_typing
        return super().check_action(action, parameters)

    def action_view(self, step: int) -> None:
        self.action_go((VIEWS.index(self._choice.view) + step) % len(VIEWS))

    def action_go(self, place: int) -> None:
        self.query_one(Tabs).active = VIEWS[place]

    @on(Tabs.TabActivated)
    def _choose(self, event: Tabs.TabActivated) -> None:
        if event.tab.id in VIEWS and event.tab.id != self._choice.view:
            self._choice.view = event.tab.id
            self.show()

    def action_filter(self) -> None:
        self.query_one("#filter").display = True
        self.query_one("#filter").focus()

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        self._choice.words = event.value.strip()
        self.show()

    @on(Input.Submitted)
    def _end_typing(self) -> None:
        self.query_one("#filter").display = bool(self._choice.words)
        self.table.focus()
        self.refresh_bindings()

    def action_leave(self) -> None:
        """Leave what was entered last: the filter's line, the filter, the details."""
        if self._choice.words or not isinstance(self.focused, Input):
            self._choice.leave()
        self._clear_filter()

    def _clear_filter(self) -> None:
        self.query_one("#filter", Input).value = self._choice.words
        self._end_typing()
        self.show()

    def action_sort(self) -> None:
        self._choice.sort_next(len(self.table.columns))
        self.show()

    def action_reverse(self) -> None:
        self._choice.reverse()
        self.show()

    @on(DataTable.HeaderSelected, "#table")
    def _sort_by(self, event: DataTable.HeaderSelected) -> None:
        self._choice.sort_by(event.column_index)
        self.show()

    @on(DataTable.RowSelected, "#table")
    def _open(self) -> None:
        if self._choice.open(self._history.last, self.table.selected):
            self._clear_filter()

    # --- orders --------------------------------------------------------------------------------------

    def action_kill(self) -> None:
        last, key = self._history.last, self.table.selected
        job = next((job for job in last.running if tables.job_key(job) == key), None) if last else None
        if job is None:
            return
        name = f"{texts.plain(job.function)} #{job.number}"
        question = (
            f"Kill {name} of {texts.plain(job.client)}?\n\nIt has run for {texts.duration(job.seconds)} on "
            f"{texts.plain(job.host)}. Its future fails; it is not run again."
        )
        self._ask(
            question,
            "Kill it",
            partial(self._source.stop_job, job.session, job.number),
            f"asked to kill {name}",
        )

    def action_drain(self) -> None:
        last, key = self._history.last, self._choice.worker or self.table.selected
        worker = next((worker for worker in last.workers if worker.key == key), None) if last else None
        if worker is None:
            return
        name = texts.plain(tables.worker_name(worker.name))
        question = f"Drain the worker {name}?\n\nIt finishes what it runs, takes no more jobs, and ends."
        self._ask(question, "Drain it", partial(self._source.drain, worker.key), f"asked to drain {name}")

    def _ask(self, question: str, yes: str, order: Callable[[], None], noted: str) -> None:
        """Ask, and give the order if the answer is yes. `noted`: what the log says then."""

        def answer(is_yes: bool | None) -> None:
            if not is_yes:
                return
            event = Event(noted, "warn")
            try:
                order()
            except OSError as error:  # no master now, or no right to give orders
                event = Event(texts.plain(f"not {noted}: {error}"), "bad")
            self._note(event)
            self.notify(event.text, markup=False, severity="error" if event.mood == "bad" else "warning")
            self.show()

        self.push_screen(Question(question, yes), answer)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
