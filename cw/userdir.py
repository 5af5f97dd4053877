"""The user's own directory, `~/.cw` or the one that `CW_HOME` names, with the credential, address files and logs.

Its mode is 0700, that of its files 0600, whatever the umask is. Files that others could have written are not trusted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from cw.errors import Error
from cw.program import UserError

MAX_FILE_SIZE = 64 * 1024
"""Maximum number of bytes read from a file in the user's own directory: more than any of ours has."""


class HomeError(UserError, Error, PermissionError):
    """The user's own directory or a file in it cannot be made, or cannot be trusted."""


def home_directory() -> str:
    """Return the path of the user's own directory, CW_HOME or ~/.cw. It need not exist."""
    path = os.environ.get("CW_HOME") or os.path.expanduser("~/.cw")
    if path.startswith("~"):
        raise HomeError("this user has no home directory: set CW_HOME to a directory of your own")
    return os.path.abspath(path)


def make_home() -> str:
    """Make the user's own directory if it does not exist; returns its path. Raises HomeError."""
    path = home_directory()
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise HomeError(
            f"cannot make the directory {path} ({error.strerror}): set CW_HOME to a directory of your own"
        ) from error
    check_home()
    return path


def check_home() -> bool:
    """Return whether the user's own directory exists. Raises HomeError if others can read or write it."""
    path = home_directory()
    try:
        link, target = os.lstat(path), os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HomeError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISDIR(target.st_mode):
        raise HomeError(f"{path} is no directory: move it away, or set CW_HOME to a directory of your own")
    if {link.st_uid, target.st_uid} != {os.geteuid()}:  # Another user's link may lead anywhere.
        raise HomeError(f"{path} belongs to another user: set CW_HOME to a directory of your own")
    if target.st_mode & 0o077:
        raise HomeError(
            f"{path} is open to other users (mode {stat.S_IMODE(target.st_mode):04o}): "
            f"see what is in it, then run: chmod 700 {path}"
        )
    return True


def read_private(name: str, size: int = MAX_FILE_SIZE) -> bytes | None:
    """Read up to `size` bytes of a file in that directory, or None. Raises HomeError if others may have written it."""
    if not check_home():
        return None
    path = os.path.join(home_directory(), name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(f"cannot read {path} ({error.strerror}): remove it") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HomeError(f"{path} could have been written by another user: remove it")
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def write_private(name: str, data: bytes) -> None:
    """Write a file in that directory, 0600 and atomically: readers see the old one or the new one."""
    path = os.path.join(home_directory(), name)
    temporary = f"{path}.{os.urandom(8).hex()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # Whatever the umask is.
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock file `name` in that directory; other processes of the user wait."""
    import fcntl

    path = os.path.join(home_directory(), name)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # A network file system without locks: two processes at once may conflict.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(
                descriptor, fcntl.LOCK_UN
            )  # A forked child may hold the descriptor and outlive this process.
        os.close(descriptor)
