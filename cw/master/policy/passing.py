"""Who gives a large shared value to a worker that needs it: the master, or a worker that has it.

    on_wanted ---> WAITING ---> FETCHING from a worker that has it ---> on_held: HAS IT, and gives it to others
                     ^  |            |
                     |  '------> SENT by the master, if no worker has it or will have it
                     '---------------'
                        on_failed: it could not reach that worker; after TRIES of them it gets all from the master

So the master sends a value once, then the workers that have it double with each round. A worker gives a value to
GIVES others at a time, so its link is divided among few and each of these gives it on soon.

A worker has a port open only while others wait for something that it has: Open, on_opened, Close.

Pure: no socket, no thread, no clock. The master reports facts to the on_*() methods and carries out the actions that
they return, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from cw.master.policy.jobs import WorkerKey
from cw.named_tuple import NamedTuple
from cw.net.objects import Key

WORKERS = 8
"""Workers from which they pass values on among themselves. Fewer: more ports and round trips, where the master's link
is divided among few anyway. More: the master's link is the bottleneck for longer."""

PASS_BYTES = 4 * 1024**2
"""Bytes from which a value is passed on. Smaller: a connection of its own, with a handshake of some milliseconds and a
round trip through the master, for what the master sends in less. Larger: more bytes leave the master."""

GIVES = 2
"""Workers to which one gives a value at a time. Larger: all get it late. Smaller: a slow one holds up others."""

TRIES = 2
"""Workers that one could not reach after which it gets all values from the master, and workers that could not reach
one after which nobody is sent there. Larger: more time is lost where no worker reaches another. Smaller: one fault
counts for all."""

WALLED = 2
"""Workers that none of TRIES others could reach, with no worker that any could reach, after which the master sends all:
so it is where each machine is behind a wall. Larger: more time is lost there."""


class SendValue(NamedTuple):
    """Send this value from here."""

    worker: WorkerKey
    value: Key


class Fetch(NamedTuple):
    """Let the worker fetch this value from another one."""

    worker: WorkerKey
    value: Key
    source: WorkerKey
    digest: str
    port: int
    hosts: tuple[str, ...]


class AskDigest(NamedTuple):
    """Ask the client for this value's digest."""

    value: Key


class Open(NamedTuple):
    """Let the worker open its port."""

    worker: WorkerKey


class Close(NamedTuple):
    """Let the worker close its port."""

    worker: WorkerKey


PassingAction = SendValue | Fetch | AskDigest | Open | Close


class _Value:
    """A shared value that workers pass on."""

    __slots__ = ("digest", "fetching", "holders", "is_let_go", "sent", "waiting")

    def __init__(self) -> None:
        self.digest = ""  # '': the client has not said it yet
        self.is_let_go = False  # by the client: it is forgotten when nobody waits for it
        self.holders: dict[WorkerKey, None] = {}
        self.waiting: dict[WorkerKey, None] = {}
        self.fetching: dict[WorkerKey, WorkerKey] = {}  # the source, which may be gone
        self.sent: dict[WorkerKey, None] = {}  # from here; not reported as held yet

    def is_wanted(self) -> bool:
        return bool(self.waiting or self.fetching)

    def is_idle(self) -> bool:
        return not (self.waiting or self.fetching or self.sent)

    def drop(self, worker: WorkerKey) -> None:
        for places in self.holders, self.waiting, self.fetching, self.sent:
            places.pop(worker, None)


class _Port:
    """The port of a worker. `port` is 0 until the worker has named it."""

    __slots__ = ("failed", "gave", "hosts", "is_open", "port", "unreached")

    def __init__(self) -> None:
        self.is_open = False  # or being opened
        self.port = 0
        self.hosts: tuple[str, ...] = ()
        self.gave = False  # some worker has reached it
        self.failed: set[WorkerKey] = set()  # workers that could not reach it
        self.unreached: set[WorkerKey] = set()  # workers that it could not reach

    def is_closed_to(self, worker: WorkerKey) -> bool:
        return worker in self.failed or self.is_unreachable()

    def is_unreachable(self) -> bool:
        return not self.gave and len(self.failed) >= TRIES

    def is_alone(self) -> bool:
        return len(self.unreached) >= TRIES


class Passing:
    """The policy for values that workers pass on."""

    def __init__(self) -> None:
        self._ports: dict[WorkerKey, _Port] = {}  # by worker that is connected
        self._values: dict[Key, _Value] = {}
        self._gives: Counter[WorkerKey] = Counter()  # workers to which each one gives a value now

    # --- workers ---

    def on_joined(self, worker: WorkerKey) -> None:
        """A worker on another machine is connected (again): nothing is known of what it has."""
        self._ports[worker] = _Port()

    def on_gone(self, worker: WorkerKey) -> list[PassingAction]:
        """A worker's connection has ended. Those that fetch from it report that they failed, or that they have it."""
        if self._ports.pop(worker, None) is None:
            return []
        for port in self._ports.values():
            port.failed.discard(worker)
            port.unreached.discard(worker)
        for value in self._values.values():
            value.drop(worker)
        return self._decide_all()

    def on_opened(self, worker: WorkerKey, port: int, hosts: Sequence[str]) -> list[PassingAction]:
        """The worker has opened its port; 0: it cannot."""
        own = self._ports.get(worker)
        if own is None or not own.is_open:  # it was closed meanwhile
            return []
        own.port, own.hosts = port, tuple(hosts)
        if not port:
            own.is_open = False
            for value in self._values.values():
                value.holders.pop(worker, None)
        return self._decide_all()

    # --- values ---

    def is_passed_on(self, size: int) -> bool:
        """True if workers pass on a value of this size now."""
        return size >= PASS_BYTES and len(self._ports) >= WORKERS and not self._is_walled()

    def on_digest(self, value: Key, digest: str) -> list[PassingAction]:
        """The client says the digest of a value. Without it nobody can check what comes from a worker."""
        if value not in self._values:
            return []
        self._values[value].digest = digest
        return self._decide_all()

    def on_client_back(self, session: int) -> list[PassingAction]:
        """The session's client is connected again: what it was asked may be lost."""
        return [
            AskDigest(key) for key, value in self._values.items() if key[0] == session and not value.digest
        ]

    def on_wanted(self, worker: WorkerKey, values: Iterable[Key]) -> list[PassingAction]:
        """The worker waits for these values."""
        if worker not in self._ports:  # its connection ended a moment ago
            return []
        asks: list[PassingAction] = []
        for key in values:
            if key not in self._values:
                self._values[key] = _Value()
                asks.append(AskDigest(key))
            value = self._values[key]
            value.holders.pop(worker, None)  # it was told to forget it
            if worker not in value.fetching and worker not in value.sent:
                value.waiting[worker] = None
        return asks + self._decide_all()

    def on_held(self, worker: WorkerKey, key: Key) -> list[PassingAction]:
        """The worker has a value for which it waited."""
        value = self._values.get(key)
        if value is None:
            return []
        source = self._ports.get(value.fetching.get(worker, ""))
        if source is not None:
            source.gave = True
        is_known = worker in value.waiting or worker in value.fetching or worker in value.sent
        value.drop(worker)
        if is_known:
            value.holders[worker] = None
        return self._decide_all()

    def on_failed(self, worker: WorkerKey, key: Key) -> list[PassingAction]:
        """The worker could not fetch a value from the worker that was named to it."""
        value = self._values.get(key)
        if value is None or worker not in value.fetching:
            return []
        source = value.fetching.pop(worker)
        value.waiting[worker] = None
        if source in self._ports:
            self._ports[source].failed.add(worker)
            self._ports[worker].unreached.add(source)
        return self._decide_all()

    def on_forgotten(self, worker: WorkerKey, values: Iterable[Key]) -> list[PassingAction]:
        """The worker was told to forget these values; what it waits for still comes."""
        found = [self._values[key] for key in values if key in self._values]
        for value in found:
            value.holders.pop(worker, None)
        return self._decide_all() if found else []

    def on_let_go(self, values: Iterable[Key]) -> list[PassingAction]:
        """The client has let go of these values. Jobs may still wait for them."""
        found = [self._values[key] for key in values if key in self._values]
        for value in found:
            value.is_let_go = True
        return self._decide_all() if found else []

    def on_session_closed(self, session: int) -> list[PassingAction]:
        """The session is over: nobody waits for its values any more."""
        gone = [key for key in self._values if key[0] == session]
        for key in gone:
            del self._values[key]
        return self._decide_all() if gone else []

    # --- inside ---

    def _decide_all(self) -> list[PassingAction]:
        actions: list[PassingAction] = []
        self._gives = self._count_gives()
        is_walled = self._is_walled()
        for key, value in self._values.items():
            for worker in list(value.waiting):
                actions += self._decide(worker, key, value, is_walled)
        for key in [key for key, value in self._values.items() if value.is_let_go and value.is_idle()]:
            del self._values[key]
        needed = {
            worker
            for value in self._values.values()
            if value.is_wanted()
            for worker in (*(value.holders if value.waiting else ()), *value.fetching.values())
        }
        for worker, port in self._ports.items():
            if port.is_open and worker not in needed:
                port.is_open, port.port = False, 0
                actions.append(Close(worker))
        return actions

    def _decide(self, worker: WorkerKey, key: Key, value: _Value, is_walled: bool) -> list[PassingAction]:
        """Decide for one worker that waits."""
        ports = self._ports
        own = ports[worker]
        sources = [source for source in value.holders if not ports[source].is_closed_to(worker)]
        is_unchecked = not value.digest and value.is_let_go  # the client will not say its digest any more
        if (
            is_walled
            or own.is_alone()
            or is_unchecked
            or (not sources and not value.fetching and not value.sent)
        ):
            del value.waiting[worker]
            value.sent[worker] = None
            return [SendValue(worker, key)]
        if not value.digest:
            return []
        free = [source for source in sources if self._gives[source] < GIVES]
        ready = [source for source in free if ports[source].port]
        if ready:
            source = min(ready, key=self._gives.__getitem__)
            self._gives[source] += 1
            del value.waiting[worker]
            value.fetching[worker] = source
            return [Fetch(worker, key, source, value.digest, ports[source].port, ports[source].hosts)]
        for source in free:
            if not ports[source].is_open:
                ports[source].is_open = True
                return [Open(source)]
        return []

    def _is_walled(self) -> bool:
        """True if workers do not reach each other."""
        ports = self._ports.values()
        return sum(port.is_unreachable() for port in ports) >= WALLED and not any(port.gave for port in ports)

    def _count_gives(self) -> Counter[WorkerKey]:
        return Counter(source for value in self._values.values() for source in value.fetching.values())

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself. For tests."""
        for value in self._values.values():
            places = [*value.holders, *value.waiting, *value.fetching, *value.sent]
            assert len(places) == len(set(places)), "a worker is in one place for each value"
            assert set(places) <= self._ports.keys()
            if value.waiting and value.digest:  # somebody must bring what they wait for
                assert value.sent or value.fetching or any(self._ports[key].is_open for key in value.holders)
            if value.waiting and not value.digest:
                assert not value.is_let_go
                assert value.sent or value.fetching or value.holders
        assert all(count <= GIVES for count in self._count_gives().values())
        assert all(port.is_open or not port.port for port in self._ports.values())
