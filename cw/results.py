"""`cw.results('sweep.db')`: the results in a store, without a cluster; and `python -m cw.results sweep.db`.

    for result in cw.results('sweep.db'):
        print(result.function, result.args, result.value)

`args`, `kwargs`, `value` and `error` are unpickled when they are used, nothing before. Unpickling runs code: open only
stores that you trust as you would a program.
"""

from __future__ import annotations

import collections
import csv
import datetime
import io
import json
import math
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cw import program
from cw.errors import StoreError
from cw.events import EventLogger
from cw.net import messages as m
from cw.payloads import classes, serialize
from cw.store.format import Stored
from cw.store.reader import Store

if TYPE_CHECKING:
    import argparse

logger = EventLogger("cw.store")

LINE = 200
"""Maximum number of characters of arguments, and of a result, in a list."""

__all__ = ["Result", "Results", "open_results"]


class Result:
    """One result of a store, of the n-th call with its key."""

    __slots__ = ("_stored",)

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    @property
    def key(self) -> str:
        """Key of the call, in hexadecimal digits."""
        return self._stored.key.hex()

    @property
    def jobid(self) -> int:
        """Number of the job in the run that computed it."""
        return self._stored.number

    @property
    def function(self) -> str:
        """Name of the function."""
        return self._stored.function

    @property
    def failed(self) -> bool:
        """True if the call raised."""
        return self._stored.status != m.DONE

    @property
    def when(self) -> datetime.datetime:
        """Time at which the result was stored."""
        return datetime.datetime.fromtimestamp(self._stored.when, datetime.timezone.utc).astimezone()

    @property
    def seconds(self) -> float:
        """Time that the call ran (seconds)."""
        return self._stored.seconds

    @property
    def host(self) -> str:
        """Host on which it ran; '' if unknown."""
        return self._stored.host

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments. Raises LookupError if they were too large to be stored."""
        return self._call()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments. Raises LookupError as `args` does."""
        return self._call()[1]

    @property
    def value(self) -> Any:
        """Value that the call returned. Raises what the call raised."""
        classes.definitions.update(self._stored.definitions)
        if self.failed:
            raise serialize.load_error(self._stored.payload, f"job {self.jobid}, {self.function}()")
        return serialize.load_result(self._stored.payload)

    @property
    def error(self) -> BaseException | None:
        """Exception that the call raised, or None."""
        if not self.failed:
            return None
        classes.definitions.update(self._stored.definitions)
        return serialize.load_error(self._stored.payload, f"job {self.jobid}, {self.function}()")

    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._stored.args is None:
            raise LookupError("the arguments of this call were too large to be stored")
        classes.definitions.update(self._stored.definitions)
        return serialize.load_call(self._stored.args)

    def __repr__(self) -> str:
        state = "failed" if self.failed else "done"
        when = f"{self.when:%Y-%m-%d %H:%M:%S}"
        return f"<{self.function}() {state} in {self.seconds:.3g} s on {self.host or '?'}, {when}>"


class Results:
    """Results in a store, the latest of each call. Iterated lazily, in the order in which they were stored.

    Damaged results are skipped, with a warning (to the logger 'cw.store').
    """

    def __init__(self, store: Store, is_wanted: Callable[[Stored], bool] = lambda stored: True) -> None:
        self._store = store
        self._is_wanted = is_wanted

    def filter(
        self,
        function: str | None = None,
        failed: bool | None = None,
        host: str | None = None,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
    ) -> Results:
        """Select results by function (its name), failed or not, host and time. None: any."""
        for limit in (since, until):
            if limit is not None and not isinstance(limit, datetime.datetime):
                raise TypeError(f"since and until are times, datetime.datetime, not {limit!r}")
        first = since.timestamp() if since is not None else -float("inf")
        last = until.timestamp() if until is not None else float("inf")

        def is_wanted(stored: Stored) -> bool:
            return (
                self._is_wanted(stored)
                and function in (None, stored.function)
                and failed in (None, stored.status != m.DONE)
                and host in (None, stored.host)
                and first <= stored.when <= last
            )

        return Results(self._store, is_wanted)

    def __iter__(self) -> Iterator[Result]:
        for place in self._store.places():
            if self._is_wanted(self._store.head(place)):
                try:
                    stored = self._store.read(place)
                except StoreError as error:
                    logger.warning("store.result_damaged", "a result is passed over: %s", error)
                    continue
                yield Result(stored)

    def __len__(self) -> int:
        return sum(1 for _ in self._heads())

    def _heads(self) -> Iterator[Stored]:
        """Yield each without reading its arguments and result."""
        return filter(self._is_wanted, map(self._store.head, self._store.places()))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return, by function: numbers 'done' and 'failed', and the 'seconds' spent."""
        found: dict[str, dict[str, Any]] = collections.defaultdict(
            lambda: {"done": 0, "failed": 0, "seconds": 0.0}
        )
        for stored in self._heads():
            entry = found[stored.function]
            entry["done" if stored.status == m.DONE else "failed"] += 1
            entry["seconds"] += stored.seconds
        return dict(found)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row for each result. Values that cannot be loaded, for example because a
        module is missing, are None, with a warning. Raises ModuleNotFoundError without pandas."""
        try:
            import pandas  # type: ignore[import-untyped,unused-ignore]
        except ModuleNotFoundError:
            raise ModuleNotFoundError("to_dataframe() needs pandas, which is not installed") from None
        missing: list[Exception] = []

        def tried(load: Callable[[], Any]) -> Any:
            try:
                return load()
            except Exception as error:
                if type(error) is not LookupError:  # (such arguments were too large to be stored)
                    missing.append(error)
                return None

        frame = pandas.DataFrame((list(_row(result, tried).values()) for result in self), columns=_COLUMNS)
        if missing:
            reported = program.count(
                len(missing),
                "value could not be loaded and is missing",
                "values could not be loaded and are missing",
            )
            cause = f"{type(missing[0]).__name__}: {missing[0]}"
            logger.warning("store.values_missing", "%s; the first cause is %s", reported, cause)
        return frame

    def __repr__(self) -> str:
        return f"<results of {self._store.path}>"


_COLUMNS = [
    "key", "jobid", "function", "failed", "args", "kwargs", "value", "error", "when", "seconds", "host",
]  # fmt: skip


def _row(
    result: Result,
    tried: Callable[[Callable[[], Any]], Any],
    form: Callable[[Any], Any] = lambda value: value,
    error_form: Callable[[Any], Any] = lambda error: error,
    nothing: Any = None,
) -> dict[str, Any]:
    """Return a result's values by column, in these forms. `tried`: loads a value, or returns a substitute if that
    fails. `nothing`: the value of a call that failed, and the error of one that did not."""
    return {
        "key": result.key,
        "jobid": result.jobid,
        "function": result.function,
        "failed": result.failed,
        "args": tried(lambda: form(result.args)),
        "kwargs": tried(lambda: form(result.kwargs)),
        "value": nothing if result.failed else tried(lambda: form(result.value)),
        "error": tried(lambda: error_form(result.error)) if result.failed else nothing,
        "when": result.when,
        "seconds": result.seconds,
        "host": result.host,
    }


def open_results(path: str | os.PathLike[str]) -> Results:
    """Open a store to iterate, filter and summarise its results. Raises StoreError."""
    return Results(Store(path, is_writing=False))


class ResultsModule(types.ModuleType):
    """Type of this module, which makes `cw.results` callable."""

    def __call__(self, path: str | os.PathLike[str]) -> Results:
        return open_results(path)


sys.modules[__name__].__class__ = ResultsModule


# --- the program ------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = program.argument_parser(
        "cw.results",
        "Shows the results in a store: a summary, a list, or all of them as CSV or JSON lines. Arguments and results "
        "are unpickled, which can run code: open only stores that you trust. (--summary unpickles nothing.)",
    )
    parser.add_argument("store", help="directory of the store, as given to store=")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--summary", action="store_true", help="counts by function: done, failed, seconds (default)"
    )
    form.add_argument("--list", action="store_true", help="a line for each result")
    form.add_argument("--csv", action="store_true", help="all results as CSV")
    form.add_argument(
        "--jsonl", action="store_true", help="all results as JSON lines; values that JSON lacks become texts"
    )
    parser.add_argument("--function", metavar="NAME", help="only results of this function")
    parser.add_argument("--host", metavar="HOST", help="only results from this host")
    when = program.converted_by(_parse_when)
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=when,
        help="only results from this time on: 2026-01-31, or 2026-01-31T18:00",
    )
    parser.add_argument("--until", metavar="TIME", type=when, help="only results up to this time")
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--failed", action="store_true", help="only calls that raised")
    state.add_argument("--done", action="store_true", help="only calls that did not raise")
    return parser


def main() -> int:
    """Run `python -m cw.results`; returns the exit status."""
    options = _parser().parse_args()
    program.set_up_logging(options.verbose)
    if sys.stdout is None:
        raise program.UserError("the output cannot be written: there is none")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # characters without an encoding must not end the program
    try:
        results = open_results(options.store).filter(
            function=options.function,
            host=options.host,
            since=options.since,
            until=options.until,
            failed=True if options.failed else False if options.done else None,
        )
        if options.csv:
            _write_csv(results)
        elif options.jsonl:
            for result in results:
                print(json.dumps(_texts(result, _plain, None)))
        elif options.list:
            for result in results:
                print(_line(result))
        else:
            _print_summary(results)
        sys.stdout.flush()
    except StoreError as error:
        raise program.UserError(str(error)) from error
    except BrokenPipeError:  # such as `| head`, which has ended
        program.give_up_output()
    except OSError as error:
        program.give_up_output()
        raise program.UserError(f"the output cannot be written: {error.strerror}") from error
    return 0


def _parse_when(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(f"{text!r} is no time: give 2026-01-31, or 2026-01-31T18:00") from None


def _print_summary(results: Results) -> None:
    rows = [
        (name, f"{entry['done']:,}", f"{entry['failed']:,}", f"{entry['seconds']:,.1f}")
        for name, entry in sorted(results.summary().items())
    ]
    if not rows:
        print("no results")
        return
    width = max(len("function"), *(len(row[0]) for row in rows))
    for row in [("function", "done", "failed", "seconds"), *rows]:
        print(f"{row[0]:{width}}  {row[1]:>12}  {row[2]:>10}  {row[3]:>14}")


def _write_csv(results: Results) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results:
        writer.writerow(_texts(result, _text, "").values())


def _line(result: Result) -> str:
    row = _texts(result, _text, "")
    outcome = _in_line(row["error"] if result.failed else row["value"])
    state = "failed" if result.failed else "done"
    call = f"{result.function}({_in_line(_tried(lambda: _arguments(result)))})"
    return (
        f"{row['when'][:19]}  {state:6}  {result.seconds:9.3f} s  {result.host or '?'}  {call} -> {outcome}"
    )


def _arguments(result: Result) -> str:
    return ", ".join(
        [*map(repr, result.args), *(f"{name}={value!r}" for name, value in result.kwargs.items())]
    )


def _in_line(text: str) -> str:
    """Shorten a text for a line with others."""
    text = text.replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= LINE else f"{text[: LINE // 2]} ... {text[-LINE // 2 :]}"


def _texts(result: Result, form: Callable[[Any], Any], nothing: Any) -> dict[str, Any]:
    """Return a row with each value as text; a value that cannot be loaded here says why."""
    row = _row(result, _tried, form, _error_text, nothing)
    return row | {"when": result.when.isoformat(), "seconds": round(result.seconds, 6)}


def _tried(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        return f"({type(error).__name__}: {error})"


def _error_text(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _text(value: Any) -> str:
    value = _without_numpy(value)
    return value if isinstance(value, str) else repr(value)


def _plain(value: Any) -> Any:
    """Return a value that JSON can represent (tuples become lists); otherwise a text."""
    try:
        found = _jsonable(value)
        json.dumps(found)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return found


def _jsonable(value: Any) -> Any:
    """Return a value in JSON's types. Raises TypeError."""
    value = _without_numpy(value)
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if (
        value is None
        or isinstance(value, (bool, int, str))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError


def _without_numpy(value: Any) -> Any:
    """Return a numpy scalar as Python's own, a time as text."""
    names = {cls.__name__ for cls in type(value).__mro__ if cls.__module__ == "numpy"}
    if "generic" not in names:
        return value
    if names & {"datetime64", "timedelta64"}:
        return str(value)
    return (
        float(str(value)) if "floating" in names else value.item()
    )  # (float32: only the digits that it has)


if __name__ == "__main__":
    program.run("cw.results", main)
