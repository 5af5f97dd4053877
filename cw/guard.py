"""Guard against clusters and clients that would start others without end.

    script: with cw.mp.allocate(2) ... map(f)     no `if __name__ == "__main__":`
       '- runner imports the script's module      which starts a cluster ...
            '- runner imports the module ...      ... and so on

    while a runner imports a module        -> refused, in any thread; also in a job's pools
    while multiprocessing imports a script -> refused, in any process
    a job that starts a cluster            -> allowed, MAX_DEPTH clusters deep

The depth is an environment variable: everything that a job starts inherits it, including other programs and batch jobs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import FrameType

from cw.errors import StartRefused

MAX_DEPTH = 3
"""Maximum depth of clusters that jobs of clusters start. Larger: a mistake starts more of them before it is noticed
(each level multiplies them by its slots). Smaller: a program that starts one by itself cannot be run as a job."""

DEPTH = "CW_CLUSTER_DEPTH"
"""Variable with the number of clusters that this process is inside of: 0 if not set, 1 in a cluster's jobs."""

is_runner = False
"""True in a runner, or a fork of one. (Set by the runner itself.)"""

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORT_SYSTEM = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")


def note_runner() -> None:
    """Mark this process, and all that it starts, as one cluster deeper."""
    global is_runner
    is_runner = True
    os.environ[DEPTH] = str(depth() + 1)


def depth() -> int:
    """Return the number of clusters that this process is inside of."""
    text = os.environ.get(DEPTH, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def check_start(what: str) -> None:
    """Raise StartRefused unless a cluster may be started here. `what`: the call, for the message."""
    check_import(what)
    if depth() > MAX_DEPTH:
        raise StartRefused(
            f"{what} is refused: this is a job of a cluster that was started by a job of a cluster, and so on, "
            f"{depth()} deep, and {MAX_DEPTH + 1} is the limit. Give the jobs to a cluster that is there already: "
            "a client in a job finds the one that runs it"
        )


def check_import(what: str) -> None:
    """Raise StartRefused while an import is in progress that would call `what` in each job's process again."""
    process = sys.modules.get("multiprocessing.process")
    if getattr(getattr(process, "_current_process", None), "_inheriting", False):
        raise StartRefused(
            _text(what, "a process that multiprocessing has just started imports this program")
        )
    is_of_job = is_runner or (getattr(process, "_parent_process", None) is not None and depth() > 0)
    if is_of_job and is_importing(sys._getframe(1)):
        raise StartRefused(_text(what, "a job's process imports this module"))


def is_importing(frame: FrameType | None) -> bool:
    """True if the thread with this innermost frame is importing a module."""
    while frame is not None:
        # (`from m import name` passes through the first file, too, even if everything is imported.)
        if frame.f_code.co_filename in _IMPORT_SYSTEM and frame.f_code.co_name != "_handle_fromlist":
            return True
        frame = frame.f_back
    return False


def _text(what: str, when: str) -> str:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith((_PACKAGE, contextlib.__file__)):
        frame = frame.f_back
    where = "" if frame is None else f" (line {frame.f_lineno} of {frame.f_code.co_filename})"
    return (
        f"{what}{where} is refused while {when}: it would start others without end. Let the module do it only when "
        'it is run as a program:\n\n    if __name__ == "__main__":\n        main()  # whatever starts and uses '
        f"{what}"
    )
