"""`cw runs`: the runs that go on without their scripts, by name; whole scripts (`cw run`) among them.

list, status    which there are, and how far one is           (--json: an object a line)
wait            until one is over: its exit status says how it ended
output          what its jobs have printed; -f: as it comes
cancel, forget  end one; remove what is noted of it, but not its results
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from cw import advice, program
from cw.client.maps.progress import Counts, Progress
from cw.detached import scripts
from cw.detached.scripts import LATE
from cw.errors import DetachError
from cw.observer.text import seconds
from cw.output.printer import Piece, printer
from cw.runs import finding, names
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, Description, RunFolder, RunState
from cw.runs.names import RunError
from cw.runs.onlooker import Onlooker, is_owned
from cw.runs.output import OutputReader
from cw.runs.starting import start_steward
from cw.runs.under_way import POLL_SECONDS
from cw.scripts.status import is_script, look

if TYPE_CHECKING:
    import argparse

FAILED = 1
"""Exit status of `cw runs wait`: some calls failed, or the run was cancelled."""

CANCEL_SECONDS = 15.0
"""Longest wait for the end of a run that is cancelled (seconds)."""

SILENT_SECONDS = 30.0
"""Silence of a run's owner from which `cw runs list` mentions it (seconds)."""


def main() -> int:
    """Run `cw runs`; returns the exit status."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    try:
        if options.verb in (None, "list"):
            return _list(getattr(options, "json", False))
        folder = finding.find(options.run)
        if is_script(folder.path):
            return _VERBS_OF_SCRIPTS[options.verb](folder.path, options)
        return _VERBS[options.verb](folder, options)
    except DetachError as error:
        raise program.UserError(str(error)) from error


def _parse_arguments() -> argparse.Namespace:
    parser = program.argument_parser(
        "cw runs", "Shows runs that go on without their scripts, and what may be done about them."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    json_lines = "print JSON lines: an object for each run"
    verbs.add_parser("list", help="the runs that there are (default)").add_argument(
        "--json", action="store_true", help=json_lines
    )

    def add(verb: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(verb, help=text, description=text[0].upper() + text[1:] + ".")
        made.add_argument("run", metavar="NAME", help="name of the run, or directory of its store")
        return made

    add("status", "how far a run is, who has it, and how to come back").add_argument(
        "--json", action="store_true", help=json_lines
    )
    add(
        "wait",
        "wait until a run is over; the exit status is 0 if no call failed, 1 if some failed or the run was cancelled, "
        "3 if the time was over before; that of a whole script is the script's",
    ).add_argument(
        "--timeout",
        metavar="SECONDS",
        type=program.converted_by(program.parse_seconds),
        help="longest wait (default: any time)",
    )
    add("output", "what the jobs of a run have printed").add_argument(
        "-f", "--follow", action="store_true", help="and what they print from now on, until the run is over"
    )
    add("cancel", "cancel a run: what waits is dropped, what runs is stopped; results stay in the store")
    add("forget", "remove what is noted of a run that is over; its results stay in the store")
    return parser.parse_args()


# --- list, status -----------------------------------------------------------------------------


def _list(is_json: bool) -> int:
    found: list[tuple[str, ...]] = []
    for name, path in names.folders().items():
        folder = RunFolder(path)
        try:
            if is_script(path):
                script = look(path)
                if is_json:
                    print(scripts.to_json(script))
                found.append(scripts.line(script))
                continue
            description, state = folder.description(), folder.state()
        except (DetachError, RunError) as error:
            if is_json:
                print(json.dumps({"kind": "run", "name": name, "folder": path, "damage": str(error)}))
            else:
                found.append((name, "damaged or gone", "", "", "", "", "", path))
            continue
        if is_json:
            print(json.dumps(_as_json(description, state, path)))
        else:
            found.append(_row(name, description, state))
    if not is_json:
        head = ("run", "state", "done", "failed", "running", "waiting", "begun", "store or script")
        print("\n".join(_table(head, found)) if found else "no runs")
    return 0


def _row(name: str, description: Description, state: RunState) -> tuple[str, ...]:
    counts = (f"{number:,}" for number in (state.failed, state.running, state.waiting))
    silence = time.time() - state.written
    shown = state.phase
    if not state.is_over and silence > SILENT_SECONDS:
        shown += f", silent for {seconds(silence)}"
    age = seconds(max(0.0, time.time() - description.created)) + " ago"
    return name, shown, f"{state.done:,} of {state.calls:,}", *counts, age, description.store


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    """Return the lines of a table. Texts are on the left, numbers on the right."""
    cells = [head, *rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    for row in cells:
        yield "  ".join(
            text.rjust(width) if 2 <= place <= 5 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _as_json(description: Description, state: RunState, path: str) -> dict[str, Any]:
    return {
        "kind": "run", "name": description.name, "phase": state.phase, "store": description.store, "folder": path,
        "calls": state.calls, "done": state.done, "failed": state.failed, "running": state.running,
        "waiting": state.waiting, "seconds_left": _left(description, state), "host": state.host, "pid": state.pid,
        "created": description.created, "written": state.written, "argv": description.argv, "text": state.text,
    }  # fmt: skip


def _left(description: Description, state: RunState) -> float | None:
    """Return the estimated time until the end (seconds); None: it is not known."""
    ended, lasted = state.done + state.failed, state.written - description.created
    if state.is_over or not ended or lasted <= 0:
        return None
    return (state.calls - ended) * lasted / ended


def _status(folder: RunFolder, options: Any) -> int:
    description, state = folder.description(), folder.state()
    if options.json:
        print(json.dumps(_as_json(description, state, folder.path)))
        return 0
    name = description.name
    print(f"run: {name}, of the store {description.store}")
    print(f"state: {state.phase}{_owner(folder, state)}")
    if state.text:
        print(f"       {state.text}")
    print(f"calls: {state.done:,} of {state.calls:,} done, {state.failed:,} failed, {state.running:,} running, "
          f"{state.waiting:,} waiting")  # fmt: skip
    begun = datetime.datetime.fromtimestamp(description.created).astimezone()
    ago = seconds(max(0.0, time.time() - description.created))
    print(
        f"begun: {begun:%Y-%m-%d %H:%M:%S}, {ago} ago, on {description.host}: {shlex.join(description.argv)}"
    )
    left = _left(description, state)
    if left is not None:
        print(f"left: about {seconds(left)}")
    for line in _ways_back(folder, description, state):
        print(line)
    return 0


def _owner(folder: RunFolder, state: RunState) -> str:
    """Say who has a run; if it has lost its steward, another one is started."""
    if state.is_over:
        return ""
    owner = finding.owner_of(state)
    if is_owned(folder):
        return f" ({owner}), last sign of life {seconds(float(max(0, int(time.time() - state.written))))} ago"
    if state.phase == SCRIPT:
        return f", which has ended ({owner}): nothing of the run goes on. Run the script again"
    try:
        start_steward(folder)
    except (DetachError, OSError) as error:
        return f", which has died ({owner}); another one cannot be started: {error}"
    return f", which has died ({owner}): another one is started"


def _ways_back(folder: RunFolder, description: Description, state: RunState) -> Iterable[str]:
    if not state.is_over:
        yield (f"come back: the same script again; in a program, cw.attach({description.name!r}); "
               f"`{names.command('wait', description.name)}`")  # fmt: skip
        return
    store = description.store
    yield f"its results: `{advice.command('results', store)}`; in a program, cw.results({store!r})"
    yield f"`{names.command('forget', description.name)}` removes what is noted of it, and keeps the results"


# --- wait, output, cancel, forget -------------------------------------------------------------


def _wait(folder: RunFolder, options: Any) -> int:
    end = None if options.timeout is None else time.monotonic() + options.timeout
    onlooker = Onlooker(folder, start_steward)
    folder.description()  # raises if it is not there
    onlooker.look()

    def counts() -> Counts:
        now = onlooker.state
        return Counts(now.calls, now.done + now.failed, now.failed, now.running, 0)

    has_bar = importlib.util.find_spec("tqdm") is not None
    with Progress(counts, True) if has_bar and not onlooker.is_over else nullcontext():
        if not _look_until_over(onlooker, end):
            return LATE
    state = onlooker.state
    print(_sentence(folder.name, state))
    return 0 if state.phase == ENDED and not state.failed else FAILED


def _look_until_over(
    onlooker: Onlooker, end: float | None, meanwhile: Callable[[], None] = lambda: None
) -> bool:
    """Wait for the end of a run. False: `end`, a time of the monotonic clock, has come before."""
    while not onlooker.is_over:
        left = POLL_SECONDS if end is None else end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, POLL_SECONDS))
        onlooker.look()
        meanwhile()
    return True


def _sentence(name: str, state: RunState) -> str:
    """Describe in one line how a run has ended."""
    calls = f"{state.calls:,} {'call' if state.calls == 1 else 'calls'}"
    counts = f"{state.done:,} of {calls} done, {state.failed:,} failed"
    if state.phase == ENDED:
        return f"the run {name} has ended: {counts}"
    if state.phase == CANCELLED:
        return f"the run {name} was cancelled: {counts}; the results are in the store"
    return f"the run {name} is over: it was forgotten, or its script has ended without handing it over"


def _output(folder: RunFolder, options: Any) -> int:
    folder.description()  # raises if it is not there
    former = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # such as `| head`, which has ended
    try:
        _copy_output(folder, options.follow)
    finally:
        signal.signal(signal.SIGPIPE, former)
    return 0


def _copy_output(folder: RunFolder, follows: bool) -> None:
    reader = OutputReader(folder)

    def copy() -> None:
        for printed in reader.read():
            printer.put(Piece(printed.stream, printed.data, printed.label))
            printer.settle()

    onlooker = Onlooker(folder, start_steward)
    onlooker.look()
    copy()
    if follows:
        _look_until_over(onlooker, None, copy)
        copy()
    printer.drain(CANCEL_SECONDS)
    sys.stdout.flush()


def _cancel(folder: RunFolder, options: Any) -> int:
    finding.cancel(folder)
    onlooker = Onlooker(folder, start_steward)
    onlooker.look()
    if not _look_until_over(onlooker, time.monotonic() + CANCEL_SECONDS):
        print(
            f"the run {folder.name} is being cancelled: `{names.command('status', folder.name)}` says how far it is"
        )
        return 0
    print(_sentence(folder.name, onlooker.state))
    return 0


def _forget(folder: RunFolder, options: Any) -> int:
    finding.forget(folder)
    print(f"the run {folder.name} is forgotten; its results stay in the store")
    return 0


_VERBS: dict[str, Callable[[RunFolder, Any], int]] = {
    "status": _status, "wait": _wait, "output": _output, "cancel": _cancel, "forget": _forget,
}  # fmt: skip

_VERBS_OF_SCRIPTS: dict[str, Callable[[str, Any], int]] = {
    "status": scripts.show, "wait": scripts.wait, "output": scripts.output, "cancel": scripts.cancel,
    "forget": scripts.forget,
}  # fmt: skip
