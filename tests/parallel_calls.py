"""Calls of the tests of joblib's backend. Small, since runners import it by name."""

import os
import signal
import threading
import time
from pathlib import Path

import joblib
from joblib import Parallel, delayed

from cw import joblib as backend  # noqa: F401  (registers it)


def square(n):
    return n * n


def add(a, b=0, *more, times=1):
    return (a + b + sum(more)) * times


def fail_at(bad, n):
    if n == bad:
        raise KeyError(f"no {n}")
    return n


def fail_when_marked(directory):
    while not os.listdir(directory):
        time.sleep(0.01)
    raise KeyError("failed")


def nap(seconds, result=None):
    time.sleep(seconds)
    return result


def die_once(mark, n):
    """Kill the runner, the first time."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return n
    os.kill(os.getpid(), signal.SIGKILL)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def mark_and_nap(directory, n, seconds):
    Path(directory, f"{n}-{os.getpid()}").touch()
    time.sleep(seconds)
    return n


def mark_and_meet(directory, n):
    """Wait until two processes have begun such a call."""
    Path(directory, f"{n}-{os.getpid()}").touch()
    while len({name.partition("-")[2] for name in os.listdir(directory)}) < 2:
        time.sleep(0.01)
    time.sleep(0.05)
    return n


def where(_):
    return os.getpid(), threading.get_ident()


def inner(n):
    """A Parallel inside of a call: its results, where they were made, and how many of them at a time."""
    parallel = Parallel(n_jobs=n)
    places = parallel(delayed(where)(i) for i in range(4))
    names = [type(joblib.parallel.get_active_backend()[0]).__name__, type(parallel._backend).__name__]
    return os.getpid(), places, names, joblib.effective_n_jobs(n)


def on_the_cluster(count):
    with joblib.parallel_config(backend="cw"):
        return Parallel()(delayed(square)(i) for i in range(count))


def as_generator():
    with joblib.parallel_config(backend="cw"):
        return Parallel(return_as="generator")


INITIALIZED = []


def initialize(value, directory=None):
    INITIALIZED.append(value)
    if directory is not None:
        (directory / f"{os.getpid()} {len(os.listdir(directory))}").touch()


def initialized(array=None):
    return [*INITIALIZED]


def look(array, n, other=None):
    return float(array[n]), array.flags.writeable, None if other is None else float(other[0])


def change(array):
    array[0] += 1
    return float(array[0])


def corner(table):
    return float(table.iloc[0, 0])
