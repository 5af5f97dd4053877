"""Lines of jobs as a reader sees them, on a terminal or in a notebook: with labels, and equal ones counted. Pure.

    [simulate #17 node7] temperature out of range
    [simulate #18 node7] temperature out of range
    [simulate #21 node9] temperature out of range
    [… the same line 997 more times]

Only lines with equal text are counted, whichever jobs they are of: from the fourth in a row on, while each comes less
than FOLD_SECONDS after the one before. The count is shown as soon as another line comes, or after FOLD_SECONDS.
"""

from __future__ import annotations

import re

FOLD_SECONDS = 1.0
"""Time after an equal line in which the next is counted rather than shown (seconds), and longest delay of the count.
Larger: a line that comes now and then is not seen. Smaller: a flood of equal lines fills the screen with counts."""

EQUAL_LINES = 3
"""Number of equal lines in a row that are shown. More: floods take more room. Fewer: tables lose rows."""

_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-ln-~]|\x1b\[[<-?][0-?]*m"  # the cursor, modes; all but colours, which end with `m`
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # titles, addresses of links, and other texts for the terminal
    r"|\x1b(?!\[)[ -/]*[0-~]?|\x1b\[[^m]*$"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"  # other character sets, backspaces
)
"""What moves the cursor, clears the screen, sets the terminal and so on: it would garble the lines of others."""


class Screen:
    """One stream of lines. Time is an argument (seconds of a monotonic clock)."""

    def __init__(self) -> None:
        self.due: float | None = None
        """Time at which `show_count` must be called."""
        self._text: str | None = None  # of the last line
        self._row = 0  # number of equal lines up to it that were shown
        self._time = 0.0  # of the last line
        self._count = 0  # equal lines that were not shown

    def feed(self, label: str, text: str, now: float) -> str:
        """Return what is shown for these lines of one job. A last line without an end gets one."""
        shown: list[str] = []
        for line in text.removesuffix("\n").split("\n"):
            line = visible(line)
            is_equal = line == self._text and now - self._time < FOLD_SECONDS
            self._time = now
            if is_equal and self._row >= EQUAL_LINES:
                self._count += 1
                if self.due is None:
                    self.due = now + FOLD_SECONDS
                continue
            shown.append(self.show_count())
            self._text, self._row = line, self._row + 1 if is_equal else 1
            shown.append(f"{label}{line}\n")
        return "".join(shown)

    def show_count(self) -> str:
        """Return the line with the number of equal lines that were not shown; '' if there are none."""
        count, self._count, self.due = self._count, 0, None
        if not count:
            return ""
        return f"[… the same line {count:,} more times]\n" if count > 1 else f"{self._text}\n"


def label_of(function: str, job: object, host: str) -> str:
    """Return the label of a job's lines: '[simulate #17 node7] '. The job's id is the one that its caller knows."""
    return f"[{' '.join(filter(None, (function, f'#{job}', host.partition('.')[0])))}] "


def visible(line: str) -> str:
    """Return what remains visible of a line: the text after the last carriage return, and nothing that would move the
    cursor or set the terminal. A line with colours ends with the usual ones."""
    line = line.rstrip("\r").rpartition("\r")[2]
    if not line.isprintable():
        line = _CONTROLS.sub("", line)
        if "\x1b[" in line and not line.endswith("\x1b[0m"):
            line += "\x1b[0m"
    return line
