"""Programs that tests start: cw's own, and users' scripts; and what a test can see of any process."""

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
"""Seconds for what takes a fraction of one on an idle machine."""


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
        """Until it has written this (to stderr)."""
        wait_until(lambda: text in (self.out if in_out else self.err), LIMIT, lambda: (self.out, self.err))

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Its exit status."""
        wait_until(lambda: self.process.poll() is not None, LIMIT, lambda: (self.out, self.err))
        return self.process.returncode

    def end(self, number=signal.SIGTERM):
        """Signal it; its exit status."""
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
        self.wait_for("workers: python -m cw.worker ")
        self.port = int(self.err.partition("workers: python -m cw.worker ")[2].split()[0].rpartition(":")[2])
        self.address = f"127.0.0.1:{self.port}"


class Worker(Program):
    """`python -m cw.worker`; it has joined when the constructor returns."""

    _template = _MASTERS_AND_WORKERS

    def __init__(self, *arguments, is_awaited=True, **environment):
        grace = [] if "--grace" in arguments else ["--grace", "0"]  # what runs is not waited for at the end
        super().__init__("-m", "cw.worker", *arguments, *grace, **environment)
        if is_awaited:
            self.wait_for("joined the master at ")


class Relay:
    """A TCP relay to a master on this machine: what goes through it is as on a network, and as slow (bytes/s)."""

    def __init__(self, port, rate=None):
        self._target = port
        self._rate = rate
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
                if self._rate:
                    time.sleep(len(data) / self._rate)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def drop(self):
        """End all connections; others may come."""
        sockets, self._sockets = self._sockets, [self._listener]
        for sock in sockets[1:]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """End all connections, and take no more."""
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
"""What the files of ended programs had in them."""


def _text(file):
    if file.closed:
        return _last_words[file]
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def start_script(directory, source, *, name="script.py", **environment):
    """Start a user's script, which lies in `directory` and runs there."""
    path = Path(directory, name)
    path.write_text(textwrap.dedent(source))
    return Program(path, cwd=directory, **environment)


def run_script(directory, source, *, status=0, **environment):
    """Run a user's script to its end; what it wrote to stdout and to stderr."""
    with start_script(directory, source, **environment) as script:
        found = script.wait()
        assert found == status, f"exit status {found}\n{script.out}\n{script.err}"
        return script.out, script.err


def free_port():
    """A port that a master can have, and which the kernel gives to no connection while nobody has it.

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
    """What a test with this value is called: the same in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def is_running(pid):
    """Is there such a process, and not only a zombie of it?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid):
    """Pids of the running children."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(name))
    return found


def descendants_of(pid):
    """Pids of all running processes below this one."""
    found = children_of(pid)
    return found + [below for child in found for below in descendants_of(child)]


def worker_of(cluster):
    """The pid of a local cluster's worker."""
    return _pid_in_log(Path(cluster.logs))


def _pid_in_log(logs):
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            output = os.path.realpath(f"/proc/{name}/fd/2")
            if b"cw.worker" in command and output == str((logs / "worker.log").resolve()):
                return int(name)
    raise AssertionError(f"no worker writes to {logs}")
