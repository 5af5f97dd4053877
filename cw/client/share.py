"""`cw.share`: a value that many calls use travels once to each machine, and is there once for all jobs."""

from __future__ import annotations

from typing import Any, TypeVar

from cw.errors import NotPicklable
from cw.net import memory, wire
from cw.payloads import byvalue, serialize
from cw.payloads.pickled import PickledApart
from cw.payloads.shared import Content, Shared

T = TypeVar("T")


def share(value: T) -> Shared[T]:
    """Share a value, as it is now, with the calls that will use it: the handle that this returns may stand anywhere in
    their arguments, be captured or be global, and jobs see the value itself.

    The value travels once to each machine, with the first job there that needs it. Its arrays are mapped into the jobs'
    processes, read-only; anything else in it that can change is fresh for each call. Raises `NotPicklable`.
    """
    try:
        pickled = PickledApart((serialize.apart_if_big(value),))
    except byvalue.Unpicklable as failure:
        text = serialize.refusal_of("the value to share", failure, [("value", value)])
        raise NotPicklable(text) from failure.__cause__
    # As read-only buffers they are mapped and never copied.
    buffers = [buffer.toreadonly() for buffer in pickled.buffers]
    payload = serialize.join(pickled.data, buffers, memory.store)
    wire.check_payload(payload, "the value to share")
    return Shared(
        Content(payload, pickled.names, pickled.codes, f"{_describe(value)}, {_size(len(payload))}")
    )


def _describe(value: Any) -> str:
    kind = type(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if type(shape) is tuple and shape:
        return f"shared {kind.__name__} {shape}{'' if dtype is None else f' {dtype}'}"
    return f"shared {kind.__name__}"


def _size(size: int) -> str:
    for unit, text in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {text}"
    return f"{size} bytes"
