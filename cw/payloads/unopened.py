"""Results and errors as they travel, read without a look into what users' code has made.

    a chunk's result --> outcomes_of --> status, seconds and payload of each call
    an error --> error_of --> the name of its type, its text, the traceback's text, the place

Both are frames of cw's own: pickles of plain values, in which a payload of the user's is but bytes. Nothing is imported
and nothing is called here, so a process without the user's code, and without trust in it, may do that.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from cw.errors import PayloadError, RemoteException, RemoteTraceback
from cw.payloads.layout import MULTI, Payload, split_text, unpack

_BYTES = {("builtins", "bytes"): bytes, ("builtins", "bytearray"): bytearray}
"""All that a frame may name: how bytes are pickled that lie beside it."""


class _Frame(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _BYTES[module, name]
        except KeyError:
            raise PayloadError(f"a frame that names {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise PayloadError("a frame that refers to something else")


def outcomes_of(payload: Payload) -> list[tuple[int, float, Payload]]:
    """Return what `chunks.run_each` has returned: status, seconds and payload of each call. Raises PayloadError."""
    outcomes: list[tuple[int, float, Payload]] = _load(payload)
    return outcomes


def error_of(payload: Payload, describe: str) -> RemoteException:
    """Return an exception that stands for that of a job: with its text, and the name of its type. Never raises."""
    try:
        type_name, message, text, where, _, _ = _load(payload)
    except Exception as error:
        return RemoteException(f"{describe}: its error cannot be read: {error}")
    found = RemoteException(f"{type_name}: {message}" if message else type_name, type_name, text)
    found.__cause__ = RemoteTraceback(f"{describe}\n{text}", where)
    return found


def _load(payload: Payload) -> Any:
    payload = split_text(payload)[1]
    buffers: list[memoryview] = []
    data: Any = payload
    if payload[0] == MULTI:
        data, buffers = unpack(memoryview(payload).cast("B"))
    try:
        return _Frame(io.BytesIO(data), buffers=buffers).load()
    except PayloadError:
        raise
    except Exception as error:
        raise PayloadError(f"a frame that is none: {error!r}") from None
