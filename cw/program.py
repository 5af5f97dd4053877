"""Code that cw's programs share: `python -m cw.master`, `cw.worker`, `cw.mp`, and the commands of `cw`.

    main() of a program:
        parser = argument_parser("cw.master", "Carries jobs from clients to workers.")
        ...
        set_up_logging(options.verbose)
        ...
        raise UserError("port 5494 is taken: choose another with --port")

    if __name__ == "__main__":
        run("cw.master", main)

A program answers a user's mistake with one line that says what to do, never with a traceback.

This module imports only modules that every interpreter loads anyway. cw/__init__.py imports it first, when the current
directory may still be in `sys.path`; and users wait for start-up.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # As in typing, which must not be imported here; type checkers know the name.
if TYPE_CHECKING:
    import argparse
    import logging
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    class EventLoop(Protocol):
        """The part of cw.net.loop.Loop, which lies above, that a program's end needs."""

        def on_signal(self, number: int, handler: Callable[[], None]) -> None: ...

        def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None: ...


# Directory that contains the package: a child process must find this cw and no other.
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Code that a new process runs first. It loads the package from its own place. The parent directory (for example a clone
# with files of the user) comes last in sys.path: modules beside cw may be needed, and must not shadow others.
_PRELUDE = "; ".join(
    (
        "import sys",
        "sys.path[:1] = filter(None, sys.path[:1])",
        "from importlib import machinery, util",
        "parent = sys.argv.pop(1)",
        "sys.path += [] if parent in sys.path else [parent]",
        'spec = machinery.PathFinder.find_spec("cw", [parent])',
        'package = sys.modules["cw"] = util.module_from_spec(spec)',
        "spec.loader.exec_module(package)",
        "del machinery, util, parent, spec, package",
    )
)


def check_interpreter() -> None:
    """Raise ImportError in a free-threaded interpreter. (cw's threads rely on atomic operations.)"""
    if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
        raise ImportError(
            "cw needs Python's global interpreter lock, which is off in this free-threaded Python: set PYTHON_GIL=1 in "
            "the environment, or use the ordinary build of Python"
        )


class UserError(Exception):
    """A user's mistake. The text is one sentence that says what to do; a program prints it and ends."""

    exit_status = 1


class UsageError(UserError):
    """A mistake in the options that argparse cannot detect by itself."""

    exit_status = 2


def drop_cwd_from_path() -> None:
    """Remove the current directory from `sys.path` if this process was started as `python -m cw.…`.

    Otherwise a `signal.py` in it would be imported in place of the standard one. If cw itself is in it, the directory
    moves to the end. Does nothing in any other process: a user's program keeps its `sys.path`, even if it was started
    with -m.
    """
    # While `python -m` imports the parent package, argv[0] is '-m', and the last len(argv) original
    # arguments are the module's name and its own arguments.
    argv = getattr(sys, "argv", [])
    if argv[:1] != ["-m"] or getattr(sys.flags, "safe_path", False):
        return
    module = sys.orig_argv[-len(argv)].removeprefix("-m")
    if module.partition(".")[0] != "cw" or not sys.path:
        return
    try:
        here = os.getcwd()
    except OSError:  # The directory has been removed: then -m did not put it into the path.
        return
    if sys.path[0] == here:
        del sys.path[0]
        if here == _PACKAGE_PARENT and here not in sys.path:
            sys.path.append(here)


ahead: list[Callable[[], object]] = []
"""What loads the modules that a user's program will most likely need next. None of them raises an Exception."""


def load_ahead() -> None:
    """Load these modules once, in a time in which the program waits anyway."""
    loads = ahead[:]
    ahead.clear()
    for load in loads:
        load()


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line for `python -m MODULE ARGUMENTS`, a module of cw, as `python_command` starts it."""
    code = 'import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)'
    return python_command(code, module, *arguments)


def python_command(code: str, *arguments: object) -> list[str]:
    """Return the command line for a new process that runs `code` (one line) with `sys` imported and `sys.argv` set.

    The process finds this very cw, installed or not, and does not have the current directory in `sys.path`.
    (Environment variables would do that, too, but jobs would inherit them.)
    """
    if not sys.executable:
        raise UserError(
            "this Python does not know its own executable (sys.executable is empty): "
            "start cw.master and cw.worker by hand"
        )
    flags = [
        flag
        for flag, is_set in (
            ("-I", sys.flags.isolated),
            ("-E", sys.flags.ignore_environment),
            ("-s", sys.flags.no_user_site),
            # Needed from 3.13 on, which imports from '' to show the lines of -c in tracebacks.
            ("-P", sys.version_info >= (3, 11)),
        )
        if is_set
    ]
    return [sys.executable, *flags, "-c", f"{_PRELUDE}; {code}", _PACKAGE_PARENT, *map(str, arguments)]


_command = ""  # the command that the user typed, such as 'cw master'; '' in a program started as `python -m cw.master`


def argument_parser(program: str, description: str, **settings: Any) -> argparse.ArgumentParser:
    """Make an `argparse.ArgumentParser` with the options of all programs: `--version` and `-v`."""
    import argparse  # Takes 5 ms to load; only programs need it.

    from cw.version import VERSION

    class CommandParser(argparse.ArgumentParser):
        """Answers a mistake with one line; argparse itself prints the usage before it."""

        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message} (`{self.prog} --help` shows what there is)")

    # No abbreviations: `--li` must not find an option that only launchers use.
    parser = (CommandParser if _command else argparse.ArgumentParser)(
        prog=_command or f"python -m {program}", description=description, allow_abbrev=False, **settings
    )
    parser.add_argument("--version", action="version", version=f"cw {VERSION}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser


def add_launcher_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that only launchers use and `--help` does not show, each a number (mostly a descriptor's)."""
    import argparse

    for name in names:
        parser.add_argument(name, type=int, metavar="FD", help=argparse.SUPPRESS)


def converted_by(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a `type=` for argparse that shows the text of the ValueError that `function` raises."""
    import argparse

    def convert(text: str) -> Any:
        try:
            return function(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def count(number: int, one: str, many: str = "") -> str:
    """Return a text such as '1 job' or '2 jobs'. `many`: default is `one` with an s; both may contain more words."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def parse_seconds(text: str) -> float:
    """Parse a number of seconds, 0 or more. Raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:  # also true for 'nan'
        raise ValueError(f"{text!r} is no number of seconds: give 0 or more")
    return seconds


def parse_positive_seconds(text: str) -> float:
    """Parse a number of seconds above 0. Raises ValueError."""
    seconds = parse_seconds(text)
    if not seconds:
        raise ValueError(f"{text!r} is no time to wait: give more than 0 seconds")
    return seconds


class LogStream:
    """A log that never blocks its program: it drops text that a full pipe or a stopped terminal does not take.

    It reports the number of dropped bytes as soon as it can.
    """

    # Bytes that a ready pipe takes without blocking.
    CHUNK = 4096

    def __init__(self, fd: int) -> None:
        import select

        self._fd = fd
        self._left_out = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, text: str) -> None:
        """Write as much of the text as is taken now."""
        if self._left_out:
            text = f"[{self._left_out} bytes of this log left out: it did not take them in time]\n{text}"
        data = text.encode(errors="replace")
        try:
            while data and self._poll.poll(0):
                data = data[os.write(self._fd, data[: self.CHUNK]) :]
            self._left_out = self._left_out + len(data) if data else 0
        except OSError:  # a full disk, a reader that is gone
            self._left_out += len(data)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def set_up_logging(verbose: bool = False) -> None:
    """Log to stderr with time stamps; with `verbose`, also debug lines.

    With CW_LOG_EVENTS=1 in the environment, the id of its event stands at the end of each line.
    """
    import atexit
    import logging

    from cw import events

    logging.basicConfig(handlers=[_log_handler(2)])
    logging.getLogger("cw").setLevel(logging.DEBUG if verbose else logging.INFO)
    atexit.register(events.flush_repeated, is_end=True)
    # A full disk must not cause tracebacks in the log.
    logging.raiseExceptions = False


def log_to(fd: int, name: str) -> None:
    """Let the lines of the logger of this name, which go to stderr, go to this descriptor instead."""
    import logging

    logger = logging.getLogger(name)
    logger.addHandler(_log_handler(fd))
    logger.propagate = False


def _log_handler(fd: int) -> logging.Handler:
    import logging

    line = "%(asctime)s %(name)s %(levelname)s: %(message)s"
    if os.environ.get("CW_LOG_EVENTS") == "1":
        line += " [%(event)s]"
    handler = logging.StreamHandler(LogStream(fd))
    handler.setFormatter(logging.Formatter(line, defaults={"event": "-"}))  # of another library
    return handler


def run(program: str, main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and end the process with its exit status (None: 0), or with one line for a `UserError`."""
    try:
        status = main()
    except UserError as mistake:
        print(f"{program}: {mistake}", file=sys.stderr)
        status = mistake.exit_status
    except KeyboardInterrupt:
        status = 130  # As shells report a program that Ctrl-C ended.
    except BrokenPipeError:  # the reader of its output has ended
        give_up_output()
        status = 141
    sys.exit(status)


def run_command(command: str, main: Callable[[], int | None], arguments: list[str]) -> NoReturn:
    """Run a program's `main` as the command that the user typed, such as 'cw master', and end the process with it."""
    global _command
    _command = command
    sys.argv = [command, *arguments]
    run(command, main)


def give_up_output() -> None:
    """Discard further output to stdout, which has no reader. (Python would write once more at its end.)"""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def collect_rarely() -> None:
    """Let Python look for cycles of garbage seldom, in a process that keeps many objects and makes few cycles.

    By default it looks after each 700 new objects, and walks all jobs and peers again and again.
    """
    import gc

    collect_from_now_on()
    gc.set_threshold(20_000, 20, 20)


def collect_from_now_on() -> None:
    """Let Python look for garbage only among what is made from now on, not in what has been imported.

    In a process that was forked, the first look would take 8 ms, and memory for a copy of what it visits.
    """
    import gc

    gc.freeze()
    gc.enable()


def allow_many_descriptors() -> tuple[int, int]:
    """Raise the limit of descriptors to its maximum; the usual 1024 is for programs that use select(). Returns the
    former limits, for child processes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[0] != before[1]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def end_with(loop: EventLoop, lifeline_fd: int | None, leave: Callable[[], None]) -> None:
    """Call `leave()` in the loop on SIGINT and SIGTERM, and when the launcher at the lifeline has gone."""
    import signal

    loop.on_signal(signal.SIGINT, leave)
    loop.on_signal(signal.SIGTERM, leave)
    watch_lifeline(loop, lifeline_fd, leave)


def watch_lifeline(loop: EventLoop, lifeline_fd: int | None, leave: Callable[[], None]) -> None:
    """Call `leave()` in the loop when the launcher at the lifeline has gone."""
    import select

    if lifeline_fd is not None:

        def cut(events: int) -> None:
            loop.watch(lifeline_fd, 0, cut)
            leave()

        os.set_inheritable(lifeline_fd, False)
        loop.watch(lifeline_fd, select.EPOLLIN, cut)


def report_ready(ready_fd: int) -> None:
    """Notify the launcher that this program is ready."""
    import contextlib

    with contextlib.suppress(OSError):  # The launcher does not wait.
        os.write(ready_fd, b"ready\n")
    os.close(ready_fd)


def ready_reporter(ready_fd: int) -> Callable[[], None]:
    """Return a function that does so when it is first called. (Later, the descriptor is another.)"""
    unreported = [ready_fd]

    def report() -> None:
        if unreported:
            report_ready(unreported.pop())

    return report
