"""The forkserver: the process that forks a worker's runners and ends them.

    worker ==(socket, one small JSON text a packet)==> forkserver --fork--> runner (its own process group)
       fork, with descriptors and binding                ^ |    '-----> runner --> what jobs start
       signal; scratch: where runners make directories     |
    worker <==  forked, exited  ===========================' waitpid

It has imported what runners need, holds neither keys nor connections, and has one thread: forking it
is cheap and safe. Each runner adopts its orphaned descendants (a subreaper). When it ends, the forkserver
adopts them and ends them too, even those in sessions of their own. When the worker is gone, by any
means, its end of the socket closes, and the forkserver ends everything and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from cw import program
from cw.machine.oom import OomKills
from cw.payloads import serialize
from cw.runner import channel, output_channel, runner
from cw.worker.runners.binding import PACKET, Binding, apply
from cw.worker.runners.reaping import children, kill, kill_children, set_subreaper

FDS = channel.FDS + output_channel.FDS

_PR_SET_PDEATHSIG = 1  # prctl(2)

NO_MEMORY = ": the machine, or the control group of the worker, had no memory left"

TERM_SECONDS = 2.0
"""Time that programs which a runner on several nodes leaves behind have to end what they started on the others
(seconds). Shorter: `srun` is killed before it has, and its processes go on. Longer: a slot waits for what hangs."""


class Forkserver:
    """Forks runners on order, reaps them, and reports."""

    def __init__(self, orders: socket.socket) -> None:
        self.scratch = ""
        self._orders = orders
        self._oom_kills = OomKills()
        self._pid_by_key: dict[int, int] = {}
        self._key_by_pid: dict[int, int] = {}
        self._has_hostfile = False
        self._poll = select.poll()
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Serve until the worker is gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        orders, wake = self._orders.fileno(), self._wake
        self._poll.register(orders, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                    self._reap()
                elif fd == orders:
                    packet, fds, _, _ = socket.recv_fds(self._orders, PACKET, FDS)
                    if not packet:
                        return
                    self._obey(json.loads(packet), fds)

    def _obey(self, order: dict[str, Any], fds: list[int]) -> None:
        if order["do"] == "scratch":
            self.scratch = order["path"]
        elif order["do"] == "environ":
            apply(Binding(order["variables"], None, []))
        elif order["do"] == "fork":
            self._fork(order["key"], Binding(*order["binding"]), fds)
        elif order["do"] == "signal" and order["key"] in self._pid_by_key:
            pid = self._pid_by_key[order["key"]]
            kill(pid, True, order["number"])
            if order["number"] == signal.SIGKILL:
                kill(pid, False)  # its job may have moved it into another group

    def _fork(self, key: int, binding: Binding, fds: list[int]) -> None:
        self._has_hostfile = bool(binding.hostfile)
        try:
            if len(fds) < FDS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as error:
            self._report(what="exited", key=key, pid=0, how=f"could not be started: {error.strerror}")
        else:
            if not pid:
                self._become_runner(binding, fds)
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)  # both sides do this: a signal may come before the child has run a line
            self._pid_by_key[key] = pid
            self._key_by_pid[pid] = key
            self._report(what="forked", key=key, pid=pid)
        finally:
            for fd in fds:
                os.close(fd)

    def _become_runner(self, binding: Binding, fds: list[int]) -> None:
        """Become a runner, in the child. Never returns."""
        status = 1
        try:
            for target, fd in enumerate(fds[channel.FDS : channel.FDS + 2], 1):
                os.dup2(fd, target)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, runner.on_sigint)
            signal.signal(signal.SIGTERM, runner.on_sigterm)
            os.setpgid(0, 0)
            set_subreaper()
            # Die with a killed forkserver. It has one thread, so the end of that thread means its end.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._orders.close()
            os.close(self._wake)
            os.close(self._waker)
            sys.argv[:] = [""]
            apply(binding)
            runner.main(fds, os.path.join(self.scratch, str(os.getpid())))
            status = 0
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT  # a SIGINT for a job that had ended in that moment
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _leave(status)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                break
            pid = found.si_pid
            key = self._key_by_pid.pop(pid, None)
            if key is not None:
                if self._has_hostfile:
                    self._end_strays(pid)
                kill(pid, True)  # the rest of its group; not reaped yet, so its number is still its own
            _, status = os.waitpid(pid, 0)
            if key is not None:
                del self._pid_by_key[key]
                self._report(what="exited", key=key, pid=pid, how=self._describe_end(status))
        # Strays that left the group became ours with the end of their runner, and so do their own children when reaped.
        for stray in children():
            if stray not in self._key_by_pid:
                kill(stray, False)

    def _end_strays(self, runner: int) -> None:
        """Ask what a runner that has ended left behind to end, and wait. (On several nodes no other runs a job.)"""
        deadline = time.monotonic() + TERM_SECONDS
        asked: set[int] = set()
        while strays := [pid for pid in children() if pid != runner and pid not in self._key_by_pid]:
            for pid in strays:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if pid not in asked:
                    kill(pid, False, signal.SIGTERM)
            asked |= {*strays}
            if time.monotonic() > deadline:
                return
            select.select([], [], [], 0.002)

    def _describe_end(self, status: int) -> str:
        is_for_memory = (
            os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and self._oom_kills.are_new()
        )
        return how_it_ended(status) + (NO_MEMORY if is_for_memory else "")

    def _report(self, **report: Any) -> None:
        self._orders.send(json.dumps(report, ensure_ascii=False).encode(errors="replace"))


def how_it_ended(status: int) -> str:
    """Describe a wait status: 'killed by SIGSEGV', 'exited with status 3'."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _leave(status: int) -> None:
    import atexit
    import threading

    # Do what the interpreter does at its end, without unwinding the forkserver's frames below.
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def main(fd: int) -> None:
    """Serve the worker at the other end of this descriptor until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_subreaper()
    # Runners inherit the handlers and their stack: a crash leaves a trace on their stderr.
    faulthandler.enable(2, all_threads=False)
    serialize.load_what_errors_take()
    program.collect_from_now_on()  # here and in the runners
    orders = socket.socket(fileno=fd)
    orders.set_inheritable(False)
    server = Forkserver(orders)
    try:
        server.run()
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        kill_children()
        if os.path.isdir(server.scratch):
            import shutil  # imported late: runners would inherit it and all that it imports

            shutil.rmtree(server.scratch, ignore_errors=True)
