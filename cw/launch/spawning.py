"""Start of a cluster's processes on this machine.

    spawn ------------> a process for which Python starts: a master, tunnels
    spawn_worker -----> the zygote (cw.launch.zygote), which becomes the worker, and forks what runs its jobs
    spawn_both -------> ... and forks the master, too
    spawn_one --------> ... or becomes worker and master (cw.launch.one_process)

Each has a session of its own, so that Ctrl-C reaches only the program, and a log in a file.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterable, Mapping, Sequence

from cw import program
from cw.launch.launcher import START_SECONDS, Child, Lifeline, Process, failure, fork_lock, log_file
from cw.launch.zygote import BothPart, MasterPart, Parts
from cw.named_tuple import NamedTuple
from cw.processes import look_at


def spawn(
    role: str,
    arguments: Sequence[str],
    logs: str,
    *,
    lifeline: Lifeline | None = None,
    listeners: Mapping[str, socket.socket] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start `python -m cw.ROLE ARGUMENTS`. `logs`: directory of its log. `listeners`, by option, are passed on, and
    closed here."""
    log = log_file(role, logs)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as on_failure:
        stack.enter_context(fork_lock)
        descriptors = _by_option(lifeline, listeners, stack)
        output = _open_log(log, stack)
        ready, write_end = _pipe(stack, on_failure)
        descriptors["--ready-fd"] = write_end
        command = program.command(f"cw.{role}", *arguments, *_as_options(descriptors))
        process = _execute(command, output, descriptors.values(), environment)
        on_failure.pop_all()
    return Child(role, process, log, ready)


class Forked(NamedTuple):
    """A worker whose process is, at first, the zygote that forks the master."""

    worker: Child
    pid: int
    """Read end of the pipe to which the master writes its pid."""
    master_log: str

    def wait_for_master(self) -> Child:
        """Return the master as soon as it exists; it does not report that it is ready. Raises LaunchError."""
        poller = select.poll()
        poller.register(self.pid, select.POLLIN)
        if not poller.poll(START_SECONDS * 1000):
            raise failure(self.worker, f"has not forked the master after {START_SECONDS:.0f} s")
        if not (text := os.read(self.pid, 64)):
            raise failure(self.worker, "ended before it had forked the master")
        return Child("master", _identify(int(text)), self.master_log, self.pid)

    def forget(self) -> None:
        """Close the pipes of both: nobody waits for them any more."""
        os.close(self.pid)
        os.close(self.worker.ready)


def spawn_worker(
    arguments: Sequence[str],
    logs: str,
    *,
    lifeline: Lifeline | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a worker as `spawn` does, through a zygote, which forks what runs its jobs: with the PYTHONHASHSEED of the
    environment."""
    return _spawn_zygote(arguments, None, logs, lifeline, {}, environment).worker


def spawn_both(
    worker: Sequence[str],
    master: Sequence[str],
    logs: str,
    *,
    lifeline: Lifeline,
    listeners: Mapping[str, socket.socket],
    environment: Mapping[str, str] | None = None,
) -> Forked:
    """Start a worker as `spawn_worker` does, with a master that the zygote forks, too. `worker`, `master`: their
    arguments. The master is known to nobody until it has told its pid, so both need a lifeline."""
    return _spawn_zygote(worker, master, logs, lifeline, listeners, environment)


def spawn_one(
    arguments: Sequence[str],
    records: str,
    logs: str,
    *,
    lifeline: Lifeline,
    listeners: Mapping[str, socket.socket],
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a worker as `spawn_worker` does, with the master in its process. `records`: file of what outlives it."""
    return _spawn_zygote(arguments, None, logs, lifeline, listeners, environment, records).worker


def _spawn_zygote(
    arguments: Sequence[str],
    of_master: Sequence[str] | None,
    logs: str,
    lifeline: Lifeline | None,
    listeners: Mapping[str, socket.socket],
    environment: Mapping[str, str] | None,
    records: str = "",
) -> Forked:
    log, master_log = log_file("worker", logs), log_file("master", logs)
    pid = -1
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as on_failure:
        stack.enter_context(fork_lock)
        named = _by_option(lifeline, listeners, stack)
        output = _open_log(log, stack)
        ready, write_end = _pipe(stack, on_failure)
        descriptors = _by_option(lifeline, {}, stack) | {"--ready-fd": write_end}
        passed_on = {*descriptors.values()}
        master = both = None
        if records:
            both = BothPart(
                [each.fileno() for each in listeners.values()], _open_log(master_log, stack), records
            )
            passed_on |= {*both.listeners, both.log}
        if of_master is not None:
            pid, pid_end = _pipe(stack, on_failure)
            master = MasterPart(
                [*of_master, *_as_options(named)], [*named.values()], _open_log(master_log, stack), pid_end
            )
            passed_on |= {*named.values(), master.log, pid_end}
        parts = Parts([*arguments, *_as_options(descriptors)], [*descriptors.values()], master, both)
        command = program.python_command(
            "import gc; gc.disable(); from cw.launch.zygote import main; main()", parts.to_text()
        )
        process = _execute(command, output, passed_on, environment)
        on_failure.pop_all()
    return Forked(Child("worker", process, log, ready), pid, master_log)


def _open_log(path: str, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _pipe(stack: contextlib.ExitStack, on_failure: contextlib.ExitStack) -> tuple[int, int]:
    """Return the ends of a pipe: one to keep unless the start fails, one to pass on."""
    ours, theirs = os.pipe()
    on_failure.callback(os.close, ours)
    stack.callback(os.close, theirs)
    return ours, theirs


def _by_option(
    lifeline: Lifeline | None, listeners: Mapping[str, socket.socket] | None, stack: contextlib.ExitStack
) -> dict[str, int]:
    """Return the descriptors to pass on, by the option that names each."""
    for listener in (listeners or {}).values():
        stack.enter_context(listener)
    found = {option: listener.fileno() for option, listener in (listeners or {}).items()}
    return found | ({"--lifeline-fd": lifeline.read_end} if lifeline else {})


def _as_options(descriptors: Mapping[str, int]) -> list[str]:
    return [word for option, number in descriptors.items() for word in (option, str(number))]


def _execute(
    command: Sequence[str], output: int, descriptors: Iterable[int], environment: Mapping[str, str] | None
) -> Process:
    import subprocess  # Takes 5 ms to load, which `import cw` saves.

    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=tuple(descriptors),
        start_new_session=True,
        env=environment,
    )
    # From here on it is a Process, and may outlive the program: Popen must not warn of that.
    popen.returncode = 0
    return _identify(popen.pid)


def _identify(pid: int) -> Process:
    found = look_at(pid)
    return Process(pid, found[1] if found else 0)
