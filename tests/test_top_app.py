"""`cw top` with Textual's pilot: what is on the screen after keys. The cluster is the sample's."""

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest import mock

import pytest

pytest.importorskip("textual")

from snapshots import SESSIONS, WORKERS, sample
from textual.events import Resize
from textual.geometry import Size
from top_view import SampleSource

from cw.top import widgets
from cw.top.app import TopApp
from cw.top.source import Away, Batch
from cw.top.widgets import Question


@asynccontextmanager
async def shown(source, size=(80, 24), stale=600.0):
    """A `cw top`, and a function that presses keys and returns the lines of the screen. `stale`: age of a sample in
    seconds at which a line says so; more than a busy machine takes for a test."""
    app = TopApp(source)
    with mock.patch.object(widgets, "STALE", stale):
        async with app.run_test(size=size) as pilot:

            async def press(*keys):
                await pilot.press(*keys)
                await pilot.pause(0 if keys else None)
                lines = []
                while lines != (lines := screen(app)):  # on a busy machine a table may come in parts
                    await pilot.pause(0.01)
                return lines

            await pilot.pause()
            yield app, press


def screen(app):
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]


def top(test):
    """Run a test that is a coroutine."""

    def run():
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def has(lines, *words):
    return any(all(word in line for word in words) for line in lines)


@pytest.mark.slow
@top
async def test_the_views_fit_a_small_terminal():
    async with shown(SampleSource()) as (app, press):
        lines = await press()
        assert len(lines) == 24 and all(len(line) <= 80 for line in lines)
        assert has(lines, "login1:5494", "up 2 h 05 min")
        assert has(lines, "9 run, 1170 wait, 2130 done, 4 failed", "done in about 5 min 30 s")
        assert has(lines, "simulate", "66 %", "5 min 30 s", "1000", "2000")
        assert has(lines[-1:], "Filter", "Sort", "Quit") and not has(lines, "Kill job")
        for key, words in (
            ("2", ("node7:200", "drains")),
            ("3", ("simulate", "#17", "12 min 34 s")),
            ("4", ("30 s ago", "ValueError")),
            ("5", ("sim.py on login1", "all 12 slots are busy")),
            ("6", ("lost worker", "silent for 30 s")),
            ("7", ("connected to login1:5494",)),
        ):
            assert has(await press(key), *words), key
        assert has(await press("tab"), "Model.analyse")  # round to the first one
        assert has(await press("shift+tab"), "connected to")


@top
async def test_a_filter_is_typed_and_left():
    async with shown(SampleSource()) as (app, press):
        lines = await press("slash", *"fit")
        assert has(lines, "fit", "29 %") and not has(lines, "simulate")
        lines = await press("enter", "2")  # the keys are the table's again; the words stay
        assert has(lines, "no row has 'fit'")
        lines = await press("escape")
        assert has(lines, "node7:100") and not has(lines, "no row has")


@top
async def test_rows_are_sorted_by_a_column():
    async with shown(SampleSource()) as (app, press):

        def names():
            return [row.cells[0].text for row in app._choice.shown(app._history).table.rows]

        await press("s")
        assert names() == ["fit", "Model.analyse", "simulate"]
        assert has(await press("r"), "function▼")
        assert names() == ["simulate", "Model.analyse", "fit"]
        await press("s", "s")
        assert names() == ["Model.analyse", "simulate", "fit"]  # the least time left


@top
async def test_a_function_and_a_worker_are_looked_into():
    async with shown(SampleSource()) as (app, press):
        lines = await press("enter")
        assert has(lines, "duration", "median 2.2 s, 95 % within 4.5 s")
        assert has(lines, "#17", "12 min 34 s") and has(lines, "#16", "ValueError: no convergence")
        lines = await press("escape", "2", "down", "down", "enter")
        assert has(lines, "place", "Slurm job 4711, step 0, node node8") and has(lines, "#3", "fit.py")
        gone = replace(sample(), workers=sample().workers[:2])
        app._source.on_update(gone)
        assert has(await press(), "it has ended")
        assert has(await press("escape"), "node7:100")


@top
async def test_it_says_that_news_do_not_come():
    async with shown(SampleSource(), stale=0.0) as (_, press):
        assert any(re.search(r"no news for \d+ s: what follows is old", line) for line in await press("2"))
    async with shown(SampleSource()) as (_, press):
        assert not has(await press("2"), "no news")


@top
async def test_a_job_is_killed_after_a_question():
    source = SampleSource()
    async with shown(source) as (app, press):
        lines = await press("3")
        assert has(lines[-1:], "Kill job")
        lines = await press("k")
        assert has(lines, "Kill simulate #17 of sim.py on login1, pid 4711?")
        for no in ("n", "escape", "enter"):  # Enter: the first button is No
            await press(no)
            assert not isinstance(app.screen, Question) and source.orders == []
            await press("k")
        await press("y")
        assert source.orders == [("stop", SESSIONS[0], 17)]
        assert has(await press("7"), "asked to kill simulate #17")
        await press("1", "down", "down", "enter", "k", "y")  # the one running job of the last function
        assert source.orders[1:] == [("stop", SESSIONS[1], 3)]


@top
async def test_a_worker_is_drained_after_a_question():
    source = SampleSource()
    async with shown(source) as (app, press):
        assert has(await press("2", "d"), "Drain the worker node7:100?")
        await press("y")
        await press("down", "enter", "d", "y")
        assert source.orders == [("drain", WORKERS[0]), ("drain", WORKERS[1])]


@top
async def test_who_may_only_look_has_no_such_keys():
    source = SampleSource(takes_orders=False)
    async with shown(source) as (app, press):
        lines = await press("3", "k")
        assert has(lines, "read-only") and not has(lines, "Kill job")
        assert not isinstance(app.screen, Question)
        await press("2", "d", "enter", "d")
        assert not isinstance(app.screen, Question)
        app.action_drain()  # whatever calls it: the source refuses
        await press("y")
        assert source.orders == [] and has(await press("escape", "7"), "not asked to drain", "read-only")


@top
async def test_a_master_that_is_away_comes_back():
    source = SampleSource()
    async with shown(source) as (app, press):
        source.on_update(Away("no master answers at login1:5494: Connection refused"))
        lines = await press()
        assert has(
            lines, "no master answers at login1:5494: Connection refused; what follows is old"
        ) and has(lines, "simulate")
        source.on_update(sample())
        assert not has(await press(), "what follows is old")
        lines = await press("7")
        assert has(lines, "no master answers at login1") and has(lines, "the master is back")


@top
async def test_the_cursor_stays_on_its_row():
    source = SampleSource()
    async with shown(source) as (app, press):
        await press("down", "down")
        first, second, third = sample().functions
        source.on_update(replace(sample(), functions=(third, first, second)))
        await press()
        assert app.table.selected == f"{SESSIONS[1]}/fit" and app.table.cursor_row == 0
        source.on_update(replace(sample(), functions=(first,)))
        await press()
        assert app.table.selected == f"{SESSIONS[0]}/simulate"
        source.on_update(replace(sample(), functions=()))
        assert has(await press(), "no job yet")
        await press("enter", "k")  # nothing happens


@top
async def test_a_terminal_may_be_resized():
    async with shown(SampleSource(), size=(120, 40)) as (app, press):
        wide = await press()
        assert has(wide, "p95") and len(wide) == 40
        for size in ((80, 24), (40, 10), (200, 60)):
            app.post_message(Resize(Size(*size), Size(*size)))
            await press()
            lines = await press()
            assert len(lines) == size[1] and all(len(line) <= size[0] for line in lines)
            assert has(lines, "simulate")


BAD = "[red]x[/] [@click=app.quit]y[/] \x1b]0;title\x07\x1b[2J"


@top
async def test_names_and_errors_are_shown_as_they_are():
    """Markup in them is text, and what steers a terminal is not shown."""
    s = sample()
    source = SampleSource()
    async with shown(source, (160, 40)) as (app, press):
        bad = replace(
            s, where=BAD,
            functions=(replace(s.functions[0], name=BAD),),
            running=(replace(s.running[0], function=BAD, client=BAD),),
            failures=(replace(s.failures[0], first=BAD, last=BAD),),
            clients=(replace(s.clients[0], label=BAD, why_waiting=BAD),),
            workers=(replace(s.workers[0], name=BAD, key=WORKERS[0]),),
        )  # fmt: skip
        source.on_update(bad)
        source.on_update(Batch(((BAD, BAD),)))
        for keys in (
            "1",
            "2",
            "3",
            "4",
            "5",
            "6",
            "7",
            ("3", "k"),
            ("n", "4", "enter"),
            ("escape", "1", "enter"),
        ):
            lines = await press(*keys)
            assert all(line.isprintable() for line in lines), keys
            assert has(lines, "[red]x[/]"), keys


@top
async def test_control_c_ends_it():
    source = SampleSource(every=0.05)
    async with shown(source) as (app, press):
        await press("ctrl+c")
        assert app._exit
    assert source._end.is_set()
