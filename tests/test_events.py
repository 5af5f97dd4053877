"""The log: events with ids, and lines that may repeat."""

import logging
from pathlib import Path

import pytest

from cw.events import EventLogger, RateLimited


@pytest.mark.parametrize("kind", [EventLogger, RateLimited])
def test_a_record_has_the_id_of_its_event_and_is_otherwise_as_with_logging(kind, caplog):
    caplog.set_level(logging.DEBUG, "cw.test")
    logger = kind("cw.test")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(f"test.{level}", "%s is lost (%d jobs)", "a worker", 3)
    assert [record.event for record in caplog.records] == [
        "test.debug", "test.info", "test.warning", "test.error", "test.critical"
    ]  # fmt: skip
    assert [record.levelno for record in caplog.records] == [10, 20, 30, 40, 50]
    assert {record.getMessage() for record in caplog.records} == {"a worker is lost (3 jobs)"}
    assert {record.name for record in caplog.records} == {"cw.test"}
    assert {Path(record.pathname).name for record in caplog.records} == {Path(__file__).name}


def test_levels_are_those_of_the_users_logger(caplog):
    caplog.set_level(logging.WARNING, "cw.test")
    logger = EventLogger("cw.test")
    logger.info("test.joined", "joined")
    logger.warning("test.lost", "lost")
    assert [record.event for record in caplog.records] == ["test.lost"]


def test_an_exception_is_logged_with_its_traceback(caplog):
    try:
        raise ZeroDivisionError("a slip")
    except ZeroDivisionError:
        EventLogger("cw.test").error("test.failed", "the check failed", exc_info=True)
    assert caplog.records[0].exc_info[0] is ZeroDivisionError
    assert "a slip" in caplog.text


# --- logs that repeat -----------------------------------------------------------------------


@pytest.fixture
def limited(caplog):
    """(a RateLimited on a clock that stands, the clock, the texts logged so far)."""
    caplog.set_level(logging.INFO, "cw.test")
    clock = [100.0]
    return RateLimited("cw.test", 1.0, lambda: clock[0]), clock, caplog


def test_a_message_that_repeats_is_logged_once_an_interval_with_a_count(limited):
    logger, clock, log = limited
    for number in range(5):
        logger.warning("test.refused", "refused %s", number)
    clock[0] += 0.9
    logger.warning("test.refused", "refused %s", 5)
    assert log.messages == ["refused 0"]
    clock[0] += 0.2
    logger.warning("test.refused", "refused %s", 6)
    clock[0] += 2
    logger.warning("test.refused", "refused %s", 7)
    assert log.messages == ["refused 0", "refused 6 (and 5 more like it)", "refused 7"]
    assert {record.levelname for record in log.records} == {"WARNING"}


def test_what_was_left_out_is_counted_though_nothing_follows(limited):
    logger, clock, log = limited
    for number in range(5):
        logger.warning("test.lost", "%s is lost", number)
    logger.flush()
    assert log.messages == ["0 is lost"]
    clock[0] += 1.1
    logger.flush()
    logger.flush()
    assert log.messages == ["0 is lost", "4 is lost (and 3 more like it)"]
    logger.warning("test.lost", "%s is lost", 5)
    logger.warning("test.lost", "%s is lost", 6)
    logger.flush(is_end=True)
    assert log.messages[2:] == ["6 is lost (and 1 more like it)"]


def test_a_few_at_once_are_all_logged_where_that_is_wanted(caplog):
    caplog.set_level(logging.INFO, "cw.test")
    logger = RateLimited("cw.test", burst=3, clock=lambda: 100.0)
    for number in range(9000):
        logger.info("test.left", "worker %s left", number)
    logger.flush(is_end=True)
    assert caplog.messages == [
        "worker 0 left", "worker 1 left", "worker 2 left", "worker 8999 left (and 8996 more like it)",
    ]  # fmt: skip


def test_a_flood_that_goes_on_is_one_line_an_interval(caplog):
    caplog.set_level(logging.INFO, "cw.test")
    clock = [100.0]
    logger = RateLimited("cw.test", 1.0, lambda: clock[0], burst=3)
    for number in range(1000):
        clock[0] += 0.01
        logger.info("test.left", "worker %s left", number)
    assert 3 + 9 <= len(caplog.messages) <= 3 + 10


def test_with_v_nothing_is_left_out(caplog):
    caplog.set_level(logging.DEBUG, "cw.test")
    logger = RateLimited("cw.test", clock=lambda: 100.0)
    for number in range(3):
        logger.info("test.left", "worker %s left", number)
    assert caplog.messages == ["worker 0 left", "worker 1 left", "worker 2 left"]


def test_different_events_do_not_hold_each_other_up(limited):
    logger, _, log = limited
    logger.warning("test.one", "it failed")
    logger.info("test.other", "it failed")  # of the same text
    assert [record.event for record in log.records] == ["test.one", "test.other"]
