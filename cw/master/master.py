"""`python -m cw.master`: carries messages between the network and the scheduling policy.

    clients                             this process                             workers
    Submit, Cancel ----> ClientPeer ----> Dispatcher.on_*() ----> actions ----> Dispatch, Recall, Stop
    Results, Lost  <---- actions     <---- Dispatcher.on_*() <---- WorkerPeer <---- Results, Returned

The master opens no payload: it knows jobs, functions and environments by number. It holds nothing that
clients and workers cannot tell it again. All in here runs in the loop's thread.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from cw import credential, location, program
from cw.master import asides, checks
from cw.master.dispatch import Dispatcher
from cw.master.gate import Gate
from cw.master.jobs import (
    Action,
    Assign,
    Claim,
    Deliver,
    GiveUp,
    Recall,
    Release,
    SetAside,
    StopJobs,
    TakeBack,
    TellAside,
    TellCharges,
    TellStarted,
    WatchSetbacks,
)
from cw.master.peers import (
    SETTLE,
    WINDOW_JOBS,
    WINDOW_JOBS_A_SLOT,
    ClientPeer,
    ObserverPeer,
    WorkerPeer,
    charged,
)
from cw.net import address, memory
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.loop import Loop
from cw.net.sockets import listen_locally
from cw.net.wire import MAX_BODY
from cw.version import VERSION

logger = logging.getLogger("cw.master")
_lines = program.RateLimited(logger, burst=10)

HELLO_SECONDS = 10.0
"""A connection that has not said Hello by then is closed."""

HELLO_BYTES = 4096
"""Bytes in a Hello. Before it, nothing else is read."""

UNGREETED = 256
"""Connections without a Hello at one time; at the bound the oldest is dropped."""

LOST_KEPT = 1000
"""Workers that were lost, of which observers are told."""

RECALL_SECONDS = 0.02
"""How often the policy looks for work that waits at one worker while another idles."""


class Settings(NamedTuple):
    """Time limits, in seconds, as the options of `cw.master` say."""

    silence: float = 30.0
    """A worker without a sign of life for so long is lost."""
    client_grace: float = 60.0
    """The session of a client that is gone without goodbye is kept for so long, and what runs of it goes on."""


class Master:
    """The cluster's switchboard. `ident` is its start id: another one means that it was restarted."""

    def __init__(self, loop: Loop, is_final: bool = False, settings: Settings = Settings()) -> None:  # noqa: B008
        self.ident = secrets.token_hex(16)
        self.loop = loop
        self.settings = settings
        # Numbers above those of any master before: workers may still hold dispatches of it.
        self.dispatcher = Dispatcher(int(time.time() * 1000) << 22)
        self.clients: dict[int, ClientPeer] = {}  # by session
        self.workers: dict[str, WorkerPeer] = {}  # by ident
        self.lost: deque[dict[str, Any]] = deque(maxlen=LOST_KEPT)
        # Until then, sessions that only workers know may turn up.
        self._leftovers_end_at = time.monotonic() + SETTLE + settings.client_grace
        self._is_final = is_final
        self._ungreeted: deque[tuple[float, Connection]] = deque()
        self._is_recalling = False
        self.period = min(1.0, settings.silence / 4)
        """Seconds between two looks at who is silent."""
        loop.call_every(self.period, self._on_second)

    def on_admitted(self, sock: Any) -> None:
        """A peer that has the credential is here (a socket, or a `tls.Socket`)."""
        connection = Connection(self.loop, sock)
        connection.set_patience(self.settings.silence)
        connection.decoder.accepts = frozenset({m.Hello})
        connection.decoder.max_body = HELLO_BYTES
        connection.on_message = lambda hello: self._on_hello(connection, hello)
        connection.on_close = lambda reason: logger.debug("%s left before its hello", connection.peer)
        if len(self._ungreeted) >= UNGREETED:
            self._ungreeted.popleft()[1].close()
        self._ungreeted.append((time.monotonic() + HELLO_SECONDS, connection))

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the policy decided."""
        for action in actions:
            _PERFORM[type(action)](self, action)
        if not self._is_recalling and self.dispatcher.wants_tick():
            self._is_recalling = True
            self.loop.call_every(RECALL_SECONDS, self._on_recall_tick)

    def welcome(self, connection: Connection) -> None:
        connection.send(m.Welcome(self.ident, VERSION, self.settings.silence, memory.takes_files()))

    def resize_windows(self) -> None:
        slots = self.dispatcher.slots()
        for client in self.clients.values():
            client.grant(WINDOW_JOBS + WINDOW_JOBS_A_SLOT * slots)

    def drop_session(self, key: int) -> None:
        """A session is over: at the policy, and at each worker that knows it."""
        del self.clients[key]
        self.perform(self.dispatcher.on_session_closed(key))
        for worker in self.workers.values():
            worker.close_session(key)

    def note_worker(self, key: str, is_there: bool) -> None:
        """A worker has joined, or is gone for good."""
        if not is_there:
            del self.workers[key]
        self.resize_windows()
        for client in self.clients.values():
            client.on_roster([key] if is_there else [], [] if is_there else [key])

    def joined(self) -> set[str]:
        """The workers that are there and have named what they hold."""
        return {key for key, worker in self.workers.items() if worker.is_known}

    def host_of(self, key: str) -> str:
        """Where a worker runs; '' if it is gone."""
        worker = self.workers.get(key)
        return "" if worker is None else worker.host

    def wants_slots(self, key: int) -> bool:
        """Do other sessions wait for slots?"""
        return self.dispatcher.has_waiting(key)

    def why_unusable(self) -> str:
        """What workers said that cannot use their slots."""
        return next((worker.why_unusable for worker in self.workers.values() if worker.why_unusable), "")

    def excuse(self, key: str) -> None:
        """This worker was lost for a reason that is no job's fault."""
        for lost in [lost for lost in self.lost if lost["ident"] == key]:
            _lines.info("%s was lost with its allocation: nothing is charged for it", lost["name"])
            self.lost.remove(lost)
        self.perform(self.dispatcher.on_excused(key))

    def drain(self, key: str) -> None:
        """Let this worker finish what runs, and leave; if it is there."""
        if key in self.workers:
            self.workers[key].drain()

    def census(self) -> dict[str, Any]:
        """How the cluster stands, for observers."""
        waiting, running = self.dispatcher.census()
        return {
            "ident": self.ident, "host": os.uname().nodename, "pid": os.getpid(),
            "place": location.of_this_process().as_text(), "waiting": waiting, "running": running,
            "clients": len(self.clients), "lost": list(self.lost),
            "workers": [worker.describe() for worker in self.workers.values() if worker.is_known],
        }  # fmt: skip

    def leave(self, is_final: bool | None = None) -> None:
        """Say goodbye to each peer, and stop the loop. `is_final`: no other master will take its place."""
        for peer in (*self.clients.values(), *self.workers.values()):
            if peer.connection is not None:
                peer.connection.send(
                    m.Goodbye("the master ends", self._is_final if is_final is None else is_final)
                )
                peer.connection.flush()
                peer.connection.close()
        self.loop.stop()

    # --- connections ---

    def _on_hello(self, connection: Connection, hello: m.Hello) -> None:
        self._ungreeted = deque(entry for entry in self._ungreeted if entry[1] is not connection)
        reason = checks.reason_to_refuse(hello)
        key = int(hello.ident[:16], 16) if not reason else 0
        client = self.clients.get(key) if hello.role == "client" else None
        if client is not None and not client.knows(hello):
            reason = "another client has this session"
        if reason:
            _lines.warning("refused %s from %s: %s", hello.role, connection.peer, reason)
            connection.send(m.Refused(reason))
            connection.on_close = lambda reason: None
            connection.close_when_sent()
            return
        connection.decoder.max_body = MAX_BODY
        connection.passes_files = connection.passes_files and hello.takes_files
        if hello.role == "client":
            is_new = client is None
            if client is None:
                client = self.clients[key] = ClientPeer(self, key, hello)
            client.attach(connection, hello, is_new)
        elif hello.role == "observer":
            ObserverPeer(self, connection)
            return
        else:
            before = self.workers.get(hello.ident)
            if before is not None:
                before.give_way()
            self.workers[hello.ident] = WorkerPeer(
                self, connection, hello, before is not None and before.is_known
            )
        self.resize_windows()

    # --- time ---

    def _on_second(self, now: float) -> bool:
        program.flush_repeated()
        while self._ungreeted and self._ungreeted[0][0] < now:
            connection = self._ungreeted.popleft()[1]
            _lines.warning("%s said no hello within %d s, closing", connection.peer, HELLO_SECONDS)
            connection.close()
        for worker in list(self.workers.values()):
            worker.on_second(now)
        for client in list(self.clients.values()):
            client.on_second(now)
        if now > self._leftovers_end_at:
            self.perform(self.dispatcher.on_orphans_expired())
            for worker in self.workers.values():
                worker.close_unknown_sessions()
        return True

    def _on_recall_tick(self, now: float) -> bool:
        self._is_recalling = self.dispatcher.wants_tick()
        if self._is_recalling:
            self.perform(self.dispatcher.on_tick())
        return self._is_recalling

    # --- actions ---

    def _assign(self, action: Assign) -> None:
        self.workers[action.worker].assign(action.jobs)  # type: ignore[index]

    def _recall(self, action: Recall) -> None:
        worker = self.workers[action.worker]  # type: ignore[index]
        worker.rules.recalls += 1
        worker.connection.send(m.Recall(action.count))

    def _stop(self, action: StopJobs) -> None:
        self.workers[action.worker].connection.send(m.Stop(action.dispatches))  # type: ignore[index]

    def _take_back(self, action: TakeBack) -> None:
        self.workers[action.worker].connection.send(m.TakeBack(action.dispatches))  # type: ignore[index]

    def _claim(self, action: Claim) -> None:
        self.workers[action.worker].connection.send(m.Claim(action.dispatches))  # type: ignore[index]

    def _release(self, action: Release) -> None:
        self.workers[action.worker].connection.send(m.Release(action.dispatches))  # type: ignore[index]

    def _deliver(self, action: Deliver) -> None:
        client = self.clients[action.session]  # type: ignore[index]
        client.deliver_results(action)

    def _give_up(self, action: GiveUp) -> None:
        client = self.clients[action.session]  # type: ignore[index]
        client.give_up(action.number, action.reason, list(action.notes))

    def _tell_charges(self, action: TellCharges) -> None:
        self.clients[action.session].send(charged(action.job))  # type: ignore[index]

    def _tell_started(self, action: TellStarted) -> None:
        self.clients[action.session].send(m.JobsStarted(action.numbers))  # type: ignore[index]

    def _set_aside(self, action: SetAside) -> None:
        worker, client = self.workers[action.worker], self.clients[action.session]  # type: ignore[index]
        _lines.warning("%s is set aside for %s: %s", worker.name, client.name, action.reason)
        self.loop.call_later(
            asides.NOTICE_SECONDS, lambda: self.perform(self.dispatcher.on_aside_told(action.session))
        )

    def _watch_setbacks(self, action: WatchSetbacks) -> None:
        def retry(now: float) -> bool:
            self.perform(self.dispatcher.on_aside_retry(action.session))
            return self.dispatcher.has_setbacks(action.session)

        def look(now: float) -> bool:
            self.perform(self.dispatcher.on_aside_second(action.session))
            return self.dispatcher.has_setbacks(action.session)

        self.loop.call_every(asides.RETRY_SECONDS, retry)
        self.loop.call_every(1.0, look)

    def _tell_aside(self, action: TellAside) -> None:
        named = [(self.workers[key].name, reason) for key, reason in action.workers]  # type: ignore[index]
        for text in asides.sentences(named):
            self.clients[action.session].send(m.Notice(text))  # type: ignore[index]


_PERFORM: dict[type, Callable[[Master, Any], None]] = {
    Assign: Master._assign,
    Recall: Master._recall,
    StopJobs: Master._stop,
    TakeBack: Master._take_back,
    Claim: Master._claim,
    Release: Master._release,
    TellCharges: Master._tell_charges,
    Deliver: Master._deliver,
    GiveUp: Master._give_up,
    TellStarted: Master._tell_started,
    SetAside: Master._set_aside,
    WatchSetbacks: Master._watch_setbacks,
    TellAside: Master._tell_aside,
}


def _listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; host '' means all interfaces. The default port, if taken, gives way to one that the
    system picks."""
    is_on_all = host in ("", "::") and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_on_all or ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host or None, 0, family)  # (create_server would turn this error into another)
    except socket.gaierror:
        raise program.Mistake(
            f"the address {host!r} is unknown: give one of this machine's with --host"
        ) from None
    wanted = [address.PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            return socket.create_server((host, number), family=family, backlog=1024, dualstack_ipv6=is_on_all)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if port is None and number:
                    logger.warning("port %d is taken, by another master perhaps: taking a free one", number)
                    continue
                raise program.Mistake(
                    f"port {number}{f' on {host}' * bool(host)} is taken: give another with --port, or 0 for a free one"
                ) from None
            reason = (
                "this machine has no such address" if error.errno == errno.EADDRNOTAVAIL else error.strerror
            )
            raise program.Mistake(f"cannot listen on {address.join(host, number)}: {reason}") from None
    raise AssertionError("port 0 is never taken")


def main() -> int:
    """The program. Returns its exit status."""
    parser = program.argument_parser(
        "cw.master", "Carries jobs from client programs to workers, and their results back."
    )
    parser.add_argument(
        "--host", metavar="ADDR", help="the address to listen on (default: all of this machine's)"
    )
    parser.add_argument(
        "--port", type=program.converted_by(_parse_port), help="the port (default: 5494; 0: a free one)"
    )
    parser.add_argument("--no-address-file", action="store_true", help="do not write the address to ~/.cw")
    defaults = Settings()
    parser.add_argument("--silence", metavar="SECONDS", type=program.converted_by(program.parse_positive_seconds),
                        default=defaults.silence,
                        help="a worker that says nothing for so long is lost (default: %(default)g)")  # fmt: skip
    parser.add_argument("--client-grace", metavar="SECONDS", type=program.converted_by(program.parse_seconds),
                        default=defaults.client_grace, help="a client that is gone without goodbye may come back "
                        "within so long; meanwhile its running jobs go on (default: %(default)g)")  # fmt: skip
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--listen-fd", "--local-fd")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    mine = credential.load_or_make()
    program.allow_many_descriptors()
    loop = Loop()
    master = Master(loop, options.no_address_file, Settings(options.silence, options.client_grace))
    gate = Gate(loop, mine, master.on_admitted)
    if options.listen_fd is not None:
        listener = socket.socket(fileno=options.listen_fd)
        listener.set_inheritable(False)
    else:
        gate.prepare()  # a credential that cannot be used is told at once
        listener = _listen(options.host or "", options.port)
    if options.local_fd is not None:
        local = socket.socket(fileno=options.local_fd)
        local.set_inheritable(False)
    else:
        local = listen_locally(listener.getsockname()[1], mine.fingerprint)
    host, port = listener.getsockname()[:2]
    start_id = None if options.no_address_file else _write_address(host, port)
    gate.listen(listener)
    if local is not None:
        gate.listen(local)
    program.end_with(loop, options.lifeline_fd, master.leave)
    is_on_all = host in ("::", "0.0.0.0")
    name = address.join(os.uname().nodename if is_on_all else host, port)
    logger.info("only who has the credential %s gets in", mine.path)
    logger.info(
        "the master listens on %s; workers: python -m cw.worker %s",
        f"all addresses of this machine, port {port}" if is_on_all else name,
        name,
    )
    if options.ready_fd is not None:
        program.say_ready(options.ready_fd)
    try:
        loop.run()
    finally:
        gate.close()
        if start_id is not None:
            address.remove_address(start_id)
    return 0


def _write_address(host: str, port: int) -> str | None:
    """The start id in the address file; None if it cannot be written (a full disk, say): some know the host anyway."""
    try:
        return address.write_address(host, port)
    except OSError as error:
        logger.warning("cannot write the address file %s (%s): name this master's host to workers and clients",
                       address.address_file(), error.strerror)  # fmt: skip
        return None


def _parse_port(text: str) -> int:
    return 0 if text == "0" else address.check_port(text)
