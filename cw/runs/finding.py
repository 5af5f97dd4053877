"""A run that the user names: by its name, its store, or its folder. And what may be asked of it from outside."""

from __future__ import annotations

import contextlib
import os
import shutil

from cw import advice
from cw.errors import DetachError
from cw.runs import names
from cw.runs.folder import CANCELLED, HANDING_OVER, SCRIPT, RunFolder, RunState
from cw.runs.lease import Lease
from cw.runs.names import RunError
from cw.runs.onlooker import is_live, is_owned
from cw.store.directory import MARKER


def find(run: str | os.PathLike[str]) -> RunFolder:
    """Return the folder of a run: by its name, by its store (the run that goes on there, or the last one), or by the
    folder itself. Raises RunError."""
    if not isinstance(run, (str, os.PathLike)) or not os.fspath(run):
        raise TypeError(f"a run is given by its name or its store's directory, not by {run!r}")
    text = os.fspath(run)
    path = os.path.realpath(text)
    if os.path.exists(os.path.join(path, "run.json")):
        return RunFolder(path)
    if os.path.isdir(path) and (os.path.exists(os.path.join(path, MARKER)) or os.sep in text):
        return _of_store(path)
    if os.sep in text:
        raise RunError(f"there is no store {text}, and no run has such a name")
    return RunFolder(names.find(text))


def _of_store(path: str) -> RunFolder:
    folders = [RunFolder(each) for each in names.in_store(path)]
    if not folders:
        raise RunError(
            f"the store {path} has no run: no program has detached from it, or the run was forgotten. "
            f"`{advice.command('results', path)}` shows its results"
        )
    handed_over: list[RunFolder] = []
    live: list[RunFolder] = []
    with_calls: list[RunFolder] = []
    for folder in folders:
        with contextlib.suppress(DetachError):  # another one of the store may be whole
            state = folder.state()
            if state.calls:
                with_calls.append(folder)
            if is_live(folder, 0.0):
                (live if state.phase == SCRIPT else handed_over).append(folder)
    live = handed_over or live  # (a script that runs again may have one that it does not need)
    if len(live) > 1:
        known = ", ".join(folder.name for folder in live)
        raise RunError(f"the store {path} has several runs that go on: {known}. Give the name of one")
    return (live or with_calls or folders)[-1]


def owner_of(state: RunState) -> str:
    """Describe who has a run, or had it last: 'pid 4711 on node7'; '' if nobody has."""
    return f"pid {state.pid} on {state.host}" if state.pid else ""


def cancel(folder: RunFolder) -> None:
    """Let a run be cancelled: its owner does it soon; where none lives, it is cancelled now. Raises RunError,
    DetachError."""
    state, name = folder.state(), folder.name
    if state.is_over:
        raise RunError(
            f"the run {name} is not under way: it {'was' if state.phase == CANCELLED else 'has'} {state.phase}"
        )
    if state.phase == SCRIPT:
        if is_owned(folder):
            raise RunError(
                f"the run {name} is still with its script ({owner_of(state)}), which has not detached: end it there, "
                "with Ctrl-C"
            )
        raise RunError(f"the run {name} is not under way: its script has ended without handing it over")
    folder.request("cancel")
    own = Lease(folder)
    if (
        state.phase != HANDING_OVER and own.acquire()
    ):  # its steward is dead, and no other comes while we have the lease
        state = folder.state()
        if not state.is_over:
            text = "cancelled while it had no steward"
            folder.write_state(
                state._replace(phase=CANCELLED, beat=state.beat + 1, running=0, waiting=0, text=text)
            )
        folder.withdraw("cancel")
        own.release()


def forget(folder: RunFolder) -> None:
    """Remove the folder and the name of a run that goes on no more. Its results stay in the store. Raises RunError."""
    with contextlib.suppress(DetachError):  # a damaged one goes, too
        if is_live(folder):
            raise RunError(
                f"the run {folder.name} goes on: `{names.command('cancel', folder.name)}` ends it, then it can be "
                "forgotten"
            )
    if names.folders().get(folder.name) == folder.path:
        names.forget(folder.name)
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder.path)
