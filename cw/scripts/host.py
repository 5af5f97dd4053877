"""`python -m cw.scripts.host NAME`: parent of a whole script, which outlives the terminal where it was started.

    cw run --> host, in a session of its own, or in a job of the batch system
                 '--> the script, in a process group of its own; stdin is empty
                        stdout and stderr, one pipe: in order ---> output
                        its end, how and with which status ------> outcome.json
    cw runs cancel, Ctrl-C of `cw run` --> SIGUSR1, SIGINT (or a file, from another machine) --> SIGTERM, SIGINT

If the host is killed, the kernel kills the script: no script runs of which nobody knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

from cw import nested_link, processes, program
from cw.launch import launcher
from cw.machine.oom import OomKills
from cw.scripts.folder import ScriptFolder
from cw.scripts.kept_output import OutputFile
from cw.scripts.script import CANCELLED, ENDED, RUNS, Outcome, Place, shell_status
from cw.slurm.submitted import State

LOOK_SECONDS = 2.0
"""Time between looks for requests that came as a file (seconds). Longer: a cancellation from another machine waits.
Shorter: more load on a file server."""

ALIVE_SECONDS = 10.0
"""Time between signs of life in the folder (seconds)."""

KILL_SECONDS = 10.0
"""Time that a script has to end after SIGTERM (seconds). Longer: a cancelled one that does not obey holds its place."""

END_MARGIN = 90.0
"""A SIGTERM this long before the end of an allocation is taken for its end (seconds): batch systems look once a
minute."""

SAME_SECONDS = 1.0
"""Time after a script's death by SIGTERM in which one for the host has the same cause (seconds)."""

_PR_SET_PDEATHSIG = 1
_SIGNALS = signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1


class Host:
    """Runs the script of one folder."""

    def __init__(self, folder: ScriptFolder) -> None:
        self._folder = folder
        self._output = OutputFile(folder.file("output"))
        self._began = time.time()
        self._oom = OomKills()
        self._was_cancelled = False
        self._why = ""  # it was told to end, and not by a user
        self._kill_at: float | None = None
        self._waker, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Run the script until its end; returns the exit status."""
        script, folder = self._folder.script(), self._folder
        folder.write(self._place())
        folder.touch()
        if folder.take_request("cancel"):
            return self._end(Outcome(CANCELLED, 128 + signal.SIGTERM, "cancelled before it began"))
        try:
            # A login shell of another machine may lack the directory: said before the script fails in its own way.
            os.chdir(script.directory)
            self._process = subprocess.Popen(
                script.command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
                env={**_environment(), "PWD": script.directory},
            )
        except OSError as error:
            how = f"could not begin on {os.uname().nodename}: {error.filename}: {error.strerror}"
            return self._end(Outcome(ENDED, 126, how))
        folder.write(Outcome(RUNS, started=self._began))
        self._watch(self._process)
        return self._end(self._outcome(self._process.returncode))

    def _place(self) -> Place:
        """Return where this host runs."""
        pid = processes.identity(os.getpid())
        here = self._folder.place()._replace(host=os.uname().nodename, boot=launcher.boot_id(), process=pid)
        return here._replace(job=State.system.current_job()) if here.job_name else here

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Keep what the script prints, and pass signals on, until it has ended."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        poll.register(pipe, select.POLLIN)
        looked = touched = time.monotonic()
        while not _has_ended(process):
            for fd, _ in poll.poll(1000.0 * LOOK_SECONDS):
                if fd == self._waker:
                    self._take_signals(process)
                elif not self._copy(pipe):
                    poll.unregister(pipe)
            now = time.monotonic()
            if now - looked > LOOK_SECONDS:
                looked = now
                self._take_requests(process)
            if now - touched > ALIVE_SECONDS:
                touched = now
                self._folder.touch()
            if self._kill_at is not None and now > self._kill_at:
                _kill(process, signal.SIGKILL)
        self._copy(pipe)
        self._wait_for_reason(process)
        _kill(process, signal.SIGTERM)  # what it left behind in its group, whose number is still its own
        process.wait()

    def _wait_for_reason(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the signal that says why the script was ended: a batch system tells all processes of a job, in any
        order."""
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if ended is None or ended.si_status != signal.SIGTERM:
            return
        deadline = time.monotonic() + SAME_SECONDS
        while not (self._was_cancelled or self._why) and time.monotonic() < deadline:
            select.select([self._waker], [], [], deadline - time.monotonic())
            self._take_signals(process)

    def _copy(self, pipe: int) -> bool:
        """Keep what is in the pipe; False: it is closed."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(pipe, 64 * 1024):
                self._output.write(data)
            return False
        return True

    def _take_signals(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._waker, 4096):
                if number == signal.SIGINT:
                    _kill(process, signal.SIGINT)
                elif number == signal.SIGUSR1:
                    self._was_cancelled = True
                    self._terminate(process)
                elif number == signal.SIGTERM:
                    self._why = self._why or self._reason()
                    self._terminate(process)

    def _take_requests(self, process: subprocess.Popen[bytes]) -> None:
        if self._folder.take_request("interrupt"):
            _kill(process, signal.SIGINT)
        if self._folder.take_request("cancel"):
            self._was_cancelled = True
            self._terminate(process)

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the script to end; if it has been asked before, it ends at once after a while."""
        _kill(process, signal.SIGTERM)
        if self._kill_at is None:
            self._kill_at = time.monotonic() + KILL_SECONDS

    def _reason(self) -> str:
        """Say why this host was told to end, and not by a user's request to it."""
        end = os.environ.get("CW_UNTIL", "")
        if end.isdigit() and time.time() > int(end) - END_MARGIN:
            return "killed by the time limit of its job"
        if self._folder.place().job:
            return "its job was cancelled or preempted"
        return "its host was told to end (SIGTERM), as when the machine is shut down"

    def _outcome(self, returncode: int) -> Outcome:
        """Say how the script has ended."""
        status = shell_status(returncode)
        if self._was_cancelled:
            return Outcome(CANCELLED, status, "cancelled")
        how = self._why
        if not how and returncode < 0:
            name = signal.Signals(-returncode).name
            is_oom = returncode == -signal.SIGKILL and self._oom.are_new()
            how = f"killed by {name}" + (" for lack of memory" if is_oom else "")
        return Outcome(ENDED, status, how)

    def _end(self, outcome: Outcome) -> int:
        self._output.close()  # before anybody reads that nothing more will come
        self._folder.write(outcome._replace(started=self._began, ended=time.time()))
        return outcome.exit_status or 0


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """True if the script has ended. It is not reaped here."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _environment() -> dict[str, str]:
    """Return the environment of the script: what only this host needs stays here."""
    variables = {name: value for name, value in os.environ.items() if name != "CW_UNTIL"}
    if nested_link.VARIABLE in variables:  # only this host's own child lends the slot in which both are
        variables[nested_link.VARIABLE] += f" {os.getpid()}"
    return variables


def _kill(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the script and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _die_with_parent() -> None:
    """Let the kernel end this process with its parent. (The host has one thread: its end is that of the host.)"""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    """Run `python -m cw.scripts.host NAME`; returns the exit status of the script."""
    return Host(ScriptFolder(sys.argv[1])).run()


if __name__ == "__main__":
    program.run("cw.scripts.host", main)
