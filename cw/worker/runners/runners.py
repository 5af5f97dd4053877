"""Runners of a worker as processes: started by the forkserver, reached through channels, ended with signals.

    Slots' actions --> start, send_jobs, ... --> WorkerEnd <== channel ==> runner
    Slots.on_*()   <-- on_results, on_dropped <--'                           |
                   <-- on_exited <----------------------- forkserver <-----------'

`cw.worker.policy.slots` decides what happens to them. All code here runs in the loop's thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cw import credential, processes
from cw.errors import PayloadError
from cw.events import EventLogger, RateLimited
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.objects import Key, Object, ObjectCache, named_by
from cw.payloads import environment as environments
from cw.payloads import hash_seed
from cw.runner.channel import WorkerEnd
from cw.worker.policy.departure import END_SECONDS, STOP_SECONDS
from cw.worker.policy.jobs import WorkerJob
from cw.worker.policy.pool import PooledRunner
from cw.worker.runners.binding import Binder
from cw.worker.runners.forkserver_client import ForkserverProcess

logger = EventLogger("cw.worker")

STOP_STEPS = (0.0, signal.SIGINT), (STOP_SECONDS / 2, signal.SIGTERM), (STOP_SECONDS, signal.SIGKILL)
"""Steps that end a running job: after n seconds this signal, to the runner's process group. The first raises
KeyboardInterrupt in the job, so that it may clean up; the second is for its children (the runner only notes it)."""

FORKSERVER_SECONDS = 60.0
"""Time that a forkserver for a client's PYTHONHASHSEED is kept without runners (seconds). Longer: a process idles.
Shorter: the next client with that seed waits for a new one to start."""

FORKSERVERS = 3
"""Forkservers that may die in a row without having started a runner."""


lines = RateLimited("cw.worker")


class _NoEnd:
    """Stands in for a `WorkerEnd` when no process could be started: what it is sent never starts."""

    def __init__(self) -> None:
        self.objects = ObjectCache()
        self._tokens = 0

    def send(self, message: Any) -> None:
        pass

    def send_jobs(self, jobs: Sequence[WorkerJob]) -> None:
        self._tokens += len(jobs)

    def take_tokens(self, count: int) -> int:
        taken = min(count, self._tokens)
        self._tokens -= taken
        return taken

    def tokens_left(self) -> int:
        return self._tokens

    def drain(self) -> None:
        pass

    end = close = read = drain
    is_loading = False


class Output(Protocol):
    """What takes the output of runners."""

    def attach(self, runner: PooledRunner, end: WorkerEnd) -> None:
        """Take the output of a runner that starts."""

    def detach(self, runner: PooledRunner, has_job: bool) -> str:
        """Take the last output of a runner that has ended, in the middle of a job (`has_job`) or not. Returns its last
        words."""


class _OwnSeed:
    """This worker's own hash seed, or the cluster's, so that strings have the same hashes in all runners."""

    def __init__(self) -> None:
        self._found = hash_seed.of_this_process()

    def find(self) -> str:
        """Return it; '' while there is no credential, for which a worker waits."""
        if not self._found:
            with contextlib.suppress(credential.CredentialError):  # connecting reports what is wrong with it
                self._found = credential.load().hash_seed()
        return self._found


class Runners:
    """Processes of runners, by the key of their `PooledRunner`.

    `on_results(runner, numbers, statuses, seconds, payloads)`, `on_dropped(runner)`, `on_remark(runner, remark)`,
    `on_waits(runner, message)` report a runner's messages. `on_gone(runner)`: its process is gone, and its last results
    follow; then `on_exited(runner, unstarted, note)`. `on_failure(text)`: no runner can be started any more.
    """

    def __init__(
        self,
        loop: Loop,
        binder: Binder,
        descriptors: tuple[int, int] | None = None,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self.on_results: Callable[[PooledRunner, list[int], list[int], list[float], list[Any]], None]
        self.on_dropped: Callable[[PooledRunner], None]
        self.on_remark: Callable[[PooledRunner, m.Remark], None]
        self.on_waits: Callable[[PooledRunner, m.Waits | m.WaitOver], None]
        self.output: Output | None = None
        """What takes the output of the runners, if anything does."""
        self.on_gone: Callable[[PooledRunner], None]
        self.on_exited: Callable[[PooledRunner, int, dict[str, Any]], None]
        self.on_failure: Callable[[str], None]
        self._loop = loop
        self._binder = binder
        self._descriptors = descriptors
        self._end_seconds = end_seconds
        self._channels: dict[int, WorkerEnd | _NoEnd] = {}
        self._runners: dict[int, PooledRunner] = {}
        self._pids: dict[int, int] = {}
        self._forkservers_lost = 0  # since the last runner was forked
        self.ends = -1.0
        """Time at which running jobs are stopped (time.monotonic()), as far as known; -1: unknown."""
        self._own_seed = _OwnSeed()
        # Keys are the PYTHONHASHSEED of their runners; '': none is known.
        self._forkservers: dict[str, ForkserverProcess] = {}
        self._forkserver_by_key: dict[int, ForkserverProcess] = {}  # by key of the runner
        self._prepare()

    def start(self, runner: PooledRunner, environment: Object | None) -> None:
        """Start the runner's process, and send it its environment."""
        self._runners[runner.key] = runner
        payload = None if environment is None else environment.payload
        try:
            forkserver = self._forkserver_for(payload)
            end = self._channels[runner.key] = WorkerEnd(self._loop)
        except OSError as error:
            self._channels[runner.key] = _NoEnd()
            how = f"could not be started: {error.strerror}"
            self._loop.call_soon_threadsafe(lambda: self._on_exited(runner.key, how))
            return
        end.on_results = lambda numbers, statuses, seconds, payloads: self.on_results(
            runner, numbers, statuses, seconds, payloads
        )
        end.on_dropped = lambda: self.on_dropped(runner)
        end.on_remark = lambda remark: self.on_remark(runner, remark)
        end.on_waits = lambda message: self.on_waits(runner, message)
        if self.output is not None:
            self.output.attach(runner, end)
        self._forkserver_by_key[runner.key] = forkserver
        _, _, cpus, devices = runner.context
        forkserver.fork(runner.key, self._binder.bind(cpus, devices, runner.cpus), end.runner_fds)
        end.handed_over()
        for message in end.objects.prepare([environment] if environment is not None else []):
            end.send(message)
        end.send(m.Slot(runner.slot.index, cpus or self._binder.threads, self.ends))

    def send_jobs(self, runner: PooledRunner, jobs: Sequence[WorkerJob]) -> None:
        """Send jobs, and before them those of their objects that the runner does not have."""
        end = self._channels[runner.key]
        for message in end.objects.prepare(named_by(jobs)):
            end.send(message)
        if others := [(job.dispatch, job.choice) for job in jobs if job.choice]:
            end.send(m.Alternatives(*map(list, zip(*others, strict=True))))
        end.send_jobs(jobs)

    def memory(self) -> int:
        """Resident memory of all runners (bytes)."""
        return sum(processes.memory(pid) for pid in self._pids.values())

    def send_drop(self, runner: PooledRunner) -> None:
        """Have the runner skip jobs that it finds no token for."""
        self._channels[runner.key].send(m.Drop())

    def send(self, runner: PooledRunner, message: m.Depth | m.Resume) -> None:
        """Send a message, unless the runner's process is gone."""
        end = self._channels.get(runner.key)
        if end is not None:
            end.send(message)

    def forget(self, keys: Sequence[Key]) -> None:
        """Forget objects that only jobs here may still use."""
        for end in self._channels.values():
            for message in end.objects.forget(keys):
                end.send(message)

    def take_tokens(self, runner: PooledRunner, count: int) -> int:
        """Own up to `count` of the jobs sent last; returns how many."""
        return self._channels[runner.key].take_tokens(count)

    def tokens_left(self, runner: PooledRunner) -> int:
        """Return how many of the jobs sent to the runner have not started."""
        return self._channels[runner.key].tokens_left()

    def end(self, runner: PooledRunner) -> None:
        """Let a runner that has no work end by itself."""
        self._channels[runner.key].end()
        self._loop.call_later(self._end_seconds, lambda: self._kill_slow(runner))

    def stop(self, runner: PooledRunner, pace: float = 1.0) -> None:
        """End a runner and what it runs, step by step. `pace`: share of the steps' time that is available."""
        for seconds, number in STOP_STEPS:
            if seconds:
                self._loop.call_later(seconds * pace, lambda number=number: self._signal(runner, number))  # type: ignore[misc]
            else:
                self._signal(runner, number)

    def take_in(self) -> None:
        """Report what runners have written by now: it came before any signal that follows."""
        for end in list(self._channels.values()):
            end.read()

    def _kill_slow(self, runner: PooledRunner) -> None:
        if self._runners.get(runner.key) is runner:
            lines.warning("worker.runner_killed",
                          "runner %s did not end within %g s, perhaps for a thread of a job in it: it is killed",
                          self._pids.get(runner.key, 0), self._end_seconds)  # fmt: skip
            self._signal(runner, signal.SIGKILL)

    def place(self, runner: PooledRunner) -> dict[str, Any]:
        """Describe where a runner runs, for notes."""
        return {
            "host": os.uname().nodename, "worker": os.getpid(), "slot": runner.slot.index,
            "pid": self._pids.get(runner.key, 0),
        }  # fmt: skip

    def close(self) -> None:
        """End all runners and wait until they are gone. Nothing is reported any more."""
        for end in self._channels.values():
            end.close()
        self._channels.clear()
        self._runners.clear()
        self._pids.clear()
        self._forkserver_by_key.clear()
        for forkserver in list(self._forkservers.values()):
            self._close_forkserver(forkserver)

    def _signal(self, runner: PooledRunner, number: int) -> None:
        if (
            self._runners.get(runner.key) is runner
        ):  # otherwise it has ended; and keys begin anew with another master
            forkserver = self._forkserver_by_key.get(runner.key)
            if forkserver is not None:
                forkserver.signal(runner.key, number)

    # --- the forkservers ---

    def _prepare(self) -> None:
        """Start the forkserver of most runners before they are needed."""
        if self._own_seed.find():
            self._start_forkserver(self._own_seed.find())

    def _forkserver_for(self, environment: Any) -> ForkserverProcess:
        """Return the forkserver whose runners have the client's PYTHONHASHSEED; without one, this worker's."""
        seed = _hash_seed_of(environment) or self._own_seed.find()
        return self._forkservers.get(seed) or self._start_forkserver(seed)

    def _start_forkserver(self, seed: str) -> ForkserverProcess:
        forkserver = self._forkservers[seed] = ForkserverProcess(
            self._loop,
            self._binder,
            self._descriptors,
            lambda report: self._on_report(seed, report),
            seed,
        )
        return forkserver

    def _close_forkserver(self, forkserver: ForkserverProcess) -> None:
        del self._forkservers[forkserver.hash_seed]
        forkserver.close({other.pid for other in self._forkservers.values()})

    def _close_idle_forkserver(self, forkserver: ForkserverProcess) -> None:
        if forkserver in self._forkservers.values() and forkserver not in self._forkserver_by_key.values():
            self._close_forkserver(forkserver)

    def _on_report(self, seed: str, report: dict[str, Any] | None) -> None:
        if report is None:
            self._forkservers_lost += 1
            if self._forkservers_lost > FORKSERVERS:
                self.on_failure(
                    "the process that starts runners dies again and again: see the messages above"
                )
                return
            logger.error(
                "worker.forkserver_died", "the forkserver died, and its runners with it; another is started"
            )
            gone = self._forkservers[seed]
            self._close_forkserver(gone)
            try:
                self._start_forkserver(seed)
            except OSError as error:
                self.on_failure(f"the process that starts runners cannot be started: {error}")
                return
            for key in [key for key, forkserver in self._forkserver_by_key.items() if forkserver is gone]:
                self._on_exited(key, "ended with its forkserver")
        elif report["what"] == "forked":
            self._pids[report["key"]] = report["pid"]
            self._forkservers_lost = 0
            runner = self._runners.get(report["key"])
            if runner is not None and runner.cpus:  # they may be others by now
                processes.pin(report["pid"], runner.cpus)
        else:
            self._on_exited(report["key"], report["how"])

    def _on_exited(self, key: int, how: str) -> None:
        runner = self._runners.pop(key, None)
        if runner is None:
            return
        was_ending = runner.is_ending
        forkserver = self._forkserver_by_key.pop(key, None)
        if forkserver is not None:
            forkserver.clear_scratch(self._pids.get(key, 0))
        if forkserver is not None and forkserver.hash_seed != self._own_seed.find():
            self._loop.call_later(FORKSERVER_SECONDS, lambda: self._close_idle_forkserver(forkserver))
        end = self._channels.pop(key)
        self.on_gone(runner)
        end.drain()
        unstarted = end.take_tokens(len(runner.sent))
        has_job = len(runner.sent) > unstarted
        stderr = "" if self.output is None else self.output.detach(runner, has_job)
        seconds = round(time.monotonic() - runner.since, 3)
        note = {
            **self.place(runner),
            "how": how,
            "seconds": seconds,
            "stderr": stderr,
            "loading": end.is_loading,
        }
        self._pids.pop(key, None)
        end.close()
        if not was_ending:
            lines.warning(
                "worker.runner_died", "runner %s on slot %d %s", note["pid"], runner.slot.index, how
            )
        self.on_exited(runner, unstarted, note)


def _hash_seed_of(environment: Any) -> str:
    """Return the PYTHONHASHSEED of a session's client; '' if it has none."""
    if environment is None:
        return ""
    try:
        seed = environments.load_environment(environment).hash_seed
    except PayloadError:  # its jobs will report it
        return ""
    return seed if hash_seed.is_valid(seed) else ""
