"""The directory of a store: the marker that makes it one, and complete writes of files in it.

sweep.cw/
  cw-store.json                    the marker, with the store's format and id
  0192f3a1c0de-node7-4711-9c4e.seg one segment for each program that has written: records, one after the other
  0192f3a1c0de-node7-4711-9c4e~... a segment that `cw results --tidy` has made of that one and those behind it
  large/...                        results above a MiB, a file each
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import time
import zlib
from functools import partial
from typing import Any

from cw.errors import StoreError
from cw.events import EventLogger
from cw.store import direct
from cw.store import format as form
from cw.store.checksums import Checksums
from cw.store.direct import Ways
from cw.version import VERSION

logger = EventLogger("cw.store")

MARKER = "cw-store.json"
LARGE_DIRECTORY = "large"


MERGED = "~"
"""A letter that is only in the names of segments that were made of others. It comes after '.', so that such a segment
is listed just after the first of these, whose name its own begins with."""

LISTINGS = 100
"""Most times that a directory is listed until two lists are equal. Larger: a store in which programs begin all the time
opens later."""


_numbers = itertools.count()


class FileGone(StoreError):
    """A file of a store is not there any more: it was removed, or a tidied store has its content elsewhere."""


def segment_names(path: str) -> list[str]:
    """List the segments, the oldest first. Raises OSError.

    While a directory is listed, a merged segment may come and those that it replaces go: such a list may have neither.
    Two lists that are equal are whole.
    """
    names = _listed(path)
    for _ in range(LISTINGS):
        before, names = names, _listed(path)
        if before == names:
            break
    return names


def _listed(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(".seg"))


def merged_name(first: str) -> str:
    """Make a name for a segment that is made of several. `first`: the first of these."""
    stem = first.removesuffix(".seg").partition(MERGED)[0]
    return f"{stem}{MERGED}{time.time_ns() // 1_000_000:012x}{os.urandom(2).hex()}.seg"


def new_segment_name() -> str:
    """Make a name that no other writer has, and that sorts behind the names of older segments. Any thread may call it.

    The number tells apart what one program makes within a millisecond.
    """
    host = "".join(c if c.isalnum() else "_" for c in os.uname().nodename)[:40]
    now = time.time_ns() // 1_000_000
    return f"{now:012x}-{host}-{os.getpid()}-{next(_numbers):06x}{os.urandom(4).hex()}.seg"


def sync(path: str) -> None:
    """Force the names in a directory to the disk itself. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a directory that the user cannot read, as the parent of a home
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that does not support it
            raise
    finally:
        os.close(fd)


# --- the marker -------------------------------------------------------------------------------


def identify(path: str, is_writing: bool) -> str:
    """Return the id of the store at the path; with `is_writing`, make it if there is none. Raises StoreError."""
    marker = os.path.join(path, MARKER)
    try:
        if is_writing:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        if not os.path.isdir(path):
            if os.path.exists(path):
                raise StoreError(f"{path} is a file and no store: a store is a directory; give another name")
            raise StoreError(f"there is no store {path}")
        if not os.path.exists(marker):
            names = [name for name in os.listdir(path) if not name.startswith(MARKER)]
            if not os.path.exists(marker):  # otherwise another program has just made the store, and uses it
                if any(name.endswith(".seg") for name in names):
                    return _repair_marker(path, marker, "is missing", is_writing)
                if names or not is_writing:
                    raise StoreError(f"{path} is a directory, but no store: give another name")
                _write_marker(marker, os.urandom(8).hex())
        with open(marker, "rb") as file:
            text = file.read(4096)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise io_error("cannot be opened", path, error) from error
    try:
        found = json.loads(text)
        ident, version = str(found["id"]), int(found["format"])
    except (ValueError, KeyError, TypeError):
        return _repair_marker(path, marker, "is damaged", is_writing)
    if version > form.FORMAT:
        raise newer_error(path, found)
    return ident


def _repair_marker(path: str, marker: str, what: str, is_writing: bool) -> str:
    """Find the id of a store with a missing or damaged marker, in the segments' headers. Raises StoreError."""
    try:
        for name in segment_names(path):
            with open(os.path.join(path, name), "rb") as file:
                data = file.read(form.SIZE + 4096)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                header = form.first_header(data)
                if header is None:
                    continue
                if header["format"] > form.FORMAT:
                    raise newer_error(path, header)
                ident = str(header["store"])
                if not is_writing:
                    logger.warning("store.marker_missed", "the store %s: its file %s %s", path, MARKER, what)
                else:
                    logger.warning(
                        "store.marker_repaired",
                        "the store %s: its file %s %s, and is written anew",
                        path,
                        MARKER,
                        what,
                    )
                    with contextlib.suppress(OSError):
                        os.link(marker, f"{marker}.damaged")
                    _write_marker(marker, ident, is_repair=True)
                return ident
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise io_error("cannot be opened", path, error) from error
    raise StoreError(f"the store {path}: its file {MARKER} {what}, and no file of results says what it was")


def _write_marker(marker: str, ident: str, is_repair: bool = False) -> None:
    """Write the marker, completely or not at all. The first program that does it wins; with `is_repair`, replace it."""
    temporary = f"{marker}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(json.dumps({"format": form.FORMAT, "id": ident, "cw": VERSION}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_repair:
            os.replace(temporary, marker)
            return
        try:
            os.link(temporary, marker)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.rename(temporary, marker)
            return
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


# --- large results ----------------------------------------------------------------------------


def write_large(
    path: str, key: bytes, payload: Any, is_durable: bool, ways: Ways, checksums: Checksums | None = None
) -> bytes:
    """Write a result to a file of its own, complete before a record refers to it. Returns the record's reference to it.

    `ways`: those of writing it, as far as they are known. `checksums`: makes its checksum meanwhile;
    None: it is made after that. Raises StoreError.
    """
    directory = os.path.join(path, LARGE_DIRECTORY)
    name = f"{key.hex()}-{os.urandom(6).hex()}"
    file = os.path.join(directory, name)
    data = memoryview(payload).cast("B")
    checksum = partial(zlib.crc32, data) if checksums is None else checksums.begin(data)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
            if is_durable:
                sync(path)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            direct.write(fd, data, is_durable, ways)
        except OSError:
            os.unlink(file)
            raise
        finally:
            os.close(fd)
        if is_durable:
            sync(directory)
    except OSError as error:
        raise io_error("cannot be written", path, error) from error
    return json.dumps({"file": name, "size": len(data), "crc": checksum()}).encode()


def large_name(said: bytes) -> str:
    """Return the name of the file that a record's reference names. Raises ValueError, KeyError."""
    return os.path.basename(str(json.loads(said)["file"]))


def read_large(path: str, said: bytes) -> bytearray:
    """Read a result from a file of its own. `said`: the record's reference. Raises StoreError, ValueError, KeyError."""
    where = json.loads(said)
    file_name = os.path.join(path, LARGE_DIRECTORY, large_name(said))
    data = bytearray(where["size"])
    try:
        with open(file_name, "rb", buffering=0) as file:
            filled = 0
            while filled < len(data) and (count := file.readinto(memoryview(data)[filled:])):
                filled += count
    except FileNotFoundError as error:
        raise FileGone(f"the store {path} cannot be read: {error.strerror}: {file_name}") from error
    except OSError as error:
        raise io_error("cannot be read", file_name, error) from error
    if filled < len(data) or zlib.crc32(data) != where["crc"]:
        raise ValueError(f"{file_name} is damaged")
    return data


# --- errors -----------------------------------------------------------------------------------


def newer_error(path: str, found: dict[str, Any]) -> StoreError:
    """Make the error for a store, or a segment, of a later format."""
    return StoreError(
        f"{path} was written by a newer cw ({found.get('cw', '?')}) than this one ({VERSION}): update cw"
    )


def io_error(what: str, path: str, error: OSError) -> StoreError:
    """Make a StoreError from an error of the system."""
    return StoreError(f"the store {path} {what}: {error.strerror or error}")
