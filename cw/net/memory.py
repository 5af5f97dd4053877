"""Memory files: large payloads that processes on one machine share by descriptor instead of copying.

A memory file (memfd_create(2)) has no name, and is gone when no process maps it or holds it open. It is sealed
against shrinking, so that a faulty peer cannot take mapped pages away (which would kill the reader).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import gc
import mmap
import os
import time
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from cw.machine.memory import usable_memory

LARGE = 128 * 1024
"""Bytes above which a payload travels in memory of its own: received directly into it or, on one machine, passed as a
memory file. Below, a copy costs less than the file."""

WARM = 1024**2
"""Bytes from which on private memory is used again by later payloads, while it is warm: 10 MB are filled in 2 ms. In
fresh memory it is 7, since the kernel zeroes each page, at a fault."""

KEPT = 256 * 1024**2
"""Most bytes of unused memory that are kept for that. The system takes them back when memory is short."""

MOST_KEPT = 64
"""Most pieces of such memory."""

MAPPED = 32 * 1024**2
"""Bytes from which on fresh memory is in huge pages: 100 MB are filled in 15 ms instead of 50."""

MOST_PARTS = 1024
"""Most buffers that writev(2) takes at once."""


class Memory(mmap.mmap):
    """A mapped memory file, and its descriptor to pass on."""

    fd: int

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.fd)


SHORTAGE_SECONDS = 10.0
"""Time for which this process asks its peers to send no memory files, after it has run out of descriptors (seconds)."""

_short_until = 0.0


@functools.cache
def half_of_all() -> int:
    """Return half of the memory that this process may use (bytes)."""
    return usable_memory(os.environ).size // 2


def is_short(error: OSError) -> bool:
    """True if the error means that no descriptors are left. Then peers are asked to send no files for a while."""
    global _short_until
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return False
    _short_until = time.monotonic() + SHORTAGE_SECONDS
    return True


def takes_files() -> bool:
    """True if peers may send memory files."""
    return time.monotonic() >= _short_until


def private(size: int) -> memoryview:
    """Allocate `size` writable bytes that this process shares with no other. Their content is undefined. May be called
    from any thread."""
    if size < WARM:
        return memoryview(bytearray(size))
    # All sizes are of few lengths, an eighth longer at most, so that one fits another's memory.
    step = 1 << (size.bit_length() - 4)
    length = size + -size % step
    pages = _take_kept(length) or _map(length)
    # Every view, and what is made of it, keeps this object alive. (There are no weak references to mappings.)
    whole = _array_of(length).from_buffer(pages)
    _lent[id(pages)] = weakref.ref(whole, lambda ref: _keep(pages))
    return memoryview(whole).cast("B")[:size]


_lent: dict[int, weakref.ref[Any]] = {}  # by the identity of the mapping
_kept: list[mmap.mmap] = []  # the oldest first
_is_collecting = False


@functools.cache
def _array_of(length: int) -> Any:
    import ctypes  # here, since few processes need it

    return ctypes.c_char * length


def _map(length: int) -> mmap.mmap:
    # Private: shared memory has no huge pages, and a child that the program forks would write into the parent's.
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= MAPPED:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _take_kept(length: int) -> mmap.mmap | None:
    for pages in tuple(_kept):
        if len(pages) == length:
            with contextlib.suppress(ValueError):  # another thread has taken it
                _kept.remove(pages)
                return pages
    return None


def _on_collection(phase: str, info: Any) -> None:
    global _is_collecting
    _is_collecting = phase == "start"


def _keep(pages: mmap.mmap) -> None:
    del _lent[id(pages)]
    if (
        _is_collecting
    ):  # it tells of what is garbage before that has run its __del__, which may still read the pages
        return
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_FREE)
    _kept.append(pages)
    with contextlib.suppress(IndexError):  # another thread has taken the last
        while len(_kept) > MOST_KEPT or sum(map(len, _kept)) > KEPT:
            _kept.pop(0)


def as_bytes(view: memoryview) -> bytes:
    """Copy MAPPED bytes or more as `bytes(view)` does, but into huge pages, if the system has them."""
    import ctypes  # here, since few processes need it

    api, size = ctypes.pythonapi, view.nbytes
    # Bytes without a content may be written into until somebody else has them.
    made: bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
        ("PyBytes_FromStringAndSize", api)
    )(None, size)
    start = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", api))(made)
    # malloc has mapped them. The kernel refuses this (and no more) if it has no huge pages.
    first = start + -start % mmap.PAGESIZE
    length = (start + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    memoryview((ctypes.c_char * size).from_address(start)).cast("B")[:] = view
    return made


def allocate(size: int) -> memoryview:
    """Allocate `size` bytes in a new memory file, or in plain memory if no descriptor is left. Raises OSError."""
    try:
        return _allocate(size)
    except OSError as error:
        if not is_short(error):
            raise
        return memoryview(bytearray(size))


def _allocate(size: int) -> memoryview:
    fd = os.memfd_create("cw-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return mapped(fd, size)


def store(parts: Sequence[Any], size: int) -> memoryview | bytes:
    """Join these buffers, `size` bytes in all, in a new memory file, or in plain memory if no descriptor is left.
    Raises OSError."""
    try:
        return _store(parts, size)
    except OSError as error:
        if not is_short(error):
            raise
        return b"".join(parts)


def _store(parts: Sequence[Any], size: int) -> memoryview:
    return mapped(new_file(parts), size)


def new_file(parts: Sequence[Any]) -> int:
    """Join these buffers in a new memory file. Returns its descriptor. Raises OSError."""
    fd = write(os.memfd_create("cw-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), parts)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write(fd: int, parts: Sequence[Any]) -> int:
    """Write these buffers to a file, from its begin. (A copy through a mapping would make the kernel zero each new page
    first.) Returns the descriptor, which is closed if that fails. Raises OSError."""
    try:
        rest = deque(memoryview(part) for part in parts)
        position = 0
        while rest:
            written = os.pwritev(fd, list(islice(rest, MOST_PARTS)), position)
            position += written
            while rest and written >= rest[0].nbytes:
                written -= rest.popleft().nbytes
            if rest:
                rest[0] = rest[0].cast("B")[written:]
    except BaseException:
        os.close(fd)
        raise
    return fd


def file_of(view: memoryview) -> Memory | None:
    """Return the memory file that these bytes are, all of it; None: they are none."""
    file = view.obj
    return file if isinstance(file, Memory) and len(file) == len(view) else None


def fill(target: memoryview, position: int, data: memoryview) -> None:
    """Copy data to this place of allocated memory. A file is written to, see `write`. Raises OSError."""
    file = file_of(target)
    if file is None:
        target[position : position + len(data)] = data
        return
    while data:
        written = os.pwrite(file.fd, data, position)
        position, data = position + written, data[written:]


def mapped(fd: int, size: int) -> memoryview:
    """Map a memory file of this size; the memory owns the descriptor from now on. Raises OSError."""
    try:
        memory = Memory(fd, size)
    except BaseException:
        os.close(fd)
        raise
    memory.fd = fd
    return memoryview(memory)


def from_file(fd: int, size: int) -> memoryview:
    """Map a memory file that was received; the memory owns the descriptor from now on.

    Writes into the mapping stay in this process, since other processes may hold the file too. Raises ValueError for a
    file that has not exactly this size or could shrink, OSError.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        if os.fstat(fd).st_size != size or not seals & fcntl.F_SEAL_SHRINK:
            raise ValueError(f"a memory file that is not of {size} bytes, or not sealed")
        memory = Memory(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            is_short(error)
        raise
    memory.fd = fd
    return memoryview(memory)


def fresh(payload: Any) -> Any:
    """Give the payload to code that may write into it: bytes as they are, a memory file as a private mapping, which
    costs no copy, and other payloads as a read-only view."""
    if isinstance(payload, bytes):
        return payload
    view = memoryview(payload)
    if (file := file_of(view)) is not None:
        with contextlib.suppress(OSError):  # no descriptor left
            return memoryview(mmap.mmap(file.fd, len(view), flags=mmap.MAP_PRIVATE))
    return view.toreadonly()


def read_only(payload: Any) -> memoryview:
    """Map a memory file read-only; a read-only view of other payloads."""
    view = memoryview(payload)
    if (file := file_of(view)) is not None:
        with contextlib.suppress(OSError):  # no descriptor left
            return memoryview(mmap.mmap(file.fd, len(view), flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
    return view.toreadonly()


def as_file(payload: Any) -> Memory:
    """Return a memory file with the payload, which is copied only if it is not in a file of its own already.

    Raises OSError.
    """
    if isinstance(payload, memoryview) and (file := file_of(payload)) is not None:
        return file
    return _store([payload], len(payload)).obj  # type: ignore[return-value]
