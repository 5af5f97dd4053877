"""Levels of the client's loggers, in force in jobs: what travels, and what it changes there."""

import logging
import sys

import pytest

from cw.payloads import log_levels
from cw.payloads.log_levels import DISABLED, Watch, apply, take


@pytest.fixture
def named():
    """Loggers that are as they were made, and are so again at the end."""
    before = logging.root.handlers[:]
    logging.root.handlers.clear()
    apply({})
    yield logging.getLogger
    apply({})
    logging.disable(logging.NOTSET)
    logging.root.handlers[:] = before
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if name.startswith("levels") and isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
            logger.handlers.clear()
            logger.propagate, logger.disabled = True, False


def ours():
    return {name: row for name, row in take().items() if name.startswith("levels") or name == DISABLED}


def test_only_loggers_that_somebody_has_changed_travel(named):
    named("levels.a"), named("levels.b").setLevel(logging.DEBUG)
    named("levels.c").addHandler(logging.NullHandler())
    named("levels.d").propagate = False
    quiet = logging.StreamHandler()
    quiet.setLevel(logging.ERROR)
    named("levels.e").addHandler(quiet)
    named("levels.e").addHandler(logging.NullHandler())
    logging.disable(logging.INFO)
    assert ours() == {
        "levels.b": [10, True, False, None],
        "levels.d": [0, False, False, None],
        "levels.e": [0, True, False, 40],
        DISABLED: [20],
    }


def test_the_levels_are_in_force_and_go_again(named):
    apply({"levels.x": [10, False, False, None], "levels.y": [0, True, True, None], DISABLED: [5]})
    logger = named("levels.x")
    assert (logger.level, logger.propagate, named("levels.y").disabled) == (10, False, True)
    assert logger.isEnabledFor(10) and not named("levels.z").isEnabledFor(10)
    assert logging.root.manager.disable == 5
    apply({})
    assert (logger.level, logger.propagate, named("levels.y").disabled) == (0, True, False)
    assert logging.root.manager.disable == 0


def test_what_a_job_has_set_stays(named):
    apply({"levels.x": [10, True, False, None]})
    named("levels.x").setLevel(logging.ERROR)
    apply({"levels.x": [20, True, False, None]})
    assert named("levels.x").level == logging.ERROR
    named("levels.x").setLevel(20)
    apply({})
    assert named("levels.x").level == 0


def test_a_module_that_is_imported_does_not_undo_the_clients_levels(named, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.Logger, "setLevel", logging.Logger.setLevel)
    log_levels.keep_while_importing()
    (tmp_path / "sets_levels.py").write_text(
        "import logging\n"
        "logging.getLogger('levels.lib').setLevel(logging.ERROR)\n"
        "logging.getLogger('levels.other').setLevel(logging.ERROR)\n"
        "def later(): logging.getLogger('levels.lib').setLevel(logging.ERROR)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    apply({"levels.lib": [10, True, False, None]})
    import sets_levels

    del sys.modules["sets_levels"]
    assert (named("levels.lib").level, named("levels.other").level) == (logging.DEBUG, logging.ERROR)
    sets_levels.later()
    assert named("levels.lib").level == logging.ERROR


def test_a_client_in_a_job_passes_on_what_it_runs_under(named):
    apply({"levels.x": [10, True, False, 30]})
    assert ours() == {"levels.x": [10, True, False, 30]}
    own = logging.StreamHandler()
    own.setLevel(5)
    named("levels.x").addHandler(own)
    assert ours() == {"levels.x": [10, True, False, 5]}


def test_a_change_is_seen_at_the_next_look(named, monkeypatch):
    logging.root.handlers.clear()
    named("levels.new")
    watch = Watch()
    watch.look()
    monkeypatch.setattr(log_levels, "SHARE", 1e-9)  # no look but for a reason
    watch._due = float("inf")
    assert not watch.look()
    for change in (
        lambda: named("levels.x").setLevel(10),
        lambda: logging.root.addHandler(logging.StreamHandler()),
        lambda: logging.disable(10),
        lambda: named("levels.new").addHandler(logging.StreamHandler()),
    ):
        change()
        assert watch.look() and not watch.look()
    named("levels.new").handlers[0].setLevel(20)
    assert not watch.look()
    watch._due = 0.0
    assert watch.look() and watch.levels["levels.new"] == [0, True, False, 20]


def test_a_look_at_a_program_that_has_changed_nothing_is_quick(named):
    watch = Watch()
    watch.look()
    watch._due = float("inf")
    monkeyed, log_levels.take = log_levels.take, None  # it would fail
    try:
        assert not any(watch.look() for _ in range(100))
    finally:
        log_levels.take = monkeyed
