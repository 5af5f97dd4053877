"""Jobs of the tests. Small, since runners import it by name."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

LIMIT = 60.0
"""Seconds after which a job that waits gives up, so that a failed test does not hang."""


def square(n):
    return n * n


def add(*args, **kwargs):
    return sum(args) + sum(kwargs.values())


def echo(value):
    return value


def pid():
    return os.getpid()


def nap(seconds, result=None):
    time.sleep(seconds)
    return result


def note_interval(path):
    """Write when the call began and ended."""
    began = time.monotonic()
    time.sleep(0.02)
    path.write_text(f"{began} {time.monotonic()}")
    return path


def until(path, result=None, mark=None):
    """Wait for a file to appear. `mark` is a file to write the pid of the runner to, at once."""
    if mark is not None:
        note(mark, os.getpid())
    deadline = time.monotonic() + LIMIT
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has not come")
        time.sleep(0.002)
    return result


def note(path, text="", result=None):
    """Write a file atomically."""
    whole = f"{path}.{os.getpid()}"
    Path(whole).write_text(str(text))
    os.rename(whole, path)
    return result


def append(path, text):
    """Add to a file; it is there from then on."""
    with open(path, "a") as file:
        file.write(text)


def mark(path):
    """Leave a file that names the job that ran."""
    Path(path).touch()
    return str(path)


def fail(error):
    raise error


def divide(a, b):
    return a / b


def die(how):
    """End the runner: an exit status, or the name of a signal."""
    if isinstance(how, int):
        os._exit(how)
    if how == "exec":
        os.execv("/bin/false", ["false"])
    if how == "close":
        os.closerange(3, 4096)
        return None
    if how == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(LIMIT)


def die_once(directory, how):
    """Die in the first runner; in the next ones, return the pids that died before."""
    before = sorted(int(path.name) for path in Path(directory).iterdir())
    if not before:
        mark(Path(directory, str(os.getpid())))
        die(how)
    return before


def note_signals(path):
    """Note which signals come, until SIGTERM has."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("SIGTERM"))
    note(path, os.getpid())
    deadline = time.monotonic() + LIMIT
    while "SIGTERM" not in told and time.monotonic() < deadline:
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            told.append("SIGINT")
    note(f"{path} told", " ".join(told))
    time.sleep(LIMIT)


def leave_child(path, *, new_session):
    """Start a process that outlives this job; the pids of it and its own children are in the file `path`."""
    code = (
        "import os, subprocess, sys, time\n"
        f"inner = subprocess.Popen(['sleep', '1000'], start_new_session={new_session})\n"
        "whole = sys.argv[1] + '.new'\n"
        "open(whole, 'w').write(f'{os.getpid()} {inner.pid}')\n"
        "os.rename(whole, sys.argv[1])\n"
        "time.sleep(1000)\n"
    )
    subprocess.Popen([sys.executable, "-c", code, path], start_new_session=new_session)
    return until(path, os.getpid())


def leave_orphan(path):
    """Start a daemon in the classic way: its parent ends at once."""
    code = (
        "import os, sys, time\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "whole = sys.argv[1] + '.new'\n"
        "open(whole, 'w').write(str(os.getpid()))\n"
        "os.rename(whole, sys.argv[1])\n"
        "time.sleep(1000)\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True)
    return until(path, os.getpid())


class OnlyThere:
    """Unpickles anywhere but in the process `home`."""

    def __init__(self, home):
        self.home = home

    def __reduce__(self):
        return _make_elsewhere_than, (self.home,)


def _make_elsewhere_than(home):
    if os.getpid() == home:
        raise LookupError("not at home")
    return OnlyThere(home)


class Stubborn(Exception):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("I stay where I am")


def raise_stubborn():
    raise Stubborn("cannot travel", threading.Lock())


class Demanding(Exception):
    """Cannot be made from its args alone."""

    def __init__(self, *, reason, code):
        super().__init__(f"{reason} ({code})")
        self.code = code


def raise_demanding():
    raise Demanding(reason="too much", code=7)


class Thing:
    """An object that can be referred to weakly."""

    def __init__(self, value):
        self.value = value


def make_thing(value):
    return Thing(value)


_global = None


def set_global(value):
    global _global
    _global = value


def get_global(_=None):
    return _global


class Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (5,)


class Exit:
    """Raises SystemExit where it is unpickled."""

    def __reduce__(self):
        return sys.exit, ("from a result",)


def make_exit():
    return Exit()


def mark_and_return(directory, n, seconds=0):
    """Leave a file of this run alone."""
    mark(Path(directory, f"{n} {os.getpid()} {time.monotonic_ns()}"))
    time.sleep(seconds)
    return n


def hold_the_interpreter(seconds, mark):
    """Run C code that lets no line of Python run."""
    note(mark, os.getpid())
    ctypes.PyDLL(None).sleep(seconds)


def until_or_not(path):
    """Wait for a file, or return at once."""
    return None if path is None else until(path)


def backtrack_or_not(n):
    """Spend time, exponential in n, in C code that does not release the interpreter."""
    return re.match("(a+)+$", "a" * n + "b") if n else None
