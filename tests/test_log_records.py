"""The form in which records and warnings travel, and what becomes of them at home."""

import json
import logging
import threading
import warnings

import pytest

from cw.errors import PayloadError
from cw.net import messages as m
from cw.output.log_records import LeftOut, LogRecords
from cw.output.printer import Printer
from cw.output.sink import Sink
from cw.payloads import log_records
from cw.payloads.log_records import Warned, categories_of, dump_record, dump_warning, load

WHERE = {"cw_job": 17, "cw_function": "simulate", "cw_host": "node7", "cw_slot": 2}


def made(text, *args, name="sim", level=logging.INFO, exc_info=None, **extra):
    logger = logging.Logger(name)
    record = logger.makeRecord(name, level, "/x/sim.py", 7, text, args, exc_info, "step", extra)
    return record


def sent(record, taken=()):
    return dump_record(record, taken, WHERE) + b"\n"


@pytest.fixture
def heard():
    """A logger at home, and what its handler got."""
    logger, got = logging.getLogger("test.heard"), []
    handler = logging.Handler()
    handler.emit = got.append
    logger.addHandler(handler)
    yield logger, got
    logger.handlers.clear()
    logger.filters.clear()


def test_a_record_arrives_with_its_text_its_place_and_where_it_was_made(heard):
    logger, got = heard
    extra = {"user": "ann", "data": {"a": [1]}, "thing": object}
    LogRecords().take(sent(made("step %d of %s", 3, [1], name=logger.name, **extra)))
    record = got[0]
    assert (record.getMessage(), record.levelname) == ("step 3 of [1]", "INFO")
    assert (record.lineno, record.funcName) == (7, "step")
    assert (record.cw_job, record.cw_function, record.cw_host, record.cw_slot) == (17, "simulate", "node7", 2)
    assert (record.user, record.data, record.thing) == ("ann", {"a": [1]}, "<class 'object'>")
    assert record.processName == "node7/2"
    assert (
        logging.Formatter("%(module)s %(threadName)s: %(message)s").format(record)
        == "sim MainThread: step 3 of [1]"
    )


def test_a_text_with_percent_signs_is_not_formatted_again(heard):
    LogRecords().take(sent(made("100 %s %d", name=heard[0].name)))
    assert heard[1][0].getMessage() == "100 %s %d"


def test_an_error_arrives_as_the_text_of_its_traceback(heard):
    try:
        raise ValueError("too hot")
    except ValueError as error:
        info = type(error), error, error.__traceback__
    LogRecords().take(sent(made("failed", name=heard[0].name, exc_info=info)))
    shown = logging.Formatter("%(message)s").format(heard[1][0])
    assert shown.startswith("failed\nTraceback (most recent call last):\n") and shown.endswith(
        "ValueError: too hot"
    )


def test_a_record_of_a_job_within_a_job_keeps_the_inner_one(heard):
    LogRecords().take(sent(made("x", name=heard[0].name)))
    again = dump_record(heard[1][0], [], WHERE | {"cw_job": 1, "cw_host": "other"})
    LogRecords().take(again)
    assert [(each.cw_job, each.cw_host) for each in heard[1]] == [(17, "node7")] * 2


def test_a_name_of_a_level_is_the_one_here(heard):
    logging.addLevelName(15, "TRACE")
    try:
        LogRecords().take(sent(made("x", name=heard[0].name, level=15)).replace(b'"TRACE"', b'"Level 15"'))
    finally:
        del logging._levelToName[15], logging._nameToLevel["TRACE"]
    assert heard[1][0].levelname == "TRACE"


def test_long_texts_lose_their_middle():
    record = load(sent(made("a" * 100_000 + "z", extra_text="b" * 100_000))).attributes
    assert len(record["msg"]) < log_records.TEXT_CHARACTERS + 100 and record["msg"].endswith("z")
    assert "67233 characters left out" in record["msg"]
    assert len(record["extra_text"]) < log_records.EXTRA_CHARACTERS + 100
    many = load(sent(made("x", **{f"extra{index}": index for index in range(1000)}))).attributes
    assert len(many) < log_records.MOST_EXTRAS + 40


def test_handlers_that_had_the_record_in_the_job_do_not_get_it_again(heard, caplog):
    logger, got = heard
    home = LogRecords()
    home.take(sent(made("one", name=logger.name), ["test.heard"]))
    home.take(sent(made("two", name=logger.name), [""]))
    assert [each.getMessage() for each in got] == ["two"]
    assert [each.getMessage() for each in caplog.records] == ["one"]
    logger.addFilter(lambda record: False)
    home.take(sent(made("three", name=logger.name), [""]))
    logger.filters.clear()
    logger.disabled = True
    home.take(sent(made("four", name=logger.name), [""]))
    logger.disabled = False
    assert len(got) == 1


def test_what_a_handler_raises_is_shown_and_ends_nothing(heard, capsys):
    logger, got = heard
    home = LogRecords()

    def fail(record):
        raise SystemExit("no more")

    logger.addFilter(fail)
    for _ in range(10):
        home.take(sent(made("x", name=logger.name)))
    logger.filters.clear()
    home.take(sent(made("last", name=logger.name)))
    shown = capsys.readouterr().err
    assert shown.count("--- Logging error") == 5 and shown.count("SystemExit: no more") == 5
    assert [each.getMessage() for each in got] == ["last"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"7",
        b"[1,2,3]",
        b'[{"name":"x"},[]]',
        b'["a","b"]',
        b'["a",["b"],"c","d","e"]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_record_is_left_out(line):
    with pytest.raises(PayloadError):
        load(line)
    LogRecords().take(line + b"\n")


def test_that_records_are_left_out_is_said_now_and_then(caplog, monkeypatch):
    left_out, now = LeftOut(), [100.0]
    monkeypatch.setattr("cw.output.log_records.monotonic", lambda: now[0])
    left_out.note(7)
    left_out.note(8)
    left_out.note(1)
    now[0] = 106.0
    left_out.note(1)
    assert [each.event for each in caplog.records] == ["client.records_left_out"] * 2
    assert [each.args[0] for each in caplog.records] == [7, 10]


def test_a_session_counts_the_records_that_did_not_come(caplog):
    sink = Sink(Printer(), {}, {}, lambda number: None)
    sink.on_left_out(1, m.RECORDS, 7, 700)
    assert [(each.event, each.args[0]) for each in caplog.records] == [("client.records_left_out", 7)]


# --- warnings ---


class Odd(DeprecationWarning):
    def __init__(self, one, two):
        super().__init__(one, two)


class Mine(UserWarning):
    pass


def warned(text, category=UserWarning, line=3, file="/x/sim.py", module="sim"):
    return dump_warning(Warned(text, categories_of(category), file, line, module)) + b"\n"


def test_a_warning_is_issued_once_for_each_text_and_place():
    home = LogRecords()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            home.take(
                warned("hot") + warned("hot", line=4) + warned("cold") + warned("hot", file="/x/other.py")
            )
    assert [(str(each.message), each.filename, each.lineno) for each in seen] == [
        ("hot", "/x/sim.py", 3), ("hot", "/x/sim.py", 4), ("cold", "/x/sim.py", 3), ("hot", "/x/other.py", 3),
    ]  # fmt: skip


def test_the_filters_here_act():
    home = LogRecords()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "co", Mine)
        warnings.filterwarnings("ignore", module="quiet")
        home.take(
            warned("cold", Mine) + warned("hot", Mine) + warned("hot", Mine) + warned("hot", module="quiet")
        )
    assert [(str(each.message), each.category) for each in seen] == [("hot", Mine), ("hot", Mine)]


def test_a_category_that_is_not_here_becomes_the_nearest_one_that_is():
    class Local(Odd):
        pass

    home = LogRecords()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        home.take(warned("a", Odd) + warned("b", Local))
        gone = categories_of(Mine)
        home.take(dump_warning(Warned("c", ["gone.lib:Worse", "gone.lib:Bad", *gone[1:]], "f", 1, "")))
        home.take(dump_warning(Warned("d", ["os:path"], "f", 1, "")))
    assert [(str(each.message), each.category) for each in seen] == [
        ("Odd: a", DeprecationWarning),
        (
            "test_a_category_that_is_not_here_becomes_the_nearest_one_that_is.<locals>.Local: b",
            DeprecationWarning,
        ),
        ("Worse: c", UserWarning),
        ("d", UserWarning),
    ]


def test_a_warning_that_has_become_an_error_is_shown_as_one_of_the_thread(monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogRecords().take(warned("hot", Mine))
    assert type(shown[0].exc_value) is Mine and shown[0].thread is threading.current_thread()


def test_lines_are_json_so_that_nothing_is_unpickled():
    assert json.loads(warned("a\nb")) == ["a\nb", ["builtins:UserWarning"], "/x/sim.py", 3, "sim"]
    assert warned("a\nb").count(b"\n") == 1
