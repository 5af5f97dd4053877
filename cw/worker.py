"""`python -m cw.worker HOST`: slots, and the lives and deaths of the runners on them.

    master <== Connection ==> _on_<message> ---> Slots.on_*() ---> actions ---> channels <==> runners
                                                      ^                            |
                                  Results, ...  <-----'--- _on_results, exited <---'<==> keeper

It holds one connection to the master, whatever its number of slots. It runs no user code and opens no payload:
nothing that a job does stops it from answering, or from ending a job that must end. All in here runs in the
loop's thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from cw import address, channel, credential, keeper, memory, program, slots, wire
from cw import messages as m
from cw.errors import ProtocolError
from cw.kept import Kept
from cw.network import IN, Connection, Loop, dial
from cw.version import VERSION

logger = logging.getLogger("cw.worker")

DIAL_SECONDS = 10.0
"""For one attempt to connect."""

BACKOFF = 0.1, 5.0
"""Seconds between attempts: the first pause, and the longest. Each is stretched by up to a half at random."""

WRONG_SECONDS = 5.0
"""For a new credential to show up on a network file system, before a master with another one is a mistake."""

BACKOFF_LOST = 1.0
"""The longest pause while a master that was there is looked for."""

STILL_WAITING = 30.0
"""Seconds between two log lines that say that there is no master yet."""

HEARTBEAT = 5.0
RECONNECT = 300.0
"""Seconds for which it looks for a lost master while its runners go on; then it ends them, and waits on."""

SILENCE = 30.0
"""Seconds without a sign of life after which the master is taken for gone."""

TICK_SECONDS = 0.02
END_SECONDS = 5.0
"""For a runner that was told to end, before it is killed."""

KEEPERS = 3
"""Keepers that may die in a row without having started a runner."""

FROM_MASTER = frozenset(
    {m.Environment, m.Functions, m.Forget, m.Dispatch, m.Recall, m.TakeBack, m.Stop, m.Claim, m.Release,
     m.CloseSession, m.Goodbye, m.Heartbeat}
)


class KeeperProcess:
    """The keeper, as the worker sees it."""

    def __init__(self, loop: Loop, threads: int, on_report: Callable[[dict[str, Any] | None], None]) -> None:
        self._loop = loop
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ)
        for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB"):
            environment.setdefault(f"{name}_NUM_THREADS" if name != "VECLIB" else "VECLIB_MAXIMUM_THREADS", str(threads))
        self._process = subprocess.Popen(
            program.python_command("from cw.keeper import main; main(int(sys.argv[1]))", theirs.fileno()),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment,
        )
        theirs.close()
        self._socket.setblocking(False)
        self._on_report = on_report
        loop.watch(self._socket.fileno(), IN, self._on_ready)

    def fork(self, key: int, fds: list[int]) -> None:
        self._order({"do": "fork", "key": key}, fds)

    def kill(self, key: int) -> None:
        self._order({"do": "kill", "key": key}, [])

    def close(self) -> None:
        """End all runners, and wait until they are gone."""
        self._loop.watch(self._socket.fileno(), 0, self._on_ready)
        self._socket.close()
        try:
            self._process.wait(keeper.LAST_SECONDS + 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        keeper.kill_children()  # what it left, should it have been killed itself

    def _order(self, order: dict[str, Any], fds: list[int]) -> None:
        with contextlib.suppress(OSError):  # it is gone: its end is reported by the socket
            socket.send_fds(self._socket, [json.dumps(order).encode()], fds)

    def _on_ready(self, events: int) -> None:
        try:
            packet = self._socket.recv(keeper.PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            self._on_report(json.loads(packet))
        else:
            self._loop.watch(self._socket.fileno(), 0, self._on_ready)
            self._on_report(None)


class Worker:
    """One worker process. `ident` is random: the master tells it by that from all others."""

    def __init__(self, loop: Loop, count: int, find: Callable[[], list[address.Candidate]]) -> None:
        self.ident = secrets.token_hex(16)
        self.on_joined: Callable[[], None] = lambda: None
        self.failure: str = ""
        """Why it ended, if it could not go on."""
        self._loop = loop
        self._count = count
        self._find = find
        self._connection: Connection | None = None
        self._is_joined = False  # this connection's master has been told what is here
        self._slots = slots.Slots(count)
        self._threads = max(1, len(os.sched_getaffinity(0)) // count)
        self._keepers_lost = 0  # since the last runner was forked
        self._keeper = self._start_keeper()
        self._channels: dict[int, channel.WorkerEnd] = {}  # by the runner's key
        self._runners: dict[int, slots.Runner] = {}
        self._pids: dict[int, int] = {}
        self._environments: dict[int, Any] = {}  # by session
        self._functions: dict[tuple[int, int], slots.Function] = {}
        self._kept = Kept()
        self._lost_at = 0.0  # when the master was lost; 0: it is there, or there was none
        self._is_ticking = False
        self._beat_at = 0.0
        self._pause = BACKOFF[0]
        self._told_at = 0.0
        self._has_joined = False
        self._wrong_since = 0.0  # when the only masters found began to have another credential
        self._is_leaving = False
        keeper.set_subreaper()
        loop.tick(1.0, self._on_second)
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Dispatch: self._on_dispatch,
            m.Functions: self._on_functions,
            m.Environment: self._on_environment,
            m.Forget: self._on_forget,
            m.Recall: lambda message: self._perform(self._slots.on_recall(message.count, time.monotonic())),
            m.Stop: lambda message: self._perform(self._slots.on_stop(message.dispatches, time.monotonic())),
            m.TakeBack: lambda message: self._perform(
                self._slots.on_take_back(message.dispatches, time.monotonic())
            ),
            m.Claim: self._on_claim,
            m.Release: self._on_release,
            m.CloseSession: self._on_close_session,
            m.Goodbye: self._on_goodbye,
            m.Heartbeat: lambda message: None,
        }

    # --- the master ---

    def connect(self) -> None:
        """Look for the master until it is found."""
        try:
            candidates = self._find()
        except program.Mistake as mistake:
            self._give_up(str(mistake))
            return
        self._candidates = candidates
        dial(self._loop, [(c.host, c.port) for c in candidates], DIAL_SECONDS, self._on_connected, self._on_no_master)

    def leave(self) -> None:
        """Say goodbye, end the runners, stop the loop."""
        if self._is_leaving:
            return
        self._is_leaving = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.on_close = lambda reason: None  # should the master be gone in this very moment
            connection.send(m.Goodbye("it was told to end", True))
            connection.flush()
            connection.close()
        self._loop.stop()

    def close(self) -> None:
        """End the runners, and wait until they are gone."""
        for end in self._channels.values():
            end.close()
        self._channels.clear()
        self._keeper.close()

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._loop.stop()

    def _on_connected(self, sock: socket.socket, where: tuple[str, int]) -> None:
        if self._is_leaving:
            sock.close()
            return
        connection = self._connection = Connection(self._loop, sock, decoder=wire.Decoder(memory.allocate))
        connection.decoder.accepts = FROM_MASTER | {m.Welcome, m.Refused}
        connection.on_message = self._on_answer
        connection.on_close = self._on_master_gone
        connection.send(
            m.Hello("worker", self.ident, "", m.PROTOCOL, list(sys.version_info[:2]), VERSION,
                    os.uname().nodename, os.getpid(), self._count, 0)
        )  # fmt: skip

    def _on_no_master(self, failures: Sequence[tuple[tuple[str, int], OSError]]) -> None:
        if self._lost_at and time.monotonic() - self._lost_at > RECONNECT:
            logger.warning("the master has not come back within %.0f s: the jobs here are given up", RECONNECT)
            self._lost_at = 0.0
            self._start_afresh()
        unknown = [f for f in failures if isinstance(f[1], socket.gaierror) and f[1].errno == socket.EAI_NONAME]
        if failures and len(unknown) == len(failures) and not self._told_at:
            self._give_up(f"the host {failures[0][0][0]!r} is unknown: check its name")
            return
        now = time.monotonic()
        if self._is_hopeless(failures, now):
            return
        if not self._told_at or now - self._told_at > STILL_WAITING:
            self._told_at = now
            tried = "; ".join(f"{c} {e.strerror or e}" for c, (_, e) in zip(self._candidates, failures, strict=False))
            logger.warning("no master yet, trying on: %s", tried)
        self._connect_later()

    def _is_hopeless(self, failures: Sequence[tuple[tuple[str, int], OSError]], now: float) -> bool:
        """Is there a mistake with the credential that waiting does not mend? Then the worker ends, with a sentence.

        After it has once worked, it waits: what is in the way now may go again.
        """
        fault = credential.fault_among(error for _, error in failures)
        if not isinstance(fault, credential.WrongCredential):
            self._wrong_since = now
        is_named = self._candidates[0].source != address.NOTHING_KNOWN  # else somebody else's master may be there
        if fault is None or self._has_joined:
            return False
        if fault.may_pass and not (is_named and now - self._wrong_since >= WRONG_SECONDS):
            return False
        self._give_up(str(fault))
        return True

    def _on_answer(self, answer: Any) -> None:
        connection = self._connection
        assert connection is not None
        if type(answer) is m.Refused:
            self._give_up(f"the master at {connection.peer} refused this worker: {answer.reason}")
            return
        if type(answer) is m.Goodbye:
            self._on_goodbye(answer)
            return
        if type(answer) is not m.Welcome:
            raise ProtocolError(f"{type(answer).__name__} before a Welcome")
        connection.decoder.accepts = FROM_MASTER
        connection.on_message = lambda message: self._handlers[type(message)](message)
        self._pause, self._told_at, self._lost_at, self._has_joined = BACKOFF[0], 0.0, 0.0, True
        self._join()
        cpus = len(os.sched_getaffinity(0))
        logger.info("joined the master at %s with %d slot%s (this machine has %d usable CPUs)",
                    connection.peer, self._count, "s" * (self._count != 1), cpus)  # fmt: skip
        self.on_joined()

    def _on_master_gone(self, reason: str) -> None:
        self._is_joined = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._told_at = time.monotonic()  # the line below is enough for a while
            self._lost_at = self._lost_at or self._told_at
            logger.warning("the master is gone%s; looking for it again, for %.0f s, while the jobs here go on",
                           f" ({reason})" if reason else "", RECONNECT)  # fmt: skip
        self._connect_later()

    def _on_goodbye(self, message: m.Goodbye) -> None:
        """The master ends. If for good, so do the jobs here."""
        if message.is_final and self._connection is not None:
            self._connection.close()
            self._connection = None
            self._is_joined = False
            logger.info("the master has ended: %s", message.reason)
            self._start_afresh()
            self._connect_later()
        else:
            self._on_master_gone(message.reason)

    def _connect_later(self) -> None:
        # While jobs wait here for a master that restarts, it must be found before that has settled.
        longest = BACKOFF[1] if not self._lost_at else BACKOFF_LOST
        self._loop.later(min(self._pause, longest) * random.uniform(1.0, 1.5), self.connect)
        self._pause = min(2 * self._pause, BACKOFF[1])

    def _start_afresh(self) -> None:
        """End all runners and forget all jobs."""
        self.close()
        self._slots = slots.Slots(self._count)
        self._runners.clear()
        self._pids.clear()
        self._kept = Kept()
        self._environments.clear()
        self._functions.clear()
        self._keeper = self._start_keeper()

    def _on_dispatch(self, message: m.Dispatch) -> None:
        functions = self._functions
        jobs, unknown = [], []
        for dispatch, session, number, function_number, avoid, attempt, payload in zip(*message, strict=True):
            function = functions.get((session, function_number))
            if function is None:  # its session was closed while this was on its way
                unknown.append(dispatch)
            else:
                jobs.append(slots.Job(dispatch, session, number, function, avoid, attempt, payload))
        if unknown:
            self._send(m.Returned(unknown))
        self._perform(self._slots.on_jobs(jobs, time.monotonic()))

    def _on_functions(self, message: m.Functions) -> None:
        for session, number, payload in zip(*message, strict=True):
            known = self._functions.get((session, number))
            if known is None or known.payload != payload:  # a master that is new sends all again
                self._functions[session, number] = slots.Function(number, payload)

    def _on_environment(self, message: m.Environment) -> None:
        for session, payload in zip(*message, strict=True):
            self._environments[session] = payload
            self._slots.on_session_opened(session)

    def _on_forget(self, message: m.Forget) -> None:
        for session, number in zip(*message, strict=True):
            function = self._functions.pop((session, number), None)
            for end in self._channels.values():
                if end.functions.pop(function, function) is None:
                    end.send(m.Forget([session], [number]))

    def _on_close_session(self, message: m.CloseSession) -> None:
        session = message.session
        self._perform(self._slots.on_session_closed(session, time.monotonic()))
        self._environments.pop(session, None)
        for key in [key for key in self._functions if key[0] == session]:
            del self._functions[key]
        self._kept.forget_session(session)

    def _join(self) -> None:
        """Tell the master what is here; from now on it is told what happens. It knows nothing of what we remember."""
        self._slots.on_joined()
        in_use = {job.function for job, _ in self._slots.holdings()}
        forgotten = [key for key, function in self._functions.items() if function not in in_use]
        if forgotten:
            self._on_forget(m.Forget(*map(list, zip(*forgotten, strict=True))))
        holdings = [
            (job.dispatch, job.session, job.number, m.RUNNING if is_running else m.UNSTARTED)
            for job, is_running in self._slots.holdings()
        ]
        holdings += self._kept.holdings()
        self._is_joined = True
        if holdings:
            self._send(m.Holding(*map(list, zip(*holdings, strict=True))))
        self._send(m.Reported(list(self._environments)))

    def _on_claim(self, message: m.Claim) -> None:
        """Send again what was kept."""
        results, deaths, gone = self._kept.find(message.dispatches)
        if results:
            self._send(m.Results(*map(list, zip(*results, strict=True))))
        for dispatch, note in deaths:
            self._send(m.RunnerDied(dispatch, note))
        if gone:
            self._send(m.Returned(gone))

    def _on_release(self, message: m.Release) -> None:
        self._kept.forget(message.dispatches)

    def _send(self, message: tuple[Any, ...]) -> None:
        if self._is_joined and self._connection is not None:  # else it is told when it is there again
            self._connection.send(message)

    # --- the policy's actions ---

    def _perform(self, actions: Sequence[slots.Action]) -> None:
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            kind = type(action)
            if kind is slots.SendJobs:
                self._send_jobs(action)
            elif kind is slots.StartRunner:
                self._start_runner(action.runner)
            elif kind is slots.Retract:
                taken = self._channels[action.runner.key].take_tokens(action.count)
                todo.extendleft(reversed(self._slots.on_retracted(action.runner, taken, time.monotonic())))
            elif kind is slots.SendDrop:
                self._channels[action.runner.key].send(m.Drop())
            elif kind is slots.GiveBack:
                todo.extendleft(reversed(self._slots.on_give_back(action.count)))
            elif kind is slots.EndRunner:
                self._end_runner(action.runner)
            elif kind is slots.KillRunner:
                self._keeper.kill(action.runner.key)
            elif kind is slots.Return:
                self._send(m.Returned(action.dispatches))
            elif kind is slots.Recalled:
                self._send(m.Recalled(action.dispatches))
            elif kind is slots.TellStarted:
                self._send(m.Started(action.dispatches))
            elif kind is slots.TellDied:
                self._kept.add_death(action.job, action.note)
                self._send(m.RunnerDied(action.job.dispatch, action.note))
        if not self._is_ticking and self._slots.wants_tick():
            self._is_ticking = True
            self._loop.tick(TICK_SECONDS, self._on_tick)

    def _send_jobs(self, action: slots.SendJobs) -> None:
        end = self._channels[action.runner.key]
        for job in action.jobs:
            if job.function not in end.functions:
                end.functions[job.function] = None
                function = job.function
                end.send(m.Functions([job.session], [function.number], [function.payload]))
        end.send_jobs(action.jobs)

    def _start_runner(self, runner: slots.Runner) -> None:
        end = channel.WorkerEnd(self._loop)
        self._channels[runner.key] = end
        self._runners[runner.key] = runner
        end.on_results = lambda numbers, statuses, seconds, payloads: self._on_results(
            runner, numbers, statuses, seconds, payloads
        )
        end.on_dropped = lambda: self._perform(self._slots.on_dropped(runner, time.monotonic()))
        self._keeper.fork(runner.key, end.runner_fds)
        end.handed_over()
        end.send(m.Environment([runner.session], [self._environments[runner.session]]))

    def _end_runner(self, runner: slots.Runner) -> None:
        self._channels[runner.key].end()
        self._loop.later(END_SECONDS, lambda: self._kill_if_there(runner))

    def _kill_if_there(self, runner: slots.Runner) -> None:
        if self._runners.get(runner.key) is runner:  # keys begin anew with another master
            self._keeper.kill(runner.key)

    # --- the runners ---

    def _on_results(
        self, runner: slots.Runner, numbers: list[int], statuses: list[int], seconds: list[float], payloads: list[Any]
    ) -> None:
        self._kept.add_results(self._slots.jobs(numbers), statuses, seconds, payloads)
        self._send(m.Results(numbers, statuses, seconds, payloads))
        self._perform(self._slots.on_results(runner, numbers, seconds, time.monotonic()))

    def _start_keeper(self) -> KeeperProcess:
        return KeeperProcess(self._loop, self._threads, self._on_report)

    def _on_report(self, report: dict[str, Any] | None) -> None:
        if report is None:
            self._keepers_lost += 1
            if self._keepers_lost > KEEPERS:
                self._give_up("the process that starts runners dies again and again: see the messages above")
                return
            logger.error("the keeper is gone, and the runners with it; starting another")
            self._keeper.close()
            self._keeper = self._start_keeper()
            for key in list(self._runners):
                self._on_exited(key, "ended with its keeper")
        elif report["what"] == "forked":
            self._pids[report["key"]] = report["pid"]
            self._keepers_lost = 0
        else:
            self._on_exited(report["key"], report["how"])

    def _on_exited(self, key: int, how: str) -> None:
        runner = self._runners.pop(key, None)
        if runner is None:
            return
        now = time.monotonic()
        end = self._channels.pop(key)
        was_ending = runner.is_ending
        self._slots.on_runner_gone(runner)
        end.drain()
        note = {
            "host": os.uname().nodename, "worker": os.getpid(), "slot": runner.slot.index,
            "pid": self._pids.pop(key, 0), "how": how, "seconds": round(now - runner.since, 3),
        }  # fmt: skip
        unstarted = end.take_tokens(len(runner.sent))
        end.close()
        if not was_ending:
            logger.warning("runner %s on slot %d %s", note["pid"], runner.slot.index, how)
        self._perform(self._slots.on_runner_exited(runner, unstarted, note, now))

    # --- time ---

    def _on_tick(self, now: float) -> bool:
        self._perform(self._slots.on_tick(now))
        self._is_ticking = self._slots.wants_tick()
        return self._is_ticking

    def _on_second(self, now: float) -> bool:
        self._perform(self._slots.on_second(now))
        connection = self._connection
        if connection is not None:
            if connection.count_silence() > SILENCE:
                self._on_master_gone(f"silent for {SILENCE:.0f} s")
            elif now - self._beat_at >= HEARTBEAT:
                self._beat_at = now
                connection.send(m.Heartbeat())
        return True


def _parse_slots(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or not 0 < int(text) <= 65535:
        raise ValueError(f"{text!r} is no number of slots: give 1 or more, or 'auto' for the usable CPUs")
    return int(text)


def main() -> int:
    """The program. Returns its exit status."""
    parser = program.argument_parser(
        "cw.worker",
        "Runs the jobs that clients submit to a master. Waits for the master if it is not there yet.",
        epilog="Without HOST: CW_MASTER, else the running master's address file, else this machine.",
    )
    parser.add_argument("host", nargs="?", metavar="HOST[:PORT]", help="where the master runs")
    parser.add_argument("--port", type=program.converted_by(address.check_port), help="its port (default: 5494)")
    parser.add_argument("-n", dest="slots", metavar="SLOTS", type=program.converted_by(_parse_slots), default=1,
                        help="jobs to run at a time, or 'auto': one for each usable CPU (default: 1)")  # fmt: skip
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    address.find_master(options.host, options.port)  # mistakes end the program here
    loop = Loop()
    worker = Worker(loop, options.slots, lambda: address.find_master(options.host, options.port))
    program.end_with(loop, options.lifeline_fd, worker.leave)
    if options.ready_fd is not None:
        worker.on_joined = lambda: program.say_ready(options.ready_fd)
    worker.connect()
    try:
        loop.run()
    finally:
        worker.close()
    if worker.failure:
        raise program.Mistake(worker.failure)
    return 0


if __name__ == "__main__":
    program.run("cw.worker", main)
