"""The folder of a run: who it is, how far it is, and what others ask of its owner.

    STORE/runs/NAME/
      run.json        Description: written once by the script, and where a field changes
      state.json      RunState: written by the owner, at most once a second
      nonce           who can read this is on a machine that sees the folder
      request-WORD    what somebody asks of the owner, as `cancel`
      calls/          the calls (`cw.runs.calls`)
      lease-N         the steward that holds the run (`cw.runs.lease`)
      output          what jobs print (`cw.runs.output`)

Each file is written whole beside its place, synced and renamed: a reader sees the old one or the new one, never a part.
All are the user's alone: the folder is 0700, the files are 0600.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any, NamedTuple, TypeVar

from cw import advice
from cw.errors import DetachError

SCRIPT = "with its script"
HANDING_OVER = "handing over"
STEWARD = "with its steward"
ENDED = "ended"
CANCELLED = "cancelled"

PHASES = SCRIPT, HANDING_OVER, STEWARD, ENDED, CANCELLED
"""What `RunState.phase` may be. In the last two the run is over."""

OUTPUT = "output"

_DESCRIPTION, _STATE, _NONCE, _REQUEST = "run.json", "state.json", "nonce", "request-"

_WORD = re.compile(r"[a-z]+(-[a-z]+)*")

MOST_BYTES = 1024 * 1024
"""Most bytes that are read of a file of the folder: more than any of ours has."""


class Description(NamedTuple):
    """What a run is. The secret lets its reader take over the session, so the file is the user's alone."""

    name: str
    store: str
    """Path of the store's directory."""
    session: str = ""
    """Id of the session, and its secret: with both, a client is the session's owner."""
    secret: str = ""
    master: str = ""
    """Address of the master as the script gave it; '': it is found as by any client."""
    cluster: str = ""
    """Name of the cluster in which it is found."""
    created: float = 0.0
    host: str = ""
    argv: list[str] = []
    """The script's command line."""
    program: str = ""
    """Name of the script, as others see it at the master."""
    python: list[int] = []
    """Version of Python of its jobs: major, minor."""
    keys: str = ""
    """Scheme of the keys of its calls."""
    durability: str = "process"
    executable: str = ""
    """The script's Python."""
    own_cluster: dict[str, Any] = {}
    """The cluster that was made for the script, if it was: it ends with the run."""


class RunState(NamedTuple):
    """How far a run is, as its owner has said last."""

    phase: str = SCRIPT
    host: str = ""
    pid: int = 0
    start: str = ""
    """The owner's `processes.identity`."""
    beat: int = 0
    """Grows each time that it is written."""
    calls: int = 0
    done: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    text: str = ""
    """Why it does not go on, or how it has ended, if there is something to say."""
    written: float = 0.0
    """The owner's time."""

    @property
    def is_over(self) -> bool:
        return self.phase in (ENDED, CANCELLED)


T = TypeVar("T", Description, RunState)


class RunFolder:
    """The folder of one run. Nothing is kept open. Raises DetachError where a file is damaged or cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))

    def __repr__(self) -> str:
        return f"RunFolder({self.path!r})"

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def output(self) -> str:
        """Path of the file with what jobs print."""
        return self.place(OUTPUT)

    def place(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    # --- what the run is ---

    def create(self, description: Description) -> None:
        """Make the folder, if it is not there, and describe the run in it."""
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if self.read(_NONCE) is None:
            self.write(_NONCE, os.urandom(16).hex().encode())
        self._write_tuple(_DESCRIPTION, description)

    def exists(self) -> bool:
        """True if the folder has a description."""
        return os.path.exists(self.place(_DESCRIPTION))

    def description(self) -> Description:
        """Read what the run is. Raises DetachError if there is no run in the folder."""
        found = self._read_tuple(_DESCRIPTION, Description)
        if found is None:
            raise DetachError(
                f"there is no run in {self.path}: `{advice.command('runs', 'list')}` names those that there are"
            )
        return found

    def change(self, **fields: Any) -> Description:
        """Write the description again with other values of these fields."""
        description = self.description()._replace(**fields)
        self._write_tuple(_DESCRIPTION, description)
        return description

    def nonce(self) -> str:
        """Read the nonce; '' if it cannot be read here."""
        return (self.read(_NONCE) or b"").decode(errors="replace")

    # --- how far it is ---

    def state(self) -> RunState:
        """Read the state; that of a new run if none was written."""
        return self._read_tuple(_STATE, RunState) or RunState()

    def write_state(self, state: RunState) -> None:
        """Write the state, with the time. Only for the run's owner."""
        assert state.phase in PHASES, state.phase
        self._write_tuple(_STATE, state._replace(written=time.time()))

    # --- what others ask ---

    def request(self, word: str) -> None:
        """Ask this of the owner, as 'cancel'. It looks every second."""
        assert _WORD.fullmatch(word), word
        self.write(_REQUEST + word, b"")

    def requests(self) -> set[str]:
        """Return what was asked, and not withdrawn."""
        try:
            names = os.listdir(self.path)
        except OSError:
            return set()
        return {
            word
            for name in names
            if name.startswith(_REQUEST) and _WORD.fullmatch(word := name[len(_REQUEST) :])
        }

    def withdraw(self, word: str) -> None:
        """Take a request back, or note that it was obeyed."""
        self.remove(_REQUEST + word)

    # --- files ---

    def write(self, name: str, data: bytes) -> None:
        """Write a file: readers see the old one or the new one, also after a crash of the machine."""
        path = self.place(name)
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def make(self, name: str, data: bytes) -> bool:
        """Write a file that is not there yet. False: another process was first, and its file stays."""
        path = self.place(name)
        temporary = f"{name}.{os.urandom(6).hex()}.tmp"
        self.write(temporary, data)
        try:
            os.link(self.place(temporary), path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            # A network file system may have made the link, and lost the answer.
            with contextlib.suppress(OSError):
                if os.stat(self.place(temporary)).st_nlink == 2:
                    return True
            raise self._unwritable(error) from error
        finally:
            self.remove(temporary)

    def read(self, name: str) -> bytes | None:
        """Read a file; None: it is not there."""
        try:
            with open(self.place(name), "rb") as file:
                return file.read(MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DetachError(f"{self.place(name)} cannot be read: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(self.place(name))

    def _write_tuple(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value._asdict(), indent=1).encode() + b"\n")

    def _read_tuple(self, name: str, kind: type[T]) -> T | None:
        """Read a file of JSON. Fields that a later version of cw has added are passed over."""
        text = self.read(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise TypeError("it is no object")
            known = {field: found[field] for field in kind._fields if field in found}
            for field, default in kind._field_defaults.items():
                if not isinstance(
                    known.get(field, default), (int, float) if isinstance(default, float) else type(default)
                ):
                    raise TypeError(field)
            return kind(**known)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DetachError(
                f"{self.place(name)} is damaged ({error}): `{advice.command('runs', 'forget', self.name)}` "
                "removes the run, and keeps its results"
            ) from error

    def _unwritable(self, error: OSError) -> DetachError:
        return DetachError(f"the run's folder {self.path} cannot be written: {error.strerror or error}")
