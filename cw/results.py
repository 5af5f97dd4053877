"""`cw.results('sweep.cw')`: the results in a store, without a cluster; and `python -m cw.results sweep.cw`.

    results = cw.results('sweep.cw')
    for result in results:
        print(result.function, result.args, result.value)
    results.to_csv('sweep.csv')

`args`, `kwargs`, `value` and `error` are unpickled when they are used, nothing before. Unpickling runs code: open only
stores that you trust as you would a program.
"""

from __future__ import annotations

import collections
import csv
import datetime
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, overload

from cw import advice, html, program
from cw.errors import StoreError
from cw.events import EventLogger
from cw.net import messages as m
from cw.store import rows, table
from cw.store.format import Stored
from cw.store.reader import Store
from cw.store.result import Result
from cw.store.tidying import Tidied, tidy
from cw.store.verifying import Verified, verify

if TYPE_CHECKING:
    import argparse

logger = EventLogger("cw.store")

MOST_SHOWN = 50_000
"""Number of results up to which a notebook shows a summary. Larger: to show it takes more than a quarter of a second.
Smaller: summaries are missing."""

__all__ = ["Result", "Results", "Tidied", "Verified", "open_results"]


class Results:
    """Results in a store, the latest of each call. Iterated lazily, in the order in which they were stored.

    Damaged results are skipped, with a warning (to the logger 'cw.store').
    """

    def __init__(self, store: Store, is_wanted: Callable[[Stored], bool] | None = None) -> None:
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
                (self._is_wanted is None or self._is_wanted(stored))
                and function in (None, stored.function)
                and failed in (None, stored.status != m.DONE)
                and host in (None, stored.host)
                and first <= stored.when <= last
            )

        return Results(self._store, is_wanted)

    def __iter__(self) -> Iterator[Result]:
        for place in self._places():
            try:
                stored = self._store.read(place)
            except StoreError as error:
                logger.warning("store.result_damaged", "a result is passed over: %s", error)
                continue
            yield Result(stored)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        """Return a result, or a list of them, by position. Raises IndexError; StoreError if it is damaged."""
        found = list(self._places())[index]
        if isinstance(found, list):
            return [Result(self._store.read(place)) for place in found]
        return Result(self._store.read(found))

    def __len__(self) -> int:
        return sum(1 for _ in self._places())

    def _places(self) -> Iterator[int]:
        """Yield the place of each, without reading its arguments and result."""
        for place in self._store.places():
            if self._is_wanted is None or self._is_wanted(self._store.head(place)):
                yield place

    @property
    def path(self) -> str:
        """The directory of the store."""
        return self._store.path

    def with_key(self, key: str) -> list[Result]:
        """Return the results whose key, in hexadecimal digits, begins with this."""
        places = [
            place for place in self._places() if self._store.head(place).key.hex().startswith(key.lower())
        ]
        return [Result(self._store.read(place)) for place in places]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return, by function: numbers 'done' and 'failed', and the 'seconds' spent."""
        found: dict[str, dict[str, Any]] = collections.defaultdict(
            lambda: {"done": 0, "failed": 0, "seconds": 0.0}
        )
        for stored in map(self._store.head, self._places()):
            entry = found[stored.function]
            entry["done" if stored.status == m.DONE else "failed"] += 1
            entry["seconds"] += stored.seconds
        return dict(found)

    def tidy(self) -> Tidied:
        """Merge the store's files of results into few, and drop results that later ones of the same calls have
        superseded.

        Programs may use the store meanwhile, also on other machines. Files to which a program may still write are left
        alone: those without an end mark that were changed within 7 days. Raises StoreError; ValueError on a selection.
        """
        if self._is_wanted is not None:
            raise ValueError("tidy() is for a whole store: call it on cw.results(path), not on a selection")
        done = tidy(self.path)
        self._store.refresh()
        return done

    def verify(self) -> Verified:
        """Read the whole store, whatever is selected, and return what is damaged. Changes nothing. Raises
        StoreError."""
        return verify(self.path)

    def to_dataframe(self, whole: bool = False) -> Any:
        """Return a pandas DataFrame with a row for each result, and a column for each argument and each field.

        Arguments have the names of the function's parameters, if the program has a function of that name; otherwise
        'arg0', 'arg1' and so on. A result with fields (a dict, dataclass or named tuple) has the columns 'value.NAME'
        in place of 'value', and such an argument 'ARGUMENT.NAME'. With `whole`, the columns are those of a Result.

        Values that cannot be loaded, for example because a module is missing, are None, with a warning. Raises
        ModuleNotFoundError without pandas.
        """
        try:
            import pandas  # type: ignore[import-untyped,unused-ignore]
        except ModuleNotFoundError:
            raise ModuleNotFoundError("to_dataframe() needs pandas, which is not installed") from None
        with _Loading() as loading:
            if whole:
                return pandas.DataFrame(
                    [rows.row(each, loading.tried) for each in self], columns=rows.COLUMNS
                )
            columns, found = table.of_results(self, loading.tried)
            return pandas.DataFrame(found, columns=columns)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file with the columns of `to_dataframe()`, which needs no pandas. Raises OSError."""
        with _Loading() as loading:
            columns, found = table.of_results(self, loading.tried)
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([table.text(row.get(name)) for name in columns] for row in found)

    def _repr_html_(self) -> str | None:
        return html.shown(self._html)

    def _html(self) -> str:
        if len(self._store.index) > MOST_SHOWN:
            return html.fields(
                f"results of {self._store.path}",
                {"results": f"more than {MOST_SHOWN:,}: len() and summary() take a while"},
            )
        counted = [
            (name, f"{entry['done']:,}", f"{entry['failed']:,}", f"{entry['seconds']:,.1f}")
            for name, entry in sorted(self.summary().items())
        ]
        return html.table(
            f"results of {self._store.path}", ("function", "done", "failed", "seconds"), counted
        )

    def __repr__(self) -> str:
        return f"<results of {self._store.path}>"


class _Loading:
    """Loads values, and logs at the end of a `with` block how many could not be loaded."""

    def __init__(self) -> None:
        self._missing: list[Exception] = []

    def tried(self, load: Callable[[], Any]) -> Any:
        """Return a loaded value, or None."""
        try:
            return load()
        except Exception as error:
            if type(error) is not LookupError:  # (such arguments were too large to be stored)
                self._missing.append(error)
            return None

    def __enter__(self) -> _Loading:
        return self

    def __exit__(self, *_: object) -> None:
        missing = self._missing
        if missing:
            reported = program.count(
                len(missing),
                "value could not be loaded and is missing",
                "values could not be loaded and are missing",
            )
            cause = f"{type(missing[0]).__name__}: {missing[0]}"
            logger.warning("store.values_missing", "%s; the first cause is %s", reported, cause)


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
    form.add_argument(
        "--output",
        metavar="KEY",
        help="what the call with this key printed, on stdout and stderr (the beginning of the key is enough; --csv and "
        "--jsonl show keys)",
    )
    form.add_argument(
        "--tidy",
        action="store_true",
        help="merge the store's files into few, and drop results that later ones of the same calls have superseded. "
        "Programs may use the store meanwhile; files to which they may still write are left alone",
    )
    form.add_argument(
        "--verify",
        action="store_true",
        help="read the whole store, and say what is damaged, with exit status 1; nothing is changed",
    )
    parser.add_argument("--function", metavar="NAME", help="only results of this function")
    parser.add_argument("--host", metavar="HOST", help="only results from this host")
    when = program.converted_by(parse_when)
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
        if options.tidy or options.verify:
            return _look_after(options)
        results = open_results(options.store).filter(
            function=options.function,
            host=options.host,
            since=options.since,
            until=options.until,
            failed=True if options.failed else False if options.done else None,
        )
        if options.output is not None:
            _print_output(results, options.output)
        elif options.csv:
            _write_csv(results)
        elif options.jsonl:
            for result in results:
                print(json.dumps(rows.texts(result, rows.plain, None)))
        elif options.list:
            for result in results:
                print(rows.line(result))
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


def _look_after(options: argparse.Namespace) -> int:
    """Tidy or verify a store. Returns the exit status. Raises StoreError, OSError."""
    chosen = [
        name for name in ("function", "host", "since", "until", "failed", "done") if getattr(options, name)
    ]
    if chosen:
        action = "--tidy" if options.tidy else "--verify"
        raise program.UsageError(f"{action} is for a whole store: leave out --{chosen[0]}")
    if options.tidy:
        print(tidy(options.store), flush=True)
        return 0
    found = verify(options.store)
    print(found, flush=True)
    return 0 if found.is_intact else 1


def parse_when(text: str) -> datetime.datetime:
    """Return the time that a text of the command line names. Raises ValueError."""
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


def _print_output(results: Results, key: str) -> None:
    """Print what a call printed, each stream on the own one. `key`: the beginning of its key."""
    found = results.with_key(key)
    if len(found) != 1:
        what = "no result has" if not found else f"{len(found)} results have"
        raise program.UserError(
            f"{what} a key that begins with {key!r}: `{advice.command('results', results.path, '--jsonl')}` shows the "
            "keys"
        )
    stdout, stderr = found[0].stdout, found[0].stderr
    if stdout is None or stderr is None:
        raise program.UserError(
            f"what the call {found[0].key} printed was not kept: it is if the job fails, or has output='keep'"
        )
    sys.stdout.write(stdout)
    sys.stdout.flush()
    sys.stderr.write(stderr)


def _write_csv(results: Results) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.COLUMNS)
    for result in results:
        writer.writerow(rows.texts(result, rows.text, "").values())


if __name__ == "__main__":
    program.run("cw.results", main)
