"""Messages that one socket has not taken yet, in two lanes.

    put --> control, as frames -------.
       '--> data, as parcels ----------+--> what is being written, in order --> the socket
              '--> withdraw: dropped

A *parcel* is a message, or part of one, that travels whole. Bytes that are being written stay: they are few, and TLS
or the receiver has begun with them. Small frames are joined into one write.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Set
from typing import Any

from cw.net import wire
from cw.net.batches import split, without
from cw.net.memory import LARGE

WRITE = 256 * 1024
"""Bytes of small frames joined into one write."""


class Parcel:
    """A message of the data lane, in frames that have not been written. Only a large payload has several."""

    __slots__ = ("frames", "has_begun", "message")

    def __init__(self, message: tuple[Any, ...], frames: Iterable[wire.Frame]) -> None:
        self.message = message
        self.frames = deque(frames)
        self.has_begun = False  # some of it has been written

    def size(self) -> int:
        return sum(map(_size, self.frames))


class SendQueue:
    """Messages that one socket has not taken yet."""

    def __init__(self) -> None:
        self.size = 0
        """Unsent bytes."""
        self._control: deque[wire.Frame] = deque()
        self._data: deque[Parcel] = deque()  # only the first can have begun
        # Buffers that must be written before a lane has its turn. A tuple: bytes, and a memory file to go with them.
        self._writing: deque[Any] = deque()

    def put(self, message: tuple[Any, ...], with_files: bool = False, is_ordered: bool = False) -> None:
        """Queue a message. `with_files`: large payloads go to the peer as memory files. `is_ordered`: it goes in the
        data lane, whatever its kind."""
        if (single := wire.encode_single(message)) is not None:  # on the way of a job that is alone
            self.size += len(single[0]) + len(single[1])
            self._data.append(Parcel(message, (single,)))
            return
        if wire.is_control(message) and not is_ordered:
            for part in split(message):
                for frame in wire.encode_part(part, with_files):
                    self.size += _size(frame)
                    self._control.append(frame)
            return
        for part in split(message):
            parcel = Parcel(part, wire.encode_part(part, with_files))
            for frame in parcel.frames:
                self.size += _size(frame)
            self._data.append(parcel)

    def withdraw(self, kind: type, numbers: Set[int], with_files: bool = False) -> list[int]:
        """Drop the entries of such messages that have one of these numbers in the first column. Returns the numbers of
        those that the peer never gets.

        A large payload that has begun ends with an abort mark. Only such a payload is in pieces, and it is alone in its
        message: so no other entry is lost with it. A frame that is being written is completed; what is sent in the
        control lane from now on comes after it.
        """
        gone: list[int] = []
        for parcel in [parcel for parcel in self._data if type(parcel.message) is kind]:
            rest, dropped = without(parcel.message, numbers)
            if not dropped:
                continue
            gone += dropped
            self.size -= parcel.size()
            if parcel.has_begun:
                parcel.frames = deque([wire.ABORT])
            else:
                parcel.frames = deque(() if rest is None else wire.encode_part(rest, with_files))
            self.size += parcel.size()
            parcel.message = () if rest is None else rest
        if gone:
            self._data = deque(parcel for parcel in self._data if parcel.frames)
        return gone

    def drop_data(self) -> None:
        """Drop the data lane, but not what is being written."""
        self.size -= sum(parcel.size() for parcel in self._data)
        self._data.clear()

    def clear(self) -> None:
        for queue in (self._control, self._data, self._writing):
            queue.clear()
        self.size = 0

    def write_to(self, sock: Any) -> None:
        """Write everything. Raises BlockingIOError when the socket takes no more now, other OSErrors."""
        writing = self._writing
        while writing or ((self._control or self._data) and self._gather()):
            buffer = writing[0]
            if type(buffer) is tuple:
                # The descriptor goes with the first byte; if not all bytes are taken, the rest is plain bytes.
                buffer, attachment = buffer
                sent = socket.send_fds(sock, [buffer], [attachment.memory.fd])
                self.size -= len(attachment.memory)
            else:
                sent = sock.send(buffer)
            self.size -= sent
            if sent == len(buffer):
                writing.popleft()
            else:
                writing[0] = memoryview(buffer)[sent:]

    def _gather(self) -> bool:
        """Move the next frames to `_writing`: all control, then some data."""
        control, data, writing = self._control, self._data, self._writing
        small: list[Any] = []
        size = 0
        while size < WRITE and (control or data):
            if control:
                frame = control.popleft()
            else:
                parcel = data[0]
                frame = parcel.frames.popleft()
                parcel.has_begun = True
                if not parcel.frames:
                    data.popleft()
            if type(frame[-1]) is wire.Attachment:
                frame = [tuple(frame)]
            for buffer in frame:
                if type(buffer) is tuple or len(buffer) > LARGE:
                    if small:
                        writing.append(b"".join(small))
                        small.clear()
                    writing.append(buffer)
                else:
                    small.append(buffer)
                size += len(buffer)
        if small:
            writing.append(b"".join(small))
        return bool(writing)


def _size(frame: wire.Frame) -> int:
    size = sum(map(len, frame))
    return size + len(frame[-1].memory) if type(frame[-1]) is wire.Attachment else size
