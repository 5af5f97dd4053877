"""Where a session hands over what its jobs print.

    JobOutput, JobKept --> Exchange --> Sink.on_output, on_left_out, on_kept --> the program's own stdout and stderr

What a job printed is handed over before its result.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from cw.net import messages as m


class Sink:
    """Prints what comes, as it comes. All methods are called in the session's thread, and must not raise."""

    def on_output(self, number: int, stream: int, data: bytes, host: str) -> None:
        """Take a part of what a job printed: whole lines, unless a line took its time or the job ended within it.

        `number`: the job's, within the session; `stream`: m.STDOUT, m.STDERR, or m.RECORDS (one line a record).
        """
        if stream != m.RECORDS:
            self._write(stream, data)

    def on_left_out(self, number: int, stream: int, lines: int, size: int) -> None:
        """Note that this many lines of the job, with this many bytes, are left out here."""
        if stream != m.RECORDS:
            self._write(
                m.STDERR, f"[… {lines} lines ({size} bytes) left out: more than a client is sent]\n".encode()
            )

    def on_kept(self, number: int, stdout: bytes, stderr: bytes, is_cut: bool) -> None:
        """Take what is kept of a job's output, just before its result: of a job with output="keep", or of one that has
        failed. `is_cut`: something is missing; a line in its place says how much."""

    def _write(self, stream: int, data: bytes) -> None:
        file: Any = sys.stdout if stream == m.STDOUT else sys.stderr
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or there is none
            file.write(data.decode(errors="replace"))
            file.flush()
