"""Jobs that print. Runners import this: it is small."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import jobs

from cw.runner import output

LIBC = ctypes.CDLL(None)


def print_all_ways():
    print("from Python")
    LIBC.puts(b"from C")
    os.system("echo from a child; echo to stderr >&2")
    print("half", end="")
    LIBC.printf(b"-half")
    sys.stderr.write("and here")


def print_something(number):
    if number % 3 == 0:
        print("job", number)
    if number % 250 == 0:
        os.system(f"echo child {number}")
    if number % 4 == 0:
        LIBC.printf(b"C %d;", number)
    if number % 5 == 0:
        print("error", number, file=sys.stderr)
    if number % 7 == 0:
        output.write_record(b"record %d" % number)


def print_and_fail(how):
    print("last words")
    print("half a line", end="", flush=True)
    if how == "raise":
        raise ValueError("no")
    if how == "wait":
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGKILL)


def print_and_wait(path):
    print("a line")
    print("50 %", end="", flush=True)
    jobs.until(path)


def flood(size, path=None):
    line = b"x" * 99 + b"\n"
    for _ in range(size // 100_000):
        os.write(1, line * 1000)
    if path is not None:
        jobs.mark(path)


def fill_without_waiting(seconds):
    """Print as a child such as ssh or node may leave stdout: full, and no write waits for room."""
    os.set_blocking(1, False)
    end = time.monotonic() + seconds
    for part in b"z" * 4096, b"z":
        while time.monotonic() < end:
            try:
                os.write(1, part)
            except BlockingIOError:
                if len(part) == 4096:
                    break
    print("last", end="")


def leave_a_child(path):
    subprocess.Popen(
        ["sh", "-c", f"until test -e {path}; do sleep 0.02; done; echo much later; touch {path}.done"]
    )


def close_all():
    sys.stdout.close()
    os.close(2)
    sys.stdout = open(os.devnull, "w")
    LIBC.puts(b"C needs no Python")


def print_in_fortran(path):
    """What gfortran makes of `write (6, *) "from Fortran"`."""
    library = ctypes.CDLL(path)
    parameters = ctypes.create_string_buffer(2048)
    ctypes.c_int32.from_buffer(parameters, 0).value = 128  # list-directed
    ctypes.c_int32.from_buffer(parameters, 4).value = 6
    library._gfortran_st_write(parameters)
    library._gfortran_transfer_character_write(parameters, b"from Fortran", 12)
    library._gfortran_st_write_done(parameters)
