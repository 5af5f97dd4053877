"""Code that launchers share: a cluster's handle, processes known for certain, the wait until one is ready.

    launcher's process                                   master, worker
      Lifeline ---------- write end, here only .. read end -->  when it closes, they end at once
      wait_until_ready <- read end ............. write end ---  "ready\\n" once it serves
      log <----------------------------------- its output ----  an error shows its last lines

A process is identified by its pid and its start time, so that a launcher touches none that it did not start.
"""

from __future__ import annotations

import contextlib
import operator
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cw import html, program
from cw.errors import Error
from cw.named_tuple import NamedTuple
from cw.processes import look_at

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

START_SECONDS = 60.0
"""Time for a cluster to become ready (seconds). Longer: a hang is reported later. Shorter: on a slow file system none
starts."""

END_SECONDS = 7.0
"""Time for an orderly end before a process is killed (seconds). Longer: one that hangs delays the program. Shorter: not
enough for a worker that stops jobs (3 s) and waits for threads that they have left (5 s)."""

KILL_SECONDS = 3.0
"""Time for processes to end after SIGKILL (seconds); a third of it for those that may still end before it."""

POLL_SECONDS = 0.005
"""Time between checks of processes that are ending (seconds). (Only kernels from 5.3 on can wait for another's
child.)"""

WATCH_SECONDS = 0.05
"""Time between checks that a starting process has not died (seconds). Its readiness is noticed at once."""

LOGS_KEPT = 20
"""Number of clusters of one machine whose logs are kept; at twice as many, the older half is removed, which takes
10 ms. More: older failures can be studied. Fewer: less clutter."""

LOG_TAIL = 2000
"""Number of bytes of a log that an error's text shows."""


class LaunchError(program.UserError, Error, RuntimeError):
    """A cluster could not be started or stopped; the text says why."""


def check_nworkers(nworkers: Any) -> int:
    """Return `nworkers` as an int. Raises TypeError or ValueError."""
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
    """A process; its start time (ticks since boot) distinguishes it from a later one with the same pid."""

    pid: int
    start_time: int

    def is_alive(self) -> bool:
        """True if it runs. Reaps it if it has ended and is our child."""
        found = look_at(self.pid)
        if found is None or found[1] != self.start_time:
            return False
        if found[0] in "ZX":
            with fork_lock, contextlib.suppress(ChildProcessError):  # Another process's child.
                if (waited := os.waitpid(self.pid, os.WNOHANG))[0]:
                    _exit_statuses[self] = os.waitstatus_to_exitcode(waited[1])
            return False
        return True

    def exit_status(self) -> int | None:
        """Return its exit status as subprocess gives it; None if it has not ended, or was not our child."""
        self.is_alive()
        with fork_lock:  # another thread may have reaped it just now
            return _exit_statuses.get(self)

    def send_signal(self, number: int) -> None:
        """Signal this process and no other, if it still exists."""
        with contextlib.suppress(ProcessLookupError):
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return
            except OSError:  # An older kernel. In theory the pid may be reused between two lines.
                if self.is_alive():
                    os.kill(self.pid, number)
                return
            try:
                if self.is_alive():  # Then the descriptor refers to this one, even if the pid is reused.
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


_exit_statuses: dict[Process, int] = {}
"""Exit statuses of our reaped children; used under `fork_lock`, since any thread may reap one."""


def boot_id() -> str:
    """Return the id of this boot of the machine; start times are comparable only within one boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def end_processes(processes: Sequence[Process], before_kill: Callable[[], None] = lambda: None) -> None:
    """End processes and wait until they are gone: SIGTERM, `before_kill()`, at last SIGKILL. Raises LaunchError.

    The last comes first, so that a worker says goodbye to a master that still runs.
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
    while any([process.is_alive() for process in processes]):  # noqa: C419  (each must be reaped)
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


# --- start ----------------------------------------------------------------------------------

# Write ends of lifelines. A forked child must not hold them: with it, the cluster would outlive its program.
# The lock is held while such descriptors are made and given to children, and during each fork in any thread. It is
# reentrant for a signal handler that forks.
_lifelines: set[int] = set()
fork_lock = threading.RLock()


def _on_fork_in_child() -> None:
    for descriptor in _lifelines:
        os.close(descriptor)
    _lifelines.clear()
    fork_lock.release()


os.register_at_fork(
    before=fork_lock.acquire, after_in_parent=fork_lock.release, after_in_child=_on_fork_in_child
)


def occupy_standard_descriptors() -> None:
    """Open /dev/null in the places of stdin, stdout and stderr that are closed: what is passed to a process must not
    lie there, where its own come."""
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


class Lifeline:
    """A pipe whose write end only this process holds: it closes when the process ends, however it ends.

    `handed`: a write end that another process has handed on; what is started with it ends with this process alone."""

    def __init__(self, handed: int | None = None) -> None:
        occupy_standard_descriptors()
        with fork_lock:
            self.read_end, self._write_end = os.pipe()
            self._all = {self._write_end, *([] if handed is None else [handed])}
            for descriptor in self._all:
                os.set_inheritable(descriptor, False)
            _lifelines.update(self._all)

    def cut(self) -> None:
        """End the processes at the read end at once."""
        with fork_lock:
            if self._write_end in _lifelines:
                _lifelines.difference_update(self._all)
                for descriptor in self._all:
                    os.close(descriptor)
                os.close(self.read_end)

    def handed_on(self) -> int:
        """Return the write end, for another process to inherit: then it closes when both have ended."""
        return self._write_end


class Child(NamedTuple):
    """A process that is being started."""

    role: str
    process: Process
    log: str
    ready: int
    """Read end of the pipe through which it reports that it is ready."""


def log_file(role: str, logs: str) -> str:
    """Return the log file of a part of a cluster, in its directory of logs."""
    return os.path.join(logs, f"{role.rpartition('.')[2]}.log")


def wait_until_ready(children: Sequence[Child], seconds: float = START_SECONDS) -> None:
    """Return when the last child reports that it is ready; it needs the others for that.

    Raises LaunchError, with the end of the log, if a child ends before, or after `seconds`. Closes the pipes.
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
                    raise failure(child, "ended before the cluster was ready")
            if time.monotonic() > deadline:
                raise failure(last, f"is not ready after {seconds:.0f} s")
        if os.read(last.ready, 64) != b"ready\n":
            raise failure(last, "ended before the cluster was ready")


def failure(child: Child, what: str) -> LaunchError:
    with open(child.log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
        tail = file.read().decode(errors="replace").strip() or "(nothing)"
    return LaunchError(f"the {child.role} {what}; its log, {child.log}, ends with:\n{tail}")


def make_logs(base: str) -> str:
    """Make a directory in `base` for one cluster's logs. From time to time, removes the oldest unused ones."""
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


_of_program: weakref.WeakSet[Cluster] = weakref.WeakSet()
"""Clusters that end with this program, or before. Changed in the users' threads."""


def ends_with_program(master: str) -> bool:
    """True if the cluster with its master at this address ends with a block of this program, or with the program."""
    return any(cluster.master == master for cluster in list(_of_program))


class Cluster:
    """A running cluster. As a context manager, it stops when the block ends; `close` ends it, too."""

    def __init__(self, master: str, slots: int, logs: str, stop: Callable[[], object]) -> None:
        self.master = master
        """The master's address, 'HOST:PORT'."""
        self.slots = slots
        """Number of slots requested; 0 without workers."""
        self.logs = logs
        """Directory of the logs."""
        self.is_kept_up: Callable[[], bool] = lambda: False
        """Return True if its worker is started again when it dies."""
        self._stop: Callable[[], object] | None = stop
        self._owner = os.getpid()

    def stop(self) -> None:
        """End the cluster and wait until it is gone. Does nothing the second time, or in a forked child."""
        stop, self._stop = self._stop, None
        # (While the interpreter ends, its lifeline ends it.)
        if stop and os.getpid() == self._owner and not sys.is_finalizing():
            import atexit

            atexit.unregister(self.stop)
            stop()

    def forget(self) -> None:
        """Let the cluster go on: another process sees to its end from now on."""
        import atexit

        self._stop = None
        atexit.unregister(self.stop)

    def close(self) -> None:
        """End the cluster, as `stop` does."""
        self.stop()

    def end_with_program(self, stop: Callable[[], object]) -> None:
        """End it, by this function, at the latest with the interpreter, after the clients' outstanding jobs.

        (If the program is killed, its lifeline does that.)
        """
        import atexit

        self._stop = stop
        atexit.register(self.stop)
        _of_program.add(self)

    def _repr_html_(self) -> str | None:
        from cw.launch import shown  # what notebooks show is loaded there

        is_stopped = self._stop is None
        return html.shown(lambda: shown.of_cluster(type(self).__name__, self.master, self.slots, is_stopped))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.master}, {program.count(self.slots, 'slot')}>"
