"""Functions of the jobs, the same for every system, importable by its workers."""

import dataclasses
import os
import time


def noop(x):
    return x


def nap(seconds):
    time.sleep(seconds)
    return seconds


def work_shortly(x):
    """Compute for a quarter of a millisecond."""
    end = time.perf_counter() + 0.00025
    while time.perf_counter() < end:
        pass
    return x


def whoami(seconds):
    """Return the process that runs this job; the sleep gives the others time to take one each."""
    time.sleep(seconds)
    return os.getpid()


def total(array):
    return float(array.sum())


def begin_with(array, seconds):
    """Return the process, the time at which it had the array, and the array's sum."""
    began, found = time.time(), float(array.sum())
    time.sleep(seconds)
    return os.getpid(), began, found


def add_up(*numbers):
    return sum(numbers)


def length(data):
    return len(data)


def zeros(nbytes):
    return bytes(nbytes)


def wait_for_file(path):
    """Occupy a slot until the file exists."""
    while not os.path.exists(path):
        time.sleep(0.02)
    return path


def with_closure(nbytes):
    """Return a function with `nbytes` in its closure."""
    ballast = os.urandom(nbytes)

    def with_ballast(x):
        return x + len(ballast)

    return with_ballast


def with_list(numbers):
    """Return a function that has captured a list, which might change."""

    def with_numbers(x):
        return x + len(numbers)

    return with_numbers


class Simulation:
    """An object with an array."""

    def __init__(self, size):
        import numpy

        self.values = numpy.zeros(size)

    def step(self, x):
        return x

    def first(self):
        return int(self.values[0])


@dataclasses.dataclass
class Reading:
    """A small argument."""

    number: int
