"""The wire format, which no other module knows: messages <-> frames.

    frame:   | size u32 | kind u8 | flags u8 | 0 u16 |  body of `size` bytes  |    little-endian

    record:  body is JSON, an array of the message's values
    batch:   body is | count u32 | column | column | ... | sizes u64 ... | payload | payload ... |
             a column is `count` numbers of one type, as in memory; one of lists: `count` lengths, then the
             numbers of all
    large:   a batch of one with a payload above LARGE: the frame (flag LARGE) has all but the payload,
             which follows in PIECE frames; frames of the control lane may come between these.
             An ABORT frame, without a body, in place of the next piece: the sender gives the message up.
             On one machine: flag FILE, and the payload is a memory file that comes with the frame

`encode(message)` gives frames as lists of buffers, without copying large payloads.
`Decoder.feed(data)` gives messages; sizes are checked before anything is allocated. While a large
payload arrives, `Decoder.direct()` is the memory into which the socket may write directly (a memory
file is written to instead). No socket, no state beyond the current frame.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from cw import errors
from cw.errors import ProtocolError
from cw.net import messages as m
from cw.net.batches import split
from cw.net.memory import LARGE, Memory, as_file, file_of, fill, from_file, private
from cw.net.schema import LISTS, SPECS, Spec

if sys.byteorder != "little":  # columns travel as they lie in memory
    raise ImportError("cw runs on little-endian machines only")

PIECE = 1024 * 1024
"""Bytes in one piece of a large payload. Larger: a control message may wait longer behind a payload."""

MAX_BODY = 4 * 1024 * 1024
"""Most bytes in the body of a frame. Records stay far below."""

MAX_PAYLOAD = 64 * 1024**3
"""Most bytes of a payload: 64 GiB. Memory for it is reserved, and touched only as it arrives."""

MOST_NEEDS = 8192
"""Most objects that one object may need. If there are more, they are grouped in objects of their own."""

HEADER = struct.Struct("<IBBH")
_HEAD = HEADER.size
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
_FLAG_LARGE, _FLAG_FILE = 1, 2
PIECE_KIND, ABORT_KIND = 255, 254

# If two messages have one kind, on different legs: the one that is declared first.
_SPEC_BY_KIND = {spec.kind: spec for spec in reversed(SPECS.values())}

# A batch of one, the form that decides latency, is packed in one call: header, count, columns, size of the payload.
_FIXED = [spec for spec in SPECS.values() if spec.has_payloads and LISTS not in spec.codes]
_SINGLES = {spec.cls: struct.Struct(f"<I{spec.codes}Q") for spec in _FIXED}
_SINGLE_FRAMES = {spec.cls: (struct.Struct(f"<IBBHI{spec.codes}Q"), spec.kind) for spec in _FIXED}
_first = itemgetter(0)
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # (json.dumps would make an encoder each time)
_make = tuple.__new__

# Bytes of one entry of a batch, without its payload or the numbers in its list.
_WIDTHS = {"B": 1, "H": 2, "I": 4, "Q": 8, "f": 4, LISTS: 4}
_ENTRIES = {cls: sum(_WIDTHS[c] for c in spec.codes) + 8 * spec.has_payloads for cls, spec in SPECS.items()}

Buffer = Any
Frame = list[Buffer]

ABORT: Frame = [HEADER.pack(0, ABORT_KIND, 0, 0)]
"""The frame with which a sender ends a large payload that it has begun: the receiver drops what it has of it."""


def check_payload(payload: Buffer, what: str) -> None:
    """Raise NotPicklable if the payload is larger than MAX_PAYLOAD; `what` names its owner."""
    if len(payload) > MAX_PAYLOAD:
        raise errors.NotPicklable(f"{what}: {len(payload)} bytes; no more than {MAX_PAYLOAD} can travel")


def is_control(message: tuple[Any, ...]) -> bool:
    """True if it goes in the control lane, ahead of the payloads that wait."""
    return SPECS[type(message)].is_control


# --- encoding ---------------------------------------------------------------------------------


class Attachment:
    """The last element of a frame with a payload that is passed as a memory file. It has no bytes of its own."""

    __slots__ = ("memory",)

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __len__(self) -> int:
        return 0


def encode(message: tuple[Any, ...], with_files: bool = False) -> Iterator[Frame]:
    """Encode one message as frames, each a list of buffers to be sent one after the other.

    `with_files`: the connection passes memory files; a large payload is then an `Attachment`.
    """
    for part in split(message):
        yield from encode_part(part, with_files)


def encode_part(part: tuple[Any, ...], with_files: bool = False) -> Iterable[Frame]:
    """Encode a message that `split` would not cut: as one frame, or more if it is a large payload."""
    spec = SPECS[type(part)]
    kind, codes = spec.kind, spec.codes
    if not spec.is_batch:
        body = _to_json(part).encode()
        return ([HEADER.pack(len(body), kind, 0, 0) + body],)
    if not spec.has_payloads:
        head = _head(codes, part)
        return ([HEADER.pack(len(head), kind, 0, 0) + head],)
    payloads = part[-1]
    if len(payloads) == 1 and len(payloads[0]) > LARGE:
        return _large(kind, codes, part[:-1], payloads[0], with_files)
    if (frame := encode_single(part)) is not None:
        return (frame,)
    return (_batch(kind, codes, part[:-1], list(map(len, payloads)), payloads),)


def encode_single(message: tuple[Any, ...]) -> Frame | None:
    """Encode a batch of one with a small payload; None: the message is none, or has lists among its columns."""
    found = _SINGLE_FRAMES.get(type(message))
    if found is None:
        return None
    *columns, payloads = message
    if len(payloads) != 1 or (size := len(payloads[0])) > LARGE:
        return None
    form, kind = found
    return [form.pack(form.size - _HEAD + size, kind, 0, 0, 1, *map(_first, columns), size), payloads[0]]


def _head(codes: str, columns: Any) -> bytes:
    parts = [_COUNT.pack(len(columns[0]))]
    if codes[-1] == LISTS:
        *others, lists = columns
        codes = codes[:-1] + "II"
        columns = [*others, list(map(len, lists)), [number for numbers in lists for number in numbers]]
    parts += [array(code, column).tobytes() for code, column in zip(codes, columns, strict=True)]
    return b"".join(parts)


def _batch(kind: int, codes: str, columns: Any, sizes: list[int], payloads: Any) -> Frame:
    head = _head(codes, columns) + array("Q", sizes).tobytes()
    return [HEADER.pack(len(head) + sum(sizes), kind, 0, 0), head, *payloads]


def _large(kind: int, codes: str, columns: Any, payload: Buffer, with_files: bool) -> Iterator[Frame]:
    head = _head(codes, columns) + _SIZE.pack(len(payload))
    if with_files:
        try:
            file = as_file(payload)
        except OSError:
            pass  # no descriptor, or no memory, for a file: send it as on a network
        else:
            yield [HEADER.pack(len(head), kind, _FLAG_FILE, 0) + head, Attachment(file)]
            return
    view = memoryview(payload)
    yield [HEADER.pack(len(head), kind, _FLAG_LARGE, 0) + head]
    for start in range(0, len(view), PIECE):
        piece = view[start : start + PIECE]
        yield [HEADER.pack(len(piece), PIECE_KIND, 0, 0), piece]


_RESULT = struct.Struct("<IBBH I Q B f Q".replace(" ", ""))
_RESULT_KIND = SPECS[m.Results].kind
_RESULT_HEAD = _RESULT.size - _HEAD
_RESULT_BODY = struct.Struct("<4xQBfQ")


def encode_result(number: int, status: int, seconds: float, payload: bytes) -> bytes:
    """Encode one result as `encode(Results([number], ...))` does, at a fifth of the cost: a runner's hot path."""
    size = len(payload)
    return _RESULT.pack(_RESULT_HEAD + size, _RESULT_KIND, 0, 0, 1, number, status, seconds, size) + payload


def split_results(
    data: bytes, take: Callable[[int, int, float, bytes], None], take_other: Callable[[bytes], bool]
) -> bytes:
    """Call `take` for each result of `encode_result` in the bytes, `take_other` for each other frame, in order.

    Returns the rest: an incomplete frame, or everything from the frame for which `take_other` returned False.

    This is the worker's side of that hot path: runners write results in this one form only.
    """
    position, end = 0, len(data)
    while end - position >= _HEAD:
        size, kind, _, _ = HEADER.unpack_from(data, position)
        stop = position + _HEAD + size
        if stop > end:
            break
        if kind == _RESULT_KIND:
            number, status, seconds, _ = _RESULT_BODY.unpack_from(data, position + _HEAD)
            take(number, status, seconds, data[position + _RESULT.size : stop])
        elif not take_other(data[position:stop]):
            break
        position = stop
    return data[position:]


# --- decoding ---------------------------------------------------------------------------------


class Decoder:
    """Decodes frames to messages. One for each connection; not thread-safe.

    `max_body`: most bytes in one frame. It and `accepts` may be changed at any time, as a handshake does.
    Raises ProtocolError; after that it must not be used any more.
    """

    def __init__(self, allocate: Callable[[int], memoryview] = private) -> None:
        self.accepts = None
        self.max_body = MAX_BODY
        self.files: deque[int] = deque()
        """Descriptors that came with the bytes. The code that receives from the socket adds them."""
        self._allocate = allocate
        self._tail: bytes | bytearray = b""
        self._missing = 0  # bytes that a frame still lacks; its beginning is in _tail
        self._large: tuple[type, list[Any]] | None = None
        self._memory = memoryview(b"")
        self._filled = 0  # bytes of _memory that have arrived
        self._piece_left = 0  # bytes of the current piece still to come

    @property
    def accepts(self) -> frozenset[type] | None:
        """The message classes that may come; None: any."""
        return self._accepts

    @accepts.setter
    def accepts(self, classes: frozenset[type] | None) -> None:
        self._accepts = classes
        by_kind = {SPECS[cls].kind: SPECS[cls] for cls in classes or ()}
        self._expected = _SPEC_BY_KIND if classes is None else by_kind

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """Decode what a socket gave. Returns the messages that are now complete, in order."""
        found: list[Any] = []
        if self._piece_left:
            data = self._take_pieces(memoryview(data), found)
        if self._tail:
            if len(data) < self._missing:
                # Growing in place avoids that a frame which comes in small parts is copied for each of them.
                if not isinstance(self._tail, bytearray):
                    self._tail = bytearray(self._tail)
                self._tail += data
                self._missing -= len(data)
                return []
            data = bytes(self._tail) + bytes(data)
            self._tail = b""
        else:
            data = bytes(data)
        position, end = 0, len(data)
        while True:
            if end - position < _HEAD:
                self._missing = _HEAD - (end - position)
                break
            size, kind, flags, zero = HEADER.unpack_from(data, position)
            body = position + _HEAD
            if kind == PIECE_KIND:
                self._begin_piece(size)
                position = end - len(self._take_pieces(memoryview(data)[body:], found))
                continue
            if kind == ABORT_KIND:
                self._abort(is_empty=not (size or flags or zero))
                position = body
                continue
            if size > self.max_body or zero:
                raise ProtocolError(f"a frame of {size} bytes, of kind {kind}")
            if end - body < size:
                self._missing = size - (end - body)
                break
            position = body + size
            message = self._message(kind, flags, data[body:position])
            if message is not None:
                found.append(message)
        self._tail = data[position:]
        return found

    def direct(self) -> memoryview | None:
        """The memory for the next bytes if they are part of a large payload, and not for a file; otherwise None."""
        if not self._piece_left or file_of(self._memory) is not None:
            return None
        return self._memory[self._filled : self._filled + self._piece_left]

    def received(self, count: int) -> list[Any]:
        """Note that `count` bytes were written into `direct()`. Returns the message that they complete, if any."""
        found: list[Any] = []
        self._advance(count, found)
        return found

    def _take_pieces(self, data: memoryview, found: list[Any]) -> memoryview:
        """Copy the rest of the piece that has begun, and those that follow it, to their places. Returns the rest."""
        while True:
            taken = data[: self._piece_left]
            try:
                fill(self._memory, self._filled, taken)
            except OSError as error:
                raise ProtocolError(f"a payload for which there is no memory: {error}") from None
            self._advance(len(taken), found)
            data = data[len(taken) :]
            if self._piece_left or len(data) < _HEAD:
                return data
            size, kind, _, _ = HEADER.unpack_from(data)
            if kind != PIECE_KIND:
                return data
            self._begin_piece(size)
            data = data[_HEAD:]

    def _advance(self, count: int, found: list[Any]) -> None:
        self._filled += count
        self._piece_left -= count
        if self._large is not None and self._filled == len(self._memory):
            cls, columns = self._large
            payload, self._memory, self._large = self._memory, memoryview(b""), None
            found.append(cls(*columns, [payload]))

    def _begin_piece(self, size: int) -> None:
        if self._large is None or not 0 < size <= len(self._memory) - self._filled:
            raise ProtocolError(f"a piece of {size} bytes that belongs to no payload")
        self._piece_left = size

    def _abort(self, is_empty: bool) -> None:
        if self._large is None or not is_empty:
            raise ProtocolError("an abort mark without a payload that has begun")
        self._memory, self._large = memoryview(b""), None

    def _message(self, kind: int, flags: int, body: bytes) -> Any:
        spec = self._expected.get(kind)
        if spec is None:
            known = _SPEC_BY_KIND.get(kind)
            raise ProtocolError(
                f"{known.cls.__name__} is not expected here" if known else f"a frame of unknown kind {kind}"
            )
        cls = spec.cls
        if not spec.is_batch:
            return _decode_record(spec, body)
        if len(body) < 4:
            raise ProtocolError(f"{cls.__name__} is cut short")
        (count,) = _COUNT.unpack_from(body)
        single = _SINGLES.get(cls)
        if count == 1 and single is not None and not flags and self._large is None:
            if len(body) < single.size:
                raise ProtocolError(f"{cls.__name__} is cut short")
            values = single.unpack_from(body)
            if single.size + values[-1] != len(body):
                raise ProtocolError(f"{cls.__name__}: the payload's size does not fit the frame")
            columns = list(map(list, zip(values[1:-1], strict=True)))
            columns.append([body[single.size :]])
            return _make(cls, columns)  # (the class itself would call a function of Python's)
        if 4 + count * _ENTRIES[cls] > len(body):
            raise ProtocolError(f"{cls.__name__} of {count} entries in {len(body)} bytes")
        columns, position = _decode_columns(spec.codes, count, body)
        if spec.codes[-1] == LISTS:
            columns[-1], position = _decode_lists(spec, columns[-1], body, position)
        if not spec.has_payloads:
            if position != len(body):
                raise ProtocolError(f"{cls.__name__} with bytes left over")
            return cls(*columns)
        if self._large is not None:
            raise ProtocolError(f"{cls.__name__} in the middle of a large payload")
        sizes, position = _decode_columns("Q", count, body, position)
        if flags & _FLAG_FILE:
            return cls(*columns, [self._take_file(cls, sizes[0], len(body) - position)])
        if flags & _FLAG_LARGE:
            self._begin_large(cls, columns, sizes[0], len(body) - position)
            return None
        ends = list(accumulate(sizes[0], initial=position))
        if ends[-1] != len(body):
            raise ProtocolError(f"{cls.__name__}: the payloads' sizes do not fit the frame")
        return cls(*columns, [body[a:b] for a, b in pairwise(ends)])

    def _begin_large(self, cls: type, columns: list[Any], sizes: list[int], rest: int) -> None:
        if len(sizes) != 1 or rest or not LARGE < sizes[0] <= MAX_PAYLOAD:
            raise ProtocolError(f"{cls.__name__} with a large payload of an impossible size")
        try:
            self._memory = self._allocate(sizes[0])
        except (OSError, MemoryError) as error:
            raise ProtocolError(
                f"{cls.__name__} of {sizes[0]} bytes, for which there is no memory: {error}"
            ) from None
        self._large = cls, columns
        self._filled = 0

    def _take_file(self, cls: type, sizes: list[int], rest: int) -> memoryview:
        if len(sizes) != 1 or rest or not self.files:
            raise ProtocolError(f"{cls.__name__} without its memory file")
        try:
            return from_file(self.files.popleft(), sizes[0])
        except (OSError, ValueError) as error:
            raise ProtocolError(f"{cls.__name__}: {error}") from None

    def close(self) -> None:
        """Close descriptors that came and were not used."""
        while self.files:
            os.close(self.files.popleft())


def _decode_columns(codes: str, count: int, body: bytes, position: int = 4) -> tuple[list[Any], int]:
    columns = []
    for code in codes:
        column = array("I" if code == LISTS else code)
        end = position + count * column.itemsize
        column.frombytes(body[position:end])
        columns.append(column.tolist())
        position = end
    return columns, position


def _decode_lists(spec: Spec, lengths: list[int], body: bytes, position: int) -> tuple[list[Any], int]:
    total = sum(lengths)
    if max(lengths, default=0) > MOST_NEEDS or total > (len(body) - position) // 4:
        name = spec.fields[len(spec.codes) - 1].name
        raise ProtocolError(f"{spec.cls.__name__} with {total} {name} in {len(body)} bytes")
    (numbers,), end = _decode_columns("I", total, body, position)
    return [tuple(numbers[a:b]) for a, b in pairwise(accumulate(lengths, initial=0))], end


def _decode_record(spec: Spec, body: bytes) -> Any:
    cls, fields = spec.cls, spec.fields
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{cls.__name__} is not JSON: {error}") from None
    if not isinstance(values, list) or len(values) != len(fields):
        raise ProtocolError(f"{cls.__name__} with other fields than {', '.join(cls._fields)}")
    for (name, wanted, _, _), value in zip(fields, values, strict=True):
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            raise ProtocolError(f"{cls.__name__}.{name} is a {type(value).__name__}")
        # Otherwise it would not fit into a column, if it is passed on in one.
        if wanted is int and not 0 <= value < 2**64:
            raise ProtocolError(f"{cls.__name__}.{name} is not from 0 to 2**64 - 1")
    return cls(*values)
