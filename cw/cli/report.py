"""`cw report STORE -o run.html`: a page about what a store has."""

from __future__ import annotations

import os

from cw import program, results
from cw.errors import StoreError
from cw.report import of_store, reader


def main() -> int:
    """Run `cw report`; returns the exit status."""
    parser = program.argument_parser(
        "cw report",
        "Writes a page about the results in a store, one HTML file: calls by time, busy slots, durations, hosts, the "
        "slowest calls and those that failed. It needs matplotlib. Arguments and errors of the calls that it names are "
        "unpickled, which can run code: open only stores that you trust, or give --no-arguments.",
    )
    parser.add_argument("store", help="directory of the store, as given to store=")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the file to write (default: the store's name with .html)"
    )
    parser.add_argument("--function", metavar="NAME", help="only calls of this function")
    when = program.converted_by(results.parse_when)
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=when,
        help="only results from this time on: 2026-01-31, or 2026-01-31T18:00",
    )
    parser.add_argument("--until", metavar="TIME", type=when, help="only results up to this time")
    parser.add_argument(
        "--no-arguments",
        action="store_true",
        help="leave out arguments and errors: nothing is unpickled, and the page tells less to others",
    )
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    output = options.output or os.path.splitext(os.path.basename(os.path.abspath(options.store)))[0] + ".html"
    choice = reader.Choice(options.function, options.since, options.until, not options.no_arguments)
    try:
        text = of_store.page_of(options.store, choice)
    except (StoreError, ModuleNotFoundError) as error:
        raise program.UserError(str(error)) from error
    try:
        with open(output, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise program.UserError(f"{output} cannot be written: {error.strerror}") from error
    print(f"{output} ({program.count(len(text) // 1024, 'KiB', 'KiB')}): open it in a browser")
    return 0
