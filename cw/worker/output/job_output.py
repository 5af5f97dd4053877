"""What the jobs of one runner print: bytes and end marks in, the parts of each job out. Pure.

    bytes of a pipe --> Splitter --> parts up to a mark: they belong to its job
                           '------> the rest: to the job that runs, once it is known (`settle`)
    parts of a job ---> JobOutput: the head and the tail that are kept

The rest belongs to the job that runs if the runner's results were read after it: then all jobs that ended before it was
written are known to have ended.
"""

from __future__ import annotations

import struct

from cw.net.messages import STDERR, STDOUT
from cw.requirements import OUTPUT_MODES

KEPT_BYTES = 64 * 1024
"""Most bytes kept of what a job prints. Larger: more memory here for each slot, and with each result that brings it."""

_NUMBER = struct.Struct("<Q")


class Splitter:
    """The pipes of one runner. `token`: with what a mark begins; the dispatch number follows."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._mark_bytes = len(token) + _NUMBER.size
        self._parts: dict[
            int, list[bytes]
        ] = {}  # by stream: what belongs to the next mark, or to the running job
        self._begun: dict[
            int, bytes
        ] = {}  # by stream: the end of what came, which may be the beginning of a mark

    def feed(self, stream: int, data: bytes, is_all: bool) -> list[tuple[int, bytes]]:
        """Take bytes of a pipe. Returns those before each mark, with the mark's dispatch number.

        `is_all`: there was no more. (A mark is written at once: then no part of one is still to come.)
        """
        found: list[tuple[int, bytes]] = []
        data = self._begun.pop(stream, b"") + data
        parts = self._parts.setdefault(stream, [])
        start = 0
        while (at := data.find(self._token, start)) >= 0 and at + self._mark_bytes <= len(data):
            (number,) = _NUMBER.unpack_from(data, at + len(self._token))
            parts.append(data[start:at])
            found.append((number, b"".join(parts)))
            parts.clear()
            start = at + self._mark_bytes
        end = len(data) if is_all else at if at >= 0 else self._end_before_mark(data, start)
        if end > start:
            parts.append(data[start:end])
        if end < len(data):
            self._begun[stream] = data[end:]
        return found

    @property
    def has_rest(self) -> bool:
        """True if there is something behind the last marks."""
        return any(self._parts.values())

    def rest_size(self) -> int:
        """Bytes behind the last marks."""
        return sum(len(part) for parts in self._parts.values() for part in parts)

    def settle(self) -> list[tuple[int, bytes]]:
        """Take what stands behind the last marks: the stream, and its bytes."""
        rest = [(stream, b"".join(parts)) for stream, parts in self._parts.items() if parts]
        self._parts.clear()
        return rest

    def _end_before_mark(self, data: bytes, start: int) -> int:
        """Position at which a mark may have begun that is not complete; otherwise the end."""
        for length in range(min(len(self._token) - 1, len(data) - start), 0, -1):
            if data.endswith(self._token[:length]):
                return len(data) - length
        return len(data)


class KeptBytes:
    """The first `head` and the last `tail` bytes of what was added."""

    __slots__ = ("_head", "_head_bytes", "_tail", "_tail_bytes", "size")

    def __init__(self, head: int, tail: int) -> None:
        self._head_bytes, self._tail_bytes = head, tail
        self._head, self._tail = bytearray(), bytearray()
        self.size = 0
        """Bytes added so far."""

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if room := self._head_bytes - len(self._head):
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._tail_bytes:
            self._tail[:] = data[-self._tail_bytes :]
            return
        self._tail += data
        if len(self._tail) > 2 * self._tail_bytes:
            del self._tail[: -self._tail_bytes]

    def text(self, most: int) -> bytes:
        """What is kept, in at most about this many bytes. A line says how much is missing, in its place."""
        head, tail = self._head, bytes(self._tail[-self._tail_bytes :])
        if self.size <= min(most, len(head) + len(tail)):
            return bytes(head) + tail
        if head:
            head = head[: most // 2]
        tail = tail[-(most - len(head)) :]
        whole = tail[tail.find(b"\n") + 1 :] if b"\n" in tail[:-1] else tail  # begin with a line
        missing = self.size - len(head) - len(whole)
        between = b"" if not head or head.endswith(b"\n") else b"\n"
        return b"%s%s[\xe2\x80\xa6 %d bytes left out]\n%s" % (head, between, missing, whole)


class JobOutput:
    """What one job has printed so far."""

    __slots__ = ("dispatch", "kept", "left_out", "mode", "number", "open_lines", "session")

    def __init__(self, session: int, number: int, dispatch: int, mode: str | None) -> None:
        self.session, self.number, self.dispatch = session, number, dispatch
        self.mode = mode or OUTPUT_MODES[0]
        head = KEPT_BYTES // 2 if self.mode == "keep" else 0
        self.kept = {stream: KeptBytes(head, KEPT_BYTES - head) for stream in (STDOUT, STDERR)}
        self.open_lines: dict[int, bytes] = {}
        """The beginning of a line that was not sent yet, by stream."""
        self.left_out: dict[int, tuple[int, int]] = {}
        """Lines and bytes that were left out and not reported yet, by stream."""

    def add(self, stream: int, data: bytes) -> None:
        """Keep what the job has written to this stream."""
        if stream in self.kept:
            self.kept[stream].add(data)

    def kept_output(self) -> tuple[int, int, bytes] | None:
        """What is kept, as in `Kept`: the bytes of stdout in it, whether something is missing, all; None: nothing.

        If both streams are long, each has half of the room.
        """
        out, err = self.kept[STDOUT], self.kept[STDERR]
        if not out.size and not err.size:
            return None
        half = KEPT_BYTES // 2
        stdout = out.text(KEPT_BYTES - min(err.size, half))
        stderr = err.text(KEPT_BYTES - min(out.size, half))
        return len(stdout), out.size + err.size > len(stdout) + len(stderr), stdout + stderr
