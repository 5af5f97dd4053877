"""The right to change a store that is there: one program at a time has it, on whatever machine.

    tidying          who has it. It was made exclusively, and is touched while its program lives
    tidying-ID.tmp   the file that this program writes; it becomes a part of the store when it is renamed

Whoever takes the right from a program that seems dead removes its file first. So if that program was only asleep, it
cannot publish any more what it has written of what it saw before: its file has no name that it could rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from cw import processes
from cw.errors import StoreError
from cw.events import EventLogger

logger = EventLogger("cw.store")

NAME = "tidying"

DEAD_SECONDS = 60.0
"""Time without a touch after which a program that has the right is taken for dead. Larger: after a kill of it on
another machine the next one waits longer. Smaller: a slow disk looks like a death."""

BEAT_SECONDS = 1.0
"""How often the right is touched. It must be well below DEAD_SECONDS."""


class Claim:
    """The right to change a store, from `take` to `release`. `time`: what the file system's clock said at `take`."""

    def __init__(self, path: str) -> None:
        self.time = 0.0
        self._path = path
        self._ident = os.urandom(6).hex()
        self._mine = os.path.join(path, NAME)
        self._file = os.path.join(path, f"{NAME}-{self._ident}.tmp")
        self._fd = -1  # of the file that says who has the right
        self._beat = 0.0

    def take(self) -> None:
        """Take the right. Waits while it is not known whether another program that has it is alive. Raises StoreError
        if it is; OSError."""
        while True:
            try:
                self._fd = os.open(self._mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                break
            except FileExistsError:
                self._wait_for_death()
        holder = {"id": self._ident, "host": os.uname().nodename, "process": processes.identity(os.getpid())}
        os.write(self._fd, json.dumps(holder).encode())
        self.time = os.fstat(self._fd).st_mtime
        self._beat = time.monotonic()
        for name in os.listdir(self._path):
            if name.startswith(f"{NAME}-"):
                self._remove(name)

    def beat(self) -> None:
        """Show that this program is alive. To be called often."""
        if time.monotonic() - self._beat > BEAT_SECONDS:
            self._beat = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._fd)

    def open_file(self) -> int:
        """Make the file that will be published. Raises StoreError, OSError."""
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # In this order: who takes the right away after this look finds the file, and removes it.
        if self._holder()[0].get("id") != self._ident:
            os.close(fd)
            self._remove(os.path.basename(self._file))
            raise self._lost()
        return fd

    def publish(self, name: str) -> None:
        """Give the file its name in the store. Raises StoreError, OSError."""
        try:
            os.rename(self._file, os.path.join(self._path, name))
        except FileNotFoundError:
            raise self._lost() from None

    def release(self) -> None:
        """Give up the right, and remove the file that was not published."""
        if self._fd < 0:
            return
        self._remove(os.path.basename(self._file))
        if self._holder()[0].get("id") == self._ident:
            self._remove(NAME)
        self.forget()

    def forget(self) -> None:
        """Close the file, and leave the right as if this program had been killed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _holder(self) -> tuple[dict[str, str], float]:
        """Return who has the right, and the time of its last touch. Opened anew: a network file system shows an open
        file as it was."""
        try:
            with open(self._mine, "rb") as file:
                found, touched = json.loads(file.read(4096)), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return {}, 0.0
        except ValueError:  # killed before it has said who it is
            return {}, os.stat(self._mine).st_mtime
        return found, touched

    def _wait_for_death(self) -> None:
        """Return when the holder is dead, and the right was taken from it. Raises StoreError if it lives."""
        begin = time.monotonic()
        holder, touched = self._holder()
        where = f"{holder.get('host', '?')}, process {holder.get('process', '?').partition(' ')[0]}"
        if not _has_ended(holder):
            logger.info("store.claim_watched", "another program tidies the store (%s): does it live?", where)
        while not _has_ended(holder) and time.monotonic() - begin < DEAD_SECONDS:
            time.sleep(0.1)
            now = self._holder()
            if now[0] != holder:
                return  # another one has it, or nobody
            if now[1] != touched:
                raise StoreError(
                    f"the store {self._path} is being tidied by another program ({where}): wait for its end"
                )
        if "id" in holder:
            self._remove(f"{NAME}-{holder['id']}.tmp")
        aside = f"{NAME}-{self._ident}.old"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._mine, os.path.join(self._path, aside))
            with open(os.path.join(self._path, aside), "rb") as file:
                is_holder = file.read(4096) == json.dumps(holder).encode() or not holder
            if not is_holder:  # another program was quicker, and has the right now
                with contextlib.suppress(OSError):
                    os.link(os.path.join(self._path, aside), self._mine)
            self._remove(aside)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._path, name))

    def _lost(self) -> StoreError:
        return StoreError(
            f"the store {self._path}: another program has begun to tidy it, since this one seemed dead. Nothing is lost"
        )


def _has_ended(holder: dict[str, str]) -> bool:
    """True if the holder is known to have ended: a process of this machine that is not there any more."""
    process = holder.get("process", "")
    if not process or holder.get("host") != os.uname().nodename:
        return False
    return processes.identity(int(process.partition(" ")[0])) != process
