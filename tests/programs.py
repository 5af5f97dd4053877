"""Programs that tests start: cw's own, and users' scripts; and queries about any process."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from pathlib import Path

from conftest import wait_until
from templates import Template

import cw

ROOT = Path(cw.__file__).parent.parent
LIMIT = 30.0
"""Time limit (seconds) of steps that take a fraction of a second on an idle machine."""


_MASTERS_AND_WORKERS = Template("cw.master.cli", "cw.worker.cli")


class Program:
    """A Python process with its output. At the end of the `with` block it is killed if it still runs."""

    _template = None
    """It is forked from there, unless its own Python matters."""

    def __init__(self, *arguments, cwd=None, stderr=None, before=(), **environment):
        """`stderr`: another file for it. `before`: a command that runs the command line after it."""
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
        err = self._err if stderr is None else stderr
        if self._template is not None and not before and self._template.suits(environment):
            self.process = self._template.start(arguments, self._out, err, cwd or os.getcwd(), environment)
        else:
            self.process = subprocess.Popen(
                [*before, sys.executable, *map(str, arguments)],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=err,
            )
        self.pid = self.process.pid

    @property
    def out(self):
        return _text(self._out)

    @property
    def err(self):
        return _text(self._err)

    def wait_for(self, text, *, in_out=False):
        """Wait until it has written this (to stderr)."""
        wait_until(lambda: text in (self.out if in_out else self.err), LIMIT, lambda: (self.out, self.err))

    @property
    def events(self):
        """The ids of the events in its log."""
        return events_in(self.err)

    def lines_of(self, event):
        """The lines of its log about this event."""
        return lines_of(self.err, event)

    def wait_for_event(self, event, text="", count=1):
        """Until its log has so many lines about this event with this text among its fields; returns the last."""
        wait_until(
            lambda: sum(text in line for line in self.lines_of(event)) >= count,
            LIMIT,
            lambda: (self.out, self.err),
        )
        return [line for line in self.lines_of(event) if text in line][-1]

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Wait for its end; return its exit status."""
        wait_until(lambda: self.process.poll() is not None, LIMIT, lambda: (self.out, self.err))
        return self.process.returncode

    def end(self, number=signal.SIGTERM):
        """Signal it; return its exit status."""
        self.send_signal(number)
        return self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for file in (self._out, self._err):
            _last_words[file] = _text(file)
            file.close()


class Master(Program):
    """`python -m cw.master` on a free port; it listens when the constructor returns."""

    _template = _MASTERS_AND_WORKERS

    def __init__(self, *arguments, **environment):
        super().__init__("-m", "cw.master", "--port", "0", *arguments, **environment)
        line = self.wait_for_event("master.listening")
        self.port = int(line.partition("workers: python -m cw.worker ")[2].split()[0].rpartition(":")[2])
        self.address = f"127.0.0.1:{self.port}"


class Worker(Program):
    """`python -m cw.worker`; it has joined when the constructor returns."""

    _template = _MASTERS_AND_WORKERS

    def __init__(self, *arguments, is_awaited=True, **environment):
        grace = [] if "--grace" in arguments else ["--grace", "0"]  # what runs is not waited for at the end
        super().__init__("-m", "cw.worker", *arguments, *grace, **environment)
        if is_awaited:
            self.wait_for_event("worker.joined")


def events_in(log):
    """The ids of the events in the text of a program's log."""
    return re.findall(r" \[([a-z]+\.[a-z_]+)\]$", log, re.MULTILINE)


def lines_of(log, event):
    """The lines about this event in the text of a program's log."""
    return [line for line in log.splitlines() if line.endswith(f" [{event}]")]


class Relay:
    """A TCP relay to a master on this machine: what goes through it is as on a network, and as slow (bytes/s)."""

    def __init__(self, port, rate=None):
        self._target = port
        self._rate = rate
        self.passed = 0  # bytes, both ways
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # nobody is there
                    near.close()
                    continue
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                target.sendall(data)
                self.passed += len(data)
                if self._rate:
                    time.sleep(len(data) / self._rate)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def drop(self):
        """Close all connections; accept new ones."""
        sockets, self._sockets = self._sockets, [self._listener]
        for sock in sockets[1:]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Close all connections, and accept no more."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()
        for sock in self._sockets:
            sock.close()


_last_words = weakref.WeakKeyDictionary()
"""Contents of the files of ended programs."""


def _text(file):
    if file.closed:
        return _last_words[file]
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def start_script(directory, source, *, name="script.py", **environment):
    """Write a user's script into `directory` and start it there."""
    path = Path(directory, name)
    path.write_text(textwrap.dedent(source))
    return Program(path, cwd=directory, **environment)


def run_script(directory, source, *, status=0, **environment):
    """Run a user's script to its end; return its stdout and stderr."""
    with start_script(directory, source, **environment) as script:
        found = script.wait()
        assert found == status, f"exit status {found}\n{script.out}\n{script.err}"
        return script.out, script.err


def free_port():
    """Return a port for a master, which the kernel assigns to no connection while it is free.

    Tried on all addresses, as a master does: a connection that another test closed a minute ago may still hold the
    port at one of them.
    """
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        address = "", random.randrange(10_000, max(least, 20_000))
        with contextlib.suppress(OSError), socket.create_server(address, family=family, dualstack_ipv6=dual):
            return address[1]


def name_of(value):
    """Return the name of a test with this value, the same in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def is_running(pid):
    """True if the process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid):
    """Return the pids of the running children."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(name))
    return found


def descendants_of(pid):
    """Return the pids of all running processes below this one."""
    found = children_of(pid)
    return found + [below for child in found for below in descendants_of(child)]


def worker_of(cluster):
    """Return the pid of a local cluster's worker."""
    return _pid_in_log(Path(cluster.logs))


def _pid_in_log(logs):
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            output = os.path.realpath(f"/proc/{name}/fd/2")
            if b"cw.worker" in command and output == str((logs / "worker.log").resolve()):
                return int(name)
    raise AssertionError(f"no worker writes to {logs}")
