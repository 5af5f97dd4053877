"""What the launchers share: a cluster's handle, processes known for certain, the wait until one is ready.

    launcher's process                                   master, worker
      Lifeline ---------- write end, here only .. read end -->  when it closes, they end at once
      wait_until_ready <- read end ............. write end ---  "ready\\n" once it serves
      log <----------------------------------- its output ----  the last lines are told when it fails

A process is known by its pid and its start time, so none is touched that a launcher did not start.
"""

from __future__ import annotations

import contextlib
import operator
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cw import program

START_SECONDS = 60.0
"""For a cluster to become ready. Longer: a hang is told later. Shorter: on a slow file system none starts."""

END_SECONDS = 7.0
"""For an orderly end, before the process is made to end. Longer: one that hangs holds up the program. Shorter: a worker
stops jobs (3 s), and waits for threads that they have left (5 s)."""

KILL_SECONDS = 3.0
"""For the end after SIGKILL, and a third of it for that before."""

POLL_SECONDS = 0.005
"""Between two looks at processes that are ending. (Only kernels from 5.3 on can wait for another's child.)"""

WATCH_SECONDS = 0.05
"""Between two looks whether one has died instead of becoming ready. That it is ready is noticed at once."""

LOGS_KEPT = 20
"""Clusters of one machine with their logs kept; at twice as many, the older half goes: that takes 10 ms.
More: older failures can be looked into. Fewer: tidier."""

LOG_TAIL = 2000
"""Bytes of a log that go into an error's text."""


class LaunchError(program.UserError, RuntimeError):
    """A cluster could not be started or stopped; the text says why."""


def check_nworkers(nworkers: Any) -> int:
    """`nworkers` as an int. Raises TypeError or ValueError."""
    try:
        if isinstance(nworkers, bool):
            raise TypeError
        number = operator.index(nworkers)
    except TypeError:
        raise TypeError(f"nworkers is the number of slots, an int from 1 on, not {nworkers!r}") from None
    if number < 1:
        raise ValueError(f"nworkers is the number of slots, from 1 on, not {number}")
    return number


# --- processes ------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process, told by its start time (in ticks since boot) from a later one with the same pid."""

    pid: int
    start_time: int

    def is_alive(self) -> bool:
        """Whether it runs. One that has ended and is our child is reaped."""
        found = _look_at(self.pid)
        if found is None or found[1] != self.start_time:
            return False
        if found[0] in "ZX":
            with _fork_lock, contextlib.suppress(ChildProcessError):  # Somebody else's child.
                if (waited := os.waitpid(self.pid, os.WNOHANG))[0]:
                    _exit_statuses[self] = os.waitstatus_to_exitcode(waited[1])
            return False
        return True

    def exit_status(self) -> int | None:
        """How it has ended, as subprocess says it; None if it has not, or was not our child to wait for."""
        self.is_alive()
        with _fork_lock:  # another thread may have reaped it just now
            return _exit_statuses.get(self)

    def send_signal(self, number: int) -> None:
        """Signal this process and no other, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return
            except OSError:  # An older kernel. In theory the pid might be taken between two lines.
                if self.is_alive():
                    os.kill(self.pid, number)
                return
            try:
                if self.is_alive():  # Then the descriptor means this one, whatever happens to the pid now.
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


_exit_statuses: dict[Process, int] = {}
"""Of our children that were reaped: by any thread, under `_fork_lock`."""


def _look_at(pid: int) -> tuple[str, int] | None:
    """(state, start time) of a process, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # Its name may hold anything, also ')'.
    except OSError:
        return None
    return fields[0].decode(), int(fields[19])


def boot_id() -> str:
    """Which boot of the machine this is: a start time means something only together with it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def end_processes(processes: Sequence[Process], before_kill: Callable[[], None] = lambda: None) -> None:
    """End them and wait until they are gone: SIGTERM, `before_kill`, at last SIGKILL. Raises LaunchError.

    The last comes first: a worker says goodbye to a master that is still there.
    """
    deadline = time.monotonic() + END_SECONDS
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        _are_gone([process], deadline - time.monotonic())
    before_kill()
    if _are_gone(processes, KILL_SECONDS / 3):
        return
    for process in processes:
        process.send_signal(signal.SIGKILL)
    if not _are_gone(processes, KILL_SECONDS):
        left = ", ".join(str(process.pid) for process in processes if process.is_alive())
        raise LaunchError(f"pid {left} does not end, not even by SIGKILL: it may be waiting for a disk")


def _are_gone(processes: Sequence[Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any([process.is_alive() for process in processes]):  # noqa: C419  (each is to be reaped)
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


# --- start ----------------------------------------------------------------------------------

# Write ends of lifelines. A fork's child must not hold them: the cluster would outlive its program with it.
# The lock is held while such descriptors are made and given to children, and during each fork, in whatever
# thread. It is reentrant for a signal handler that forks.
_lifelines: set[int] = set()
_fork_lock = threading.RLock()


def _on_fork_in_child() -> None:
    for descriptor in _lifelines:
        os.close(descriptor)
    _lifelines.clear()
    _fork_lock.release()


os.register_at_fork(
    before=_fork_lock.acquire, after_in_parent=_fork_lock.release, after_in_child=_on_fork_in_child
)


class Lifeline:
    """A pipe whose write end only this process holds: it closes when the process ends, however it ends."""

    def __init__(self) -> None:
        with _fork_lock:
            self.read_end, self._write_end = os.pipe()
            _lifelines.add(self._write_end)

    def cut(self) -> None:
        """Make the processes at the read end end at once."""
        with _fork_lock:
            if self._write_end in _lifelines:
                _lifelines.remove(self._write_end)
                os.close(self._write_end)
                os.close(self.read_end)


class Child(NamedTuple):
    """A process that is being started."""

    role: str
    process: Process
    log: str
    ready: int
    """Read end of the pipe through which it says that it is ready."""


def spawn(
    role: str,
    arguments: Sequence[str],
    logs: str,
    *,
    lifeline: Lifeline | None = None,
    listeners: Mapping[str, socket.socket] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `python -m cw.ROLE ARGUMENTS` in a session of its own: Ctrl-C reaches only the program.

    Its log is a file in the directory `logs`. `listeners`, by option, are handed over, and closed here.
    """
    import subprocess  # Takes 5 ms to load: `import cw` goes without.

    log = log_file(role, logs)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as on_failure:
        stack.enter_context(_fork_lock)
        for listener in (listeners or {}).values():
            stack.enter_context(listener)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, output)
        ready, write_end = os.pipe()
        on_failure.callback(os.close, ready)
        stack.callback(os.close, write_end)
        descriptors = {"--ready-fd": write_end}
        if lifeline:
            descriptors["--lifeline-fd"] = lifeline.read_end
        descriptors |= {option: listener.fileno() for option, listener in (listeners or {}).items()}
        command = program.command(f"cw.{role}", *arguments)
        for option, descriptor in descriptors.items():
            command += [option, str(descriptor)]
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=tuple(descriptors.values()),
            start_new_session=True,
            env=environment,
        )
        on_failure.pop_all()
        # From here on it is a Process, and may outlive the program: Popen shall not warn of that.
        popen.returncode = 0
        found = _look_at(popen.pid)
    return Child(role, Process(popen.pid, found[1] if found else 0), log, ready)


def log_file(role: str, logs: str) -> str:
    """The log of a part of a cluster, in its directory of logs."""
    return os.path.join(logs, f"{role.rpartition('.')[2]}.log")


def wait_until_ready(children: Sequence[Child], seconds: float = START_SECONDS) -> None:
    """Return when the last of the children has said that it is ready; it needs the others for that.

    Raises LaunchError, with the end of the log, if one of them ends before. Closes the pipes.
    """
    with contextlib.ExitStack() as stack:
        for child in children:
            stack.callback(os.close, child.ready)
        last = children[-1]
        poller = select.poll()
        poller.register(last.ready, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poller.poll(WATCH_SECONDS * 1000):
            for child in children:
                if not child.process.is_alive():
                    raise _failure(child, "ended before the cluster was ready")
            if time.monotonic() > deadline:
                raise _failure(last, f"is not ready after {seconds:.0f} s")
        if os.read(last.ready, 64) != b"ready\n":
            raise _failure(last, "ended before the cluster was ready")


def _failure(child: Child, what: str) -> LaunchError:
    with open(child.log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
        tail = file.read().decode(errors="replace").strip() or "(nothing)"
    return LaunchError(f"the {child.role} {what}; its log, {child.log}, ends with:\n{tail}")


def make_logs(base: str) -> str:
    """Make a directory in `base` for one cluster's logs. From time to time the oldest go, if unused."""
    os.makedirs(base, 0o700, exist_ok=True)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}-{os.getpid()}"
    os.mkdir(os.path.join(base, name), 0o700)
    kept = sorted(entry.name for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False))
    if len(kept) <= 2 * LOGS_KEPT:
        return os.path.join(base, name)
    import shutil

    for old in kept[:-LOGS_KEPT]:
        if not os.path.exists(f"/proc/{old.rpartition('-')[2]}"):
            shutil.rmtree(os.path.join(base, old), ignore_errors=True)
    return os.path.join(base, name)


# --- what a launcher returns ----------------------------------------------------------------


class Cluster:
    """A running cluster. As a context manager, it is stopped when the block ends."""

    def __init__(self, master: str, slots: int, logs: str, stop: Callable[[], object]) -> None:
        self.master = master
        """The master's address, 'HOST:PORT'."""
        self.slots = slots
        """How many were asked for; 0 without workers."""
        self.logs = logs
        """The directory with the logs."""
        self.is_kept_up: Callable[[], bool] = lambda: False
        """Whether somebody starts its worker again when that has died."""
        self._stop: Callable[[], object] | None = stop
        self._owner = os.getpid()

    def stop(self) -> None:
        """End the cluster and wait until it is gone. Does nothing the second time, or in a fork's child."""
        stop, self._stop = self._stop, None
        # A block that nobody has left ends with the interpreter, when little is left to end a cluster with. It
        # ends then as it does when the program is killed.
        if stop and os.getpid() == self._owner and not sys.is_finalizing():
            stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.master}, {program.count(self.slots, 'slot')}>"
