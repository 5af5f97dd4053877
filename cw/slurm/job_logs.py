"""What the logs of a cluster's jobs in a batch system say of their ends."""

from __future__ import annotations

import os

from cw.launch import shell_lines
from cw.slurm.submitted import BatchJob, State

LOG_TAIL = 1500
"""Number of bytes of a log that an error's text shows."""


def tail(state: State, job: BatchJob) -> str:
    """Return the ends of a job's logs, for an error's text."""
    found = ""
    for entry in sorted(os.listdir(state.logs)):
        if str(job.ident) in entry:
            path = os.path.join(state.logs, entry)
            found += f"\n{path} ends with:\n{_end_of(path).strip()}"
    return found or f"; it has left no log in {state.logs} (do the nodes see that directory?)"


def last_lines(state: State, job: BatchJob, most: int) -> str:
    """Return up to `most` last lines of a job's logs: of its workers' if they have left any, otherwise of the job's; ''
    if there are none. Lines that say only that a worker has died are left out."""
    names = [entry for entry in sorted(os.listdir(state.logs)) if str(job.ident) in entry]
    ends = [_end_of(os.path.join(state.logs, entry)).splitlines() for entry in names]
    own = [lines for name, lines in zip(names, ends, strict=True) if not name.endswith(f"-{job.ident}.log")]
    lines = [line for lines in own or ends for line in lines if line.strip() and " died: " not in line]
    return "\n".join(lines[-most:])


def setup_failure(state: State, job: BatchJob) -> str:
    """Return the words on the line of --setup at which this job has ended; '' if there is none."""
    if job.role not in state.plans or not state.plans[job.role].setup:
        return ""
    lines = _end_of(os.path.join(state.logs, f"{job.role}-{job.ident}.log")).splitlines()
    last = next((line for line in reversed(lines[-5:]) if line.startswith(shell_lines.SETUP_FAILED)), "")
    return last.removeprefix("cw: ")


def with_failure(state: State, job: BatchJob, words: str, has_ended: bool) -> str:
    """Return the words on a job's state, with the line of --setup at which it has ended, if there is one."""
    failure = setup_failure(state, job) if has_ended else ""
    return f"has failed: {failure}" if failure else words


def _end_of(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
