"""Whole lines from the pieces of jobs' output: no I/O, no clock.

    feed(17, 1, b"a\\nb") --> b"a\\n"      feed(17, 1, b"c\\n") --> b"bc\\n"      end(17) --> what has no end of line

So a line of one job is never torn by another job's. What is held back is bounded: beyond that it goes on as it is, but
never within a character of UTF-8.
"""

from __future__ import annotations

LINE_BYTES = 64 * 1024
"""Bytes of a line up to which it waits for its end. Larger: more memory. Smaller: long lines are torn by others."""

TOTAL_BYTES = 16 * 1024 * 1024
"""Bytes that all lines without an end may have together. Larger: more memory. Smaller: with thousands of jobs, lines
are torn earlier."""


class Lines:
    """The beginnings of lines, by job and stream."""

    def __init__(self) -> None:
        self.size = 0
        self._begun: dict[int, dict[int, bytes]] = {}  # by job, and stream

    def has(self, job: int) -> bool:
        """True if the job has printed something without an end of line."""
        return job in self._begun

    def feed(self, job: int, stream: int, data: bytes) -> bytes:
        """Take a piece of a job's output. Returns the lines that are whole now."""
        begun = self._begun.get(job, {}).pop(stream, b"")
        self.size -= len(begun)
        data = begun + data
        end = data.rfind(b"\n", len(begun)) + 1
        if len(data) - end > min(LINE_BYTES, TOTAL_BYTES - self.size):
            end = _end_of_characters(data)
        whole, rest = data[:end], data[end:]
        if rest:
            self._begun.setdefault(job, {})[stream] = rest
            self.size += len(rest)
        elif not self._begun.get(job, True):
            del self._begun[job]
        return whole

    def end(self, job: int) -> list[tuple[int, bytes]]:
        """Return what an ended job has printed without an end of line, by stream."""
        found = sorted(self._begun.pop(job, {}).items())
        self.size -= sum(len(rest) for _, rest in found)
        return found

    def check_invariants(self) -> None:
        """Check the state in tests."""
        rests = [rest for streams in self._begun.values() for rest in streams.values()]
        assert self.size == sum(map(len, rests)) and all(rests) and all(self._begun.values())
        assert not any(b"\n" in rest for rest in rests)


def _end_of_characters(data: bytes) -> int:
    """Return the position up to which the last character of UTF-8 is whole."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a character, whose length it gives
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) if back >= length else len(data) - back
    return len(data)
