"""Layout of a payload: a pickle, its large buffers, a text beside it.

A payload is one contiguous piece of memory, of one of three kinds, distinguished by the first byte:

    0x80 ...  a pickle as it is: `bytes`
    0x01 ...  a pickle and its large buffers (arrays): bytes, or a memoryview of mapped memory
    0x02 ...  a text beside it (u32 size, text, spaces up to a multiple of 64 bytes), and one of the two others:
              a note to the client with a result; settings of the user's modules with a function

      +------+---------+----------+---------+-------------------+--------+-----+----------+-----+----------+
      | 0x01 | writable| buffers n| size of | sizes of buffers  | pickle | pad | buffer 1 | pad | buffer 2 |
      | u8   | u8      | u16 0,u32| pickle  | n times u64       |        |     |          |     |  ...     |
      +------+---------+----------+---------+-------------------+--------+-----+----------+-----+----------+
                                    u64                                       each at a multiple of 64 bytes

Behind a call, of either kind, is its label: u64 (pickle does not look there). Behind a result or an error may be what
its job has used (`job_usage.py`), as many bytes, the last of which is no dot.
A payload comes from a peer that may be faulty: sizes are checked before anything is sliced.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any

from cw.errors import PayloadError
from cw.net.memory import LARGE, MAPPED, private
from cw.payloads.current import LABEL

Payload = bytes | bytearray | memoryview
StoreBuffer = Callable[[Sequence[Any], int], memoryview | bytes]

# A buffer below this stays in the pickle: it is copied once more, which costs less than a second look at
# sizes. Above, the copy begins to cost more than the 2 us which a multi-buffer payload takes.
OUT_OF_BAND = 16 * 1024

MULTI = 1
WITH_TEXT = 2
_HEADER = struct.Struct("<BBxxIQ")
_ALIGNMENT = 64  # a cache line, and what numpy and the vector units like best


def keep(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Keep a large buffer in the list. Returns True if it stays in the pickle.

    `functools.partial(keep, buffers)` is the buffer callback. (A method of the pickler's owner would form a circle.)
    """
    raw = buffer.raw()
    if raw.nbytes < OUT_OF_BAND:
        return True
    buffers.append(raw)
    return False


def keep_all(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Keep a buffer of any size, as `keep` does a large one."""
    buffers.append(buffer.raw())
    return False


def label_bytes(label: int) -> bytes:
    """Return the bytes that follow a call's pickle."""
    return label.to_bytes(LABEL, "little")


def join(
    data: bytes, buffers: list[memoryview], store: StoreBuffer | None = None, label: int | None = None
) -> Payload:
    """Join consecutive pickles and their buffers into a payload; for a call, with its label."""
    behind = b"" if label is None else label_bytes(label)
    return pack(data, buffers, store, behind) if buffers else data + behind


def pickle_of(payload: Payload) -> bytes:
    """Return the pickle without its large buffers."""
    if payload[0] != MULTI:
        return bytes(payload)
    view = memoryview(payload).cast("B")
    _, _, count, size = _HEADER.unpack_from(view)
    start = _HEADER.size + 8 * count
    return bytes(view[start : start + size])


def behind_of(payload: Payload) -> bytes | None:
    """Return the LABEL bytes behind the pickle of a result or an error, and its buffers; None if there are none."""
    payload = split_text(payload)[1]
    if len(payload) <= LABEL:
        return None
    if payload[0] == MULTI:
        view = memoryview(payload).cast("B")
        _, _, count, end = _HEADER.unpack_from(view)
        end += _HEADER.size + 8 * count
        for size in struct.unpack_from(f"<{count}Q", view, _HEADER.size):
            end += -end % _ALIGNMENT + size
        return bytes(view[end:]) if len(view) - end == LABEL else None
    # A pickle begins with 0x80, and ends with a dot.
    return bytes(payload[-LABEL:]) if payload[0] == 0x80 and payload[-1] != 0x2E else None


def pack(data: bytes, buffers: list[memoryview], store: StoreBuffer | None, behind: bytes) -> Payload:
    writable = not all(buffer.readonly for buffer in buffers)
    header = _HEADER.pack(MULTI, writable, len(buffers), len(data))
    header += struct.pack(f"<{len(buffers)}Q", *[buffer.nbytes for buffer in buffers])
    parts: list[Any] = [header, data]
    size = len(header) + len(data)
    for buffer in buffers:
        parts.append(bytes(-size % _ALIGNMENT))
        parts.append(buffer)
        size += -size % _ALIGNMENT + buffer.nbytes
    if behind:
        parts.append(behind)
        size += len(behind)
    if store is not None and size > LARGE:
        return store(parts, size)
    if size < MAPPED:
        return b"".join(parts)
    target = private(size)
    position = 0
    for part in parts:
        end = position + len(part)
        target[position:end] = part
        position = end
    return target


def unpack(payload: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Split a payload into the pickle and its buffers."""
    if len(payload) < _HEADER.size:
        raise PayloadError(f"a payload of {len(payload)} bytes is cut short in its header")
    _, writable, count, data_size = _HEADER.unpack_from(payload)
    end = _HEADER.size + 8 * count
    if len(payload) < end:
        raise PayloadError(f"a payload of {len(payload)} bytes is cut short in the sizes of {count} buffers")
    spans = [(end, end + data_size)]
    for size in struct.unpack_from(f"<{count}Q", payload, _HEADER.size):
        end = spans[-1][1]
        start = end + -end % _ALIGNMENT
        spans.append((start, start + size))
    if len(payload) - spans[-1][1] not in (0, LABEL):
        raise PayloadError(f"a payload of {len(payload)} bytes says that it has {spans[-1][1]}")
    if writable and payload.readonly:
        payload = _writable_copy(payload)
    data, *buffers = [payload[start:end] for start, end in spans]
    return data, buffers


def has_writable(payload: memoryview) -> bool:
    """True if a payload with buffers has one that may be written into."""
    return payload[1] != 0


def _writable_copy(payload: memoryview) -> memoryview:
    if len(payload) < MAPPED:
        return memoryview(bytearray(payload))
    copy = private(len(payload))
    copy[:] = payload
    return copy


def with_text(payload: Payload, text: str) -> bytes:
    """Return the payload with a text beside it."""
    encoded = text.encode(errors="surrogatepass")
    head = bytes([WITH_TEXT]) + struct.pack("<I", len(encoded)) + encoded
    return b"".join((head, b" " * (-len(head) % _ALIGNMENT), payload))


def split_text(payload: Payload) -> tuple[str, Payload]:
    """Return the text beside a payload, or '', and the payload without it."""
    if not payload or payload[0] != WITH_TEXT:
        return "", payload
    end = 5 + int.from_bytes(payload[1:5], "little")
    text = bytes(payload[5:end]).decode(errors="surrogatepass")
    return text, payload[end + -end % _ALIGNMENT :]
