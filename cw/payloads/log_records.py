"""The form in which log records and warnings of jobs travel: each is a line of JSON, and nothing is unpickled.

    runner:  dump_record(record, taken), dump_warning(...) --- a line --->  client:  load() --> Record or Warned

A record travels with its text made (its arguments may be anything), and with the traceback as text, as
`logging.handlers.QueueHandler` has it. What is longer than the bounds below loses its middle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from cw.errors import PayloadError
from cw.named_tuple import NamedTuple
from cw.payloads.warning_filters import name_of

TEXT_CHARACTERS = 32 * 1024
"""Most characters of a message, and of a traceback. More: one record takes the room of many."""

EXTRA_CHARACTERS = 4 * 1024
MOST_EXTRAS = 64
"""Most characters of an attribute that `extra=` gives a record, and most such attributes."""

_PLAIN = frozenset({int, float, bool, type(None)})

_encode = json.JSONEncoder(separators=(",", ":")).encode

_STANDARD = frozenset({
    "name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName", "created", "msecs",
    "relativeCreated", "thread", "threadName", "process", "processName", "taskName", "stack_info",
})  # fmt: skip
"""Attributes of a record that travel as they are."""

_MADE = frozenset({"msg", "args", "message", "asctime", "exc_info", "exc_text"})
"""Attributes that travel in another form, or are made by handlers."""


class Record(NamedTuple):
    """A log record, as it arrives."""

    attributes: dict[str, Any]
    """What `logging.makeLogRecord` takes."""
    taken: list[str]
    """Loggers whose handlers in the job's process have had it: those here must not."""


class Warned(NamedTuple):
    """A warning, as it arrives."""

    text: str
    categories: list[str]
    """Its class and those that this is derived from, by name, the nearest first; the last one is built in."""
    file: str
    line: int
    module: str


def dump_record(record: logging.LogRecord, taken: Sequence[str], where: dict[str, Any]) -> bytes:
    """Encode a record. `where`: attributes that say where it was made, unless it has them already.

    Raises whatever making its text raises.
    """
    attributes: dict[str, Any] = dict(where)
    extras = 0
    for name, value in record.__dict__.copy().items():
        if name in _STANDARD:
            attributes[name] = _plain(value, TEXT_CHARACTERS)
        elif name not in _MADE and type(name) is str and (extras := extras + 1) <= MOST_EXTRAS:
            attributes[name] = _plain(value)
    if attributes.get("processName") in (None, "MainProcess"):
        attributes["processName"] = f"{attributes.get('cw_host')}/{attributes.get('cw_slot')}"
    attributes["msg"] = shortened(record.getMessage())
    text = record.exc_text
    if record.exc_info and not text:
        text = logging.Formatter().formatException(record.exc_info)
    attributes["exc_text"] = shortened(text) if text else None
    return _line([attributes, list(taken)])


def dump_warning(warning: Warned) -> bytes:
    """Encode a warning."""
    return _line(list(warning._replace(text=shortened(warning.text))))


def categories_of(category: type) -> list[str]:
    """Return the names of a category and of those that it is derived from, up to the first that is built in."""
    names: list[str] = []
    for each in category.__mro__:
        names.append(name_of(each))
        if each.__module__ == "builtins":
            break
    return names


def load(line: bytes) -> Record | Warned:
    """Decode what `dump_record` or `dump_warning` made. Raises PayloadError."""
    try:
        fields = json.loads(line)
        if len(fields) == 2:
            record = Record(*fields)
            if type(record.attributes) is dict and type(record.taken) is list:
                int(record.attributes["levelno"]), str(record.attributes["name"])
                return record
        warned = Warned(*fields)
        if [type(each) for each in warned] == [str, list, str, int, str]:
            return warned
        raise ValueError("fields of other types")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PayloadError(f"a job's log record cannot be read: {error}") from None


def shortened(text: str, most: int = TEXT_CHARACTERS) -> str:
    """Return a text without its middle, if it is long, and with a line there that says so."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _plain(value: Any, most: int = EXTRA_CHARACTERS) -> Any:
    """Return a value that JSON has: the same one if that is possible, otherwise its `repr`."""
    kind = type(value)
    if kind is str:
        return shortened(value, most)
    if kind in _PLAIN:
        return value
    try:
        if kind in (list, tuple, dict) and len(_encode(value)) <= most:
            return value
        text = repr(value)
    except Exception:
        text = f"<{kind.__name__}>"
    return shortened(text, most)


def _line(fields: list[Any]) -> bytes:
    return _encode(fields).encode()
