"""`cw top`: the cluster in a terminal, in a browser (`--web`), or once as text (`--once`)."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from cw import advice, program
from cw.net import address

RANGES = {"textual": ">=8,<9", "textual-serve": ">=1.1,<2", "aiohttp": ">=3.10,<4"}
"""Versions of the extras `top` and `web` that the tests have seen. setup.py has the same."""

WIDE = 160
"""Columns of `--once` where its output is no terminal and COLUMNS does not say how many there are."""


def main() -> int:
    """Run `cw top`; returns the exit status: 1 if no master answers, with `--once`."""
    options = _parse_arguments()
    if options.host:
        address.parse(options.host)
    if options.once:
        return _once(options)
    if options.web:
        return _web(options)
    _need("textual")
    if not (sys.stdin.isatty() and sys.stderr.isatty()) and "TEXTUAL_DRIVER" not in os.environ:
        raise program.UserError(f"this is no terminal: `{advice.command('top', '--once')}` prints the tables")
    from cw.top.app import TopApp
    from cw.top.live import LiveSource

    TopApp(LiveSource(options.host, takes_orders=not options.read_only)).run()
    return 0


def _parse_arguments() -> Any:
    parser = program.argument_parser(
        "cw top",
        "Shows a cluster: its functions, workers, running jobs and failures. Keys are in its last line.",
    )
    parser.add_argument(
        "host",
        nargs="?",
        metavar="HOST",
        help="HOST or HOST:PORT of the master (default: as programs find it)",
    )
    parser.add_argument("--once", action="store_true", help="print the tables once, and end")
    parser.add_argument("--read-only", action="store_true", help="no keys that kill jobs or drain workers")
    parser.add_argument(
        "--web", action="store_true", help="serve it to your browser, read-only, at a Unix socket in ~/.cw"
    )
    web = parser.add_argument_group("with --web")
    web.add_argument(
        "--port",
        type=program.converted_by(address.check_port),
        metavar="N",
        help="serve at this port of 127.0.0.1, at an address with a one-time token",
    )
    web.add_argument(
        "--control", action="store_true", help="also with the keys that kill jobs and drain workers"
    )
    web.add_argument(
        "--public-url",
        metavar="URL",
        help="the page's address where a proxy stands in front, as in JupyterHub",
    )
    options = parser.parse_args()
    if not options.web and (options.port is not None or options.control or options.public_url):
        raise program.UsageError("--port, --control and --public-url belong to --web")
    if options.web and options.once:
        raise program.UsageError("give either --web or --once")
    if options.public_url and options.port is None:
        raise program.UsageError("--public-url needs --port N, the port that the proxy connects to")
    return options


def _need(*packages: str) -> None:
    """Raise UserError, with what to type, if a package is not there."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        wanted = " ".join(f"'{name}{RANGES[name]}'" for name in packages)
        raise program.UserError(
            f"{missing[0]} is not installed: {sys.executable} -m pip install {wanted}"
            f" (`{advice.command('top', '--once')}` and `{advice.command('status')}` do without)"
        )


def _once(options: Any) -> int:
    from cw import overview
    from cw.errors import ConnectionError as NoMaster
    from cw.top import live, once

    try:
        snapshot = overview.status(options.host)
    except NoMaster as error:
        print(error, file=sys.stderr)
        return 1
    batch = live.batch_lines() if not options.host and live.is_in_batch() else ()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    print("\n".join(once.lines(snapshot, shutil.get_terminal_size((WIDE, 24)).columns, batch)))
    return 0


def _web(options: Any) -> int:
    _need("textual", "textual-serve", "aiohttp")
    from cw.web import places, server
    from cw.web.door import PARAMETER, Door

    host = [options.host] if options.host else []
    command = program.command("cw", "top", *host, *([] if options.control else ["--read-only"]))
    kind = "Views" if options.control else "Read-only views"
    what = f"{kind} of your cluster, for you alone, until Ctrl-C."
    if options.port is None:
        listener, path = places.at_socket()
        try:
            server.serve(
                server.Server(command, Door(has_token=False), ""),
                listener,
                lambda: print(what, places.how_to_reach(path), sep="\n", flush=True),
            )
        finally:
            os.unlink(path)
        return 0
    local = f"http://127.0.0.1:{options.port}/"
    public = places.check_public_url(options.public_url) if options.public_url else ""
    listener = places.at_port(options.port)
    print(what)

    def show(token: str) -> None:
        print(f"Open this address, which works once: {public or local}?{PARAMETER}={token}", flush=True)

    entrance = Door(True, public, show)
    server.serve(server.Server(command, entrance, f"cw_top_{options.port}"), listener, lambda: None)
    return 0
