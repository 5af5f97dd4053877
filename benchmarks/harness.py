"""Runs one trial in a process of its own, and ends all processes that it started.

A trial has a time limit and a scratch directory, which is its working directory and its home, so that no system reads
or writes the user's. Processes that it leaves behind, even detached ones, become this process's children (a subreaper)
and are killed before the next trial.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import command_line, descendants

PR_SET_CHILD_SUBREAPER = 36
ANSWERED_GRACE = (
    15.0  # time to end for a trial that has its figures (seconds): some systems finish outstanding jobs
)
EXIT_GRACE = 3.0  # time for the trial's processes to end after it (seconds); later ones count as left behind


@dataclass(frozen=True)
class Outcome:
    """Figures of a trial by name, or the reason why there are none."""

    figures: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    left_behind: int = 0
    log: str = ""


def adopt_orphans() -> None:
    """Make orphaned descendants this process's children, even detached ones."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def run_trial(workload: str, system: str, limit: float, checkout: Path, quick: bool = False) -> Outcome:
    """Run one trial with the cw of `checkout`; its error, crash or hang is an outcome, too."""
    scratch = Path(tempfile.mkdtemp(prefix="cwb-"))
    try:
        return _run_in(scratch, workload, system, limit, checkout, quick)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_in(scratch: Path, workload: str, system: str, limit: float, checkout: Path, quick: bool) -> Outcome:
    # Only the benchmarks come from here: `checkout`, for cw, may be another one, with its own benchmarks.
    (scratch / "benchmarks").symlink_to(Path(__file__).resolve().parent)
    answer, log = scratch / "answer.json", scratch / "log"
    command = [sys.executable, "-m", "benchmarks.trial", workload, system, str(answer), "--cw", str(checkout)]
    with log.open("wb") as output:
        trial = subprocess.Popen(
            command + ["--quick"] * quick,
            cwd=scratch,
            env=_environment(scratch, checkout),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(trial, limit, answer)
        finally:
            status = trial.returncode
            left_behind = end_descendants(0.0 if status is None else EXIT_GRACE)
    text = log.read_text(errors="replace")
    if answer.exists():
        return Outcome(json.loads(answer.read_text()), left_behind=left_behind, log=text)
    return Outcome(failure=_why(status, limit, text), left_behind=left_behind, log=text)


def _wait(trial: subprocess.Popen[bytes], limit: float, answer: Path) -> None:
    """Return when the trial has ended, when its time is over, or when it has answered but does not end."""
    deadline = time.monotonic() + limit
    answered = False
    while trial.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        if not answered and answer.exists():
            answered = True
            deadline = time.monotonic() + ANSWERED_GRACE


def _why(status: int | None, limit: float, log: str) -> str:
    if status is None:
        return f"no result within {limit:.0f} s"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = [line for line in log.splitlines() if line.strip()]
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    if tracebacks:  # the exception's own line follows the indented ones; its text may have more lines
        lines = [line for line in lines[tracebacks[-1] + 1 :] if not line.startswith(" ")][:1]
    return lines[-1][:120] if lines else f"exit status {status}"


def _environment(scratch: Path, checkout: Path) -> dict[str, str]:
    """Return this environment with the trial's modules and home, without variables that name a user's cluster."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CW_")}
    path = [str(scratch), str(checkout), *filter(None, [inherited.get("PYTHONPATH")])]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUSERBASE": site.getuserbase(),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def end_descendants(grace: float = 0.0) -> int:
    """Kill all descendants of this process that are alive after `grace` seconds; returns their number.

    Python's resource trackers get some more time: they end by themselves when the others are gone, and remove the
    semaphores and the shared memory that those have left.
    """
    _wait_while(_living, grace)
    killed = _kill_while(lambda: [pid for pid in _living() if "resource_tracker" not in command_line(pid)])
    _wait_while(_living, EXIT_GRACE)
    return len(killed | _kill_while(_living))


def _wait_while(pids: Callable[[], list[int]], limit: float) -> None:
    deadline = time.monotonic() + limit
    while pids() and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill_while(pids: Callable[[], list[int]]) -> set[int]:
    killed = set()
    while found := pids():
        for pid in found:
            killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return killed


def _living() -> list[int]:
    """Return the living descendants; reaps children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return descendants(os.getpid())
