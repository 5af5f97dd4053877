"""Last words of a runner: the part of its stderr that says why it died, for the note on its death. Pure."""

from __future__ import annotations

import os

TAIL_BYTES = 16 * 1024
"""Bytes kept of each runner: a trace of faulthandler takes 8 KiB, and begins with what matters."""

WORDS = 1000
"""Most characters in a note: the master's limit."""

_FATAL = "Fatal Python error"  # first words of a trace of faulthandler
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
# From this frame on, a trace shows the callers of the job.
_OWN_FRAMES = f'  File "{os.path.join(_PACKAGE, "runner", "runner.py")}"'


def last_words(data: bytes) -> str:
    """Return the part of stderr's end that says why: the last trace of faulthandler from its start, or the last
    lines."""
    text = data.decode(errors="replace")
    at = text.rfind(_FATAL)
    if at >= 0:
        return text[at : at + WORDS].partition(_OWN_FRAMES)[0].strip()
    if len(text) > WORDS:
        text = text[-WORDS:]
        text = text.partition("\n")[2] or text  # whole lines only, if there are any
    return text.strip()
