"""`cw runs` for whole scripts, which `cw run` has started: they have output and an exit status, but no calls."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from cw.observer.text import seconds
from cw.program import UserError
from cw.runs import names
from cw.scripts import status
from cw.scripts.kept_output import Reader
from cw.scripts.status import ScriptStatus

LATE = 3
"""Exit status of `cw runs wait` if its `--timeout` is over. (A script may end with the same.)"""

CANCEL_SECONDS = 15.0
"""Longest wait for the end of a script that is cancelled (seconds)."""


def show(path: str, options: Any) -> int:
    """Run `cw runs status`."""
    found = status.look(path)
    if options.json:
        print(to_json(found))
        return 0
    print(f"run: {found.name}, a whole script: {found.command}")
    print(f"in:  {found.directory}")
    print(f"state: {found.sentence()}")
    print(f"its output: `{names.command('output', found.name)}`")
    if found.is_over:
        print(f"`{names.command('forget', found.name)}` removes what is noted of it, and its output")
    else:
        print(f"come back: `{names.command('wait', found.name)}` ends as it ends")
    return 0


def wait(path: str, options: Any) -> int:
    """Run `cw runs wait`: the exit status is the script's."""
    found = status.wait(path, options.timeout)
    if not found.is_over:
        return LATE
    print(found.sentence())
    return found.exit_status or 0


def output(path: str, options: Any) -> int:
    """Run `cw runs output`."""

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    if options.follow:
        status.follow(path, write)
        return 0
    reader = Reader(status.look(path).output)
    for data in reader.read():
        write(data)
    reader.close()
    return 0


def cancel(path: str, options: Any) -> int:
    """Run `cw runs cancel`."""
    if (found := status.look(path)).is_over:
        raise UserError(f"the run {found.name} is not under way: {found.sentence()}")
    status.cancel(path)
    end = time.monotonic() + CANCEL_SECONDS
    found = status.wait(path, end - time.monotonic())
    print(found.sentence() if found.is_over else f"the run {found.name} is being cancelled")
    return 0


def forget(path: str, options: Any) -> int:
    """Run `cw runs forget`."""
    found = status.look(path)
    if not found.is_over:
        raise UserError(
            f"the run {found.name} goes on: `{names.command('cancel', found.name)}` ends it, then it can be forgotten"
        )
    names.forget(found.name)
    print(f"the run {found.name} is forgotten, and its output removed")
    return 0


def to_json(found: ScriptStatus) -> str:
    """Return its object of `--json`."""
    return json.dumps({"kind": "script", **found.to_json()})


def line(found: ScriptStatus) -> tuple[str, ...]:
    """Return its line of `cw runs list`. The counts of calls stay empty."""
    how = found.phase if found.exit_status is None else f"{found.phase}, exit status {found.exit_status}"
    age = seconds(max(0.0, time.time() - found.created))
    return found.name, how, "", "", "", "", f"{age} ago", found.command
