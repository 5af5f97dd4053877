"""Environment of the client that its jobs find in the runner: working directory, `sys.path`, variables it has set.

      client's sys.path                       runner's sys.path
    +---------------------+                 +---------------------+
    | the script's folder | --------------> | the script's folder |
    | PYTHONPATH ...      | --------------> | PYTHONPATH ...      |
    | standard library    |                 | standard library    | <-- the runner's own
    | site-packages       | --------------> | site-packages       |
    +---------------------+                 | whatever else the   |
                                            | runner itself has   | <-- cw, the runner's site-packages
                                            +---------------------+

The order is the client's, so that the same module is found as there. The standard library is the runner's
own, since it must fit the interpreter; and what the runner has stays at the end, for a client whose
installation is not on this machine. The client may choose another working directory (`workdir`): a path,
or SCRATCH for a fresh one of the runner's own. The script itself is not run, and `sys.argv` stays behind.

Variables of `os.environ` travel if the program itself has set or deleted them, as a pool's workers inherit them.
Those that it was started with describe its own machine and stay behind.

The authentication key of multiprocessing travels, as it does to a pool's workers, if the program has loaded what uses
it: with it, a job may use the proxy of a `Manager`. An environment leaves the client only for masters and workers with
its credential, and is written to no file.

Modules and files may travel with it (`cw.travel`): then the environment is an object that needs others, their packs.

No part is pickled: any process may read an environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from cw.errors import EnvironmentMismatch, Error, PayloadError
from cw.named_tuple import NamedTuple
from cw.payloads import hash_seed, modules

SCRATCH = "scratch"
"""Value in place of a working directory: a private one for each runner. (The others are absolute paths.)"""


OF_MACHINE = "CW_WORKDIR"
"""Variable of a worker: the directory in which jobs run there, as its machine does not have the client's. It does not
count for clients with a `workdir`."""


class Travelling(NamedTuple):
    """Modules and files that travel with the environment."""

    here: str  # the client's own working directory
    packs: list[int]  # numbers of the objects that have them: the environment's needs


@dataclass(frozen=True)
class Environment:
    """Environment of a client. In `path`, None stands for the standard library."""

    directory: str
    path: tuple[str | None, ...]
    python: str  # '3.11.7'
    cloudpickle: str
    script: str  # for messages; '' if there is none
    variables: dict[str, str | None] = field(default_factory=dict)  # set by the program; None: deleted
    files: dict[str, list[Any]] = field(default_factory=dict)  # see modules.files_of_modules
    seed: str = ""  # the session's, see `cw.payloads.current`: hexadecimal digits
    hash_seed: str = ""  # PYTHONHASHSEED; '' if it is not set
    recursion_limit: int = 0  # 0: the runner's own
    is_chosen: bool = False  # the user has given the directory
    authkey: str = field(default="", repr=False)  # of multiprocessing: hexadecimal digits; '': none
    travelling: Travelling | None = None
    places: dict[str, int] = field(default_factory=dict)  # see modules.places_of


def check_workdir(workdir: str | os.PathLike[str] | None) -> str | None:
    """Return the working directory for jobs, in the form that travels. Raises TypeError, ValueError."""
    if workdir is None:
        return None
    if not isinstance(workdir, (str, os.PathLike)) or isinstance(path := os.fspath(workdir), bytes):
        raise TypeError(f"workdir must be a path or 'scratch', not {workdir!r}")
    if path != SCRATCH and not (os.path.isabs(path) and path.isprintable()):
        raise ValueError(
            f"workdir must be an absolute path on the workers' machines, or 'scratch' for a private directory there, "
            f"not {path!r}"
        )
    return path


def dump_environment(
    seed: bytes = b"",
    workdir: str | None = None,
    travelling: Travelling | None = None,
    is_checked: bool = False,
) -> bytes:
    """Return the environment of this process as it is now. `workdir`: another working directory; `seed`: the session's;
    `is_checked`: jobs must not import other texts of the user's modules than this program has.

    Raises `Error` if the working directory has been deleted.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        if workdir is None:
            raise Error(
                f"the working directory is gone ({error.strerror}); change to one that exists"
            ) from error
        here = ""
    directory = workdir or here
    path: list[str | None] = []
    for entry in sys.path:
        if not isinstance(entry, str):  # the import system ignores it, too
            continue
        if not here and not os.path.isabs(entry):
            continue
        # '' is the current directory when Python looks.
        place = None if _is_standard_library(entry) else os.path.join(here, entry).rstrip("/") or "/"
        if place not in path:
            path.append(place)
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    fields = [directory, path, ".".join(map(str, sys.version_info[:3])), cloudpickle.__version__, script]
    files = modules.files_of_modules()
    more = {
        "variables": variables_set(), "files": files, "seed": seed.hex(), "travelling": travelling,
        "places": modules.places_of(files) if is_checked else {},
        "hash_seed": hash_seed.of_this_process(), "recursion_limit": sys.getrecursionlimit(),
        "authkey": _authkey().hex(), **({"is_chosen": True} if workdir else {}),
    }  # fmt: skip
    return json.dumps([*fields, more]).encode()


def load_environment(payload: bytes | bytearray | memoryview) -> Environment:
    """Decode an environment. Raises `PayloadError`."""
    try:
        directory, path, python, cloudpickle_version, script, more = json.loads(bytes(payload))
        if more.get("travelling"):
            more["travelling"] = Travelling(*more["travelling"])
        return Environment(directory, tuple(path), python, cloudpickle_version, script, **more)
    except (ValueError, TypeError, AttributeError) as error:
        raise PayloadError(f"the payload is not that of an environment: {error}") from None


def directory_of(environment: Environment) -> str:
    """Return the directory in which jobs run on this machine, or SCRATCH."""
    own = None if environment.is_chosen else os.environ.get(OF_MACHINE)
    return own or environment.directory


def apply_environment(environment: Environment, scratch: str = "") -> None:
    """Make this process work where the client does, or in `scratch` if the client wants that. Not thread-safe.

    All that cw needs must be imported before: afterwards, `import signal` may find a file of the user's. Raises
    `EnvironmentMismatch`, naming directory and machine; `sys.path` is set nevertheless.
    """
    apply_variables(environment.variables)
    modules.expect_files(environment.files)
    if environment.authkey:
        import multiprocessing.process

        multiprocessing.process.current_process().authkey = bytes.fromhex(environment.authkey)
    if environment.recursion_limit not in (0, sys.getrecursionlimit()):
        with contextlib.suppress(RecursionError, ValueError):  # so low that even this call does not fit
            sys.setrecursionlimit(environment.recursion_limit)
    own = list(sys.path)
    path: list[str] = []
    for entry in environment.path:
        path += [entry] if entry is not None else filter(_is_standard_library, own)
    path += own
    sys.path[:] = dict.fromkeys(path)
    # This is what importlib.invalidate_caches() does, which in Python 3.13 imports `email` and others: 30 ms, and
    # perhaps the user's own `email.py`.
    sys.path_importer_cache.clear()
    directory = directory_of(environment)
    try:
        if directory == SCRATCH:
            directory = scratch
            for place in (os.path.dirname(scratch), scratch):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(place, 0o700)
        os.chdir(directory)
    except OSError as error:
        host = os.uname().nodename
        if environment.directory == SCRATCH:
            text = f"the scratch directory {directory!r} cannot be made on {host}: {error.strerror}"
        else:
            text = (
                f"the working directory {directory!r} of the client's program cannot be entered on {host}: "
                f"{error.strerror}. Start the program in a directory that all machines see, or give its client "
                "workdir=, a path that is there or 'scratch' for a private directory of the worker's, or modules=True: "
                "then its own modules travel"
            )
        raise EnvironmentMismatch(text) from error
    _check_texts(environment)


def _check_texts(environment: Environment) -> None:
    """Raise EnvironmentMismatch if a directory of modules is another one here than at the client, with other texts."""
    path = modules.other_text(environment.files, environment.places)
    if path:
        raise EnvironmentMismatch(
            f"{path} on {os.uname().nodename} differs from the client's: bring both to the same state, or give the "
            "client modules=True, and its own travel"
        ) from ValueError(f"{path} differs from the client's")


def _authkey() -> bytes:
    """Return the key with which this program's managers let their proxies in; nothing if it has loaded no managers."""
    if "multiprocessing.managers" not in sys.modules:
        return b""
    return bytes(sys.modules["multiprocessing.process"].current_process().authkey)


# --- variables ---

_NOT_TAKEN = {
    # The worker decides on which devices a process runs. Here are the client's.
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
    # Read when an interpreter starts, which a runner has done.
    "PYTHONHASHSEED",
    # The shell's own.
    "_", "PWD", "OLDPWD", "SHLVL",
}  # fmt: skip
_NOT_TAKEN_PREFIXES = (
    # cw's own: addresses, the credential, the nesting depth of clusters.
    "CW_",
    # Set by batch systems to describe where a process runs.
    "SLURM", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "OMPI_", "FLUX_",
    # A notebook kernel's own: the kernel ends when the process named there is not its parent.
    "JPY_",
)  # fmt: skip
"""Variables that never travel: names, and beginnings of names."""


def _is_taken(name: str, value: str | None) -> bool:
    # The backend of a notebook draws in the notebook itself.
    is_notebooks = name == "MPLBACKEND" and (value or "").startswith("module://")
    is_pythons = name == "LC_CTYPE" and value in (
        "C.UTF-8",
        "C.utf8",
        "UTF-8",
    )  # Python sets it where there is no locale
    return not (name in _NOT_TAKEN or name.startswith(_NOT_TAKEN_PREFIXES) or is_notebooks or is_pythons)


def variables_set() -> dict[str, str | None]:
    """Return the environment variables that this program itself has set (or deleted: None) since its start."""
    try:
        with open("/proc/self/environ", "rb") as file:
            text = file.read()
    except OSError:
        return {}
    entries = [entry.partition(b"=") for entry in text.split(b"\0") if b"=" in entry[1:]]
    initial = {os.fsdecode(name): os.fsdecode(value) for name, _, value in entries}
    now = dict(os.environ)
    # Some programs write their title over it (setproctitle): then we cannot know what was there.
    if text and not any(now.get(name) == value for name, value in initial.items()):
        return {}
    changed: dict[str, str | None] = {
        name: value for name, value in now.items() if initial.get(name) != value
    }
    changed |= dict.fromkeys(initial.keys() - now.keys())
    return {name: value for name, value in changed.items() if _is_taken(name, value)}


def apply_variables(variables: dict[str, str | None]) -> None:
    """Set and delete these environment variables."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        time.tzset()


jobs_begun = 0
"""Number of jobs that this process has begun, if it is a runner."""


def ipython_shell() -> Any:
    """Return the IPython shell (also of a notebook's kernel) in which the user types, or None."""
    ipython = sys.modules.get("IPython")  # (each submit of a call that is stored asks)
    return None if ipython is None else getattr(ipython, "get_ipython", lambda: None)()


_STANDARD_LIBRARY = os.path.dirname(os.__file__)


def _is_standard_library(entry: str) -> bool:
    name = os.path.basename(entry)
    is_zip = name.startswith("python") and name.endswith(".zip")
    return entry == _STANDARD_LIBRARY or name == "lib-dynload" or is_zip
