"""What faulty peers may send, at random: to the decoder, and to a master with sound peers beside them.

    python -m pytest tests/test_fuzz.py              a short run, always the same
    python tests/test_fuzz.py [--minutes N] [NAME]   a long one; guided by coverage if `atheris` is installed

The master is real, but for its loop: sockets are pairs in this process, and the test turns the crank.
"""

import argparse
import contextlib
import logging
import os
import socket
import sys
import time
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

atheris = None
if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import atheris

        with atheris.instrument_imports(include=["cw"]):
            import cw.master.master  # with all that it imports

import cw.master.master  # noqa: E402
from cw.errors import ProtocolError  # noqa: E402
from cw.master.client_peer import ClientPeer  # noqa: E402
from cw.master.master import Master  # noqa: E402
from cw.master.worker_peer import WorkerPeer  # noqa: E402
from cw.net import messages as m  # noqa: E402
from cw.net import wire  # noqa: E402
from cw.net.loop import Loop  # noqa: E402
from cw.net.schema import SPECS  # noqa: E402

# --- what may come ----------------------------------------------------------------------------

# Mostly small: so that numbers meet. The rest is at the edges of what fits.
_small = st.integers(0, 6)
_COLUMNS = {
    "B": st.one_of(st.integers(0, 2), st.integers(0, 255)),
    "H": st.one_of(_small, st.sampled_from([2**15, 2**16 - 1])),
    "I": st.one_of(_small, st.sampled_from([2**31, 2**32 - 1])),
    "Q": st.one_of(_small, st.integers(0, 40), st.sampled_from([2**32, 2**63, 2**64 - 1])),
    "N": st.lists(_small, max_size=3).map(tuple),
    "f": st.one_of(
        st.sampled_from([0.0, 1e-6, 0.01, 2.0]),
        st.floats(width=32, allow_nan=True, allow_infinity=True),
    ),
}
_payload = st.one_of(st.binary(max_size=8), st.sampled_from([b"x" * 200, bytes(wire.LARGE + 1)]))
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_known_keys = st.sampled_from(["attempts", "slot", "how", "host", "worker", "pid", "seconds"])
_VALUES = {
    str: st.one_of(st.text(max_size=10), st.sampled_from(["\ud800", "a\nb", "0" * 32, "client", "worker"])),
    int: st.one_of(_small, st.integers(-5, 40), st.sampled_from([-1, 2**31, 2**64, 10**30])),
    bool: st.booleans(),
    float: st.floats(),
    list: st.lists(_plain, max_size=3),
    dict: st.dictionaries(_known_keys | st.text(max_size=5), st.one_of(_small, _plain), max_size=4),
    object: st.one_of(st.dictionaries(st.sampled_from(["slots", "x"]), _small, max_size=2), _plain),
}


def _record_of(spec):
    values = [_VALUES[float if field.types == (int, float) else field.types] for field in spec.fields]
    return st.tuples(*values).map(lambda values: spec.cls(*values))


def _batch_of(spec):
    cls = spec.cls
    columns = [_COLUMNS[code] for code in spec.codes]
    if spec.has_payloads:
        columns.append(_payload)
    rows = st.lists(st.tuples(*columns), max_size=5)
    return rows.map(
        lambda rows: cls(*(map(list, zip(*rows, strict=True)) if rows else [[] for _ in columns]))
    )


_MESSAGES = {cls: (_batch_of if spec.is_batch else _record_of)(spec) for cls, spec in SPECS.items()}
_any_message = st.sampled_from(sorted(_MESSAGES, key=lambda cls: cls.__name__)).flatmap(_MESSAGES.__getitem__)


def _from(classes):
    return st.sampled_from(sorted(classes, key=lambda cls: cls.__name__)).flatmap(_MESSAGES.__getitem__)


def frames_of(message):
    with contextlib.suppress(UnicodeEncodeError, OverflowError):
        return b"".join(bytes(buffer) for frame in wire.encode(message) for buffer in frame)
    return b""


_header = st.builds(
    wire.HEADER.pack,
    st.one_of(st.integers(0, 40), st.sampled_from([wire.MAX_BODY, wire.MAX_BODY + 1, 2**32 - 1])),
    st.one_of(
        st.sampled_from([*(spec.kind for spec in SPECS.values()), wire.PIECE_KIND, wire.ABORT_KIND]),
        st.integers(0, 255),
    ),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0, 1]),
)
# A large payload that is given up, well or not: its head, some pieces, abort marks.
_large_head = b"".join(next(wire.encode(m.Submit([5], [1], [0], [bytes(wire.LARGE + 1)]))))
_pieces = st.lists(
    st.integers(1, 200).map(lambda size: wire.HEADER.pack(size, wire.PIECE_KIND, 0, 0) + bytes(size)),
    max_size=3,
)
_abort_marks = st.lists(
    st.sampled_from([wire.ABORT[0], wire.ABORT[0], wire.HEADER.pack(1, wire.ABORT_KIND, 0, 0) + b"x"]),
    max_size=2,
)
_aborted = st.tuples(st.sampled_from([[], [_large_head]]), _pieces, _abort_marks).map(
    lambda parts: b"".join(part for some in parts for part in some)
)
_bytes = st.one_of(
    st.binary(max_size=40),
    _aborted,
    st.tuples(_header, st.binary(max_size=60)).map(b"".join),
    _any_message.map(frames_of),
    # Cut short, or with a byte changed.
    st.tuples(_any_message.map(frames_of), st.integers(0, 60), st.binary(max_size=2)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
    ),
    st.tuples(_any_message.map(frames_of), st.integers(0, 100)).map(lambda parts: parts[0][: parts[1]]),
)


# --- the decoder ------------------------------------------------------------------------------


def _allocate(size):
    if size > 2**20:
        raise MemoryError
    return memoryview(bytearray(size))


@given(st.lists(_bytes, max_size=6), st.lists(st.integers(1, 200), max_size=20))
def fuzz_decoder(parts, cuts):
    """Whatever comes, and in whatever pieces: messages, or a ProtocolError."""
    data = b"".join(parts)
    decoder = wire.Decoder(_allocate)
    position = 0
    with contextlib.suppress(ProtocolError):
        while position < len(data):
            size = cuts.pop() if cuts else len(data)
            target = decoder.direct()
            chunk = data[position : position + (size if target is None else min(size, len(target)))]
            position += len(chunk)
            if target is None:
                found = decoder.feed(chunk)
            else:
                target[: len(chunk)] = chunk
                found = decoder.received(len(chunk))
            for message in found:
                assert type(message) in _MESSAGES
    decoder.close()


# --- the master -------------------------------------------------------------------------------


class Peer:
    """The other end of one of the master's connections: sound, but for what it is told to say."""

    def __init__(self, world, role, *, resubmitted_up_to=0, like=None):
        self._world = world
        self.role = role
        self.ident, self.secret = (
            (like.ident, like.secret) if like else (os.urandom(16).hex(), os.urandom(16).hex())
        )
        self.last = like.last if like else 0  # number of a job
        self.results = {}
        self.lost = set()
        self.held = {}  # by dispatch number: session, number of the job
        self.recalls = 0
        self.decoder = wire.Decoder()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        world.master.on_admitted(theirs)
        values = {
            "role": role, "ident": self.ident, "secret": self.secret if role == "client" else "",
            "protocol": m.PROTOCOL, "python": [3, 11], "version": "9", "host": "here", "pid": 7,
            "capacity": {"slots": 2} if role == "worker" else {}, "resubmitted_up_to": resubmitted_up_to,
        }  # fmt: skip
        self.send(m.Hello(**values))
        if role == "client":
            kinds, needs = [m.ENVIRONMENT, m.FUNCTION, m.VALUE, m.FUNCTION], [(), (3,), (), (4, 3)]
            self.send(m.Objects([0] * 4, [3, 1, 4, 2], kinds, needs, [b"environment", b"f", b"value", b"g"]))
            sets = [b'{"attempts":2}', b'{"attempts":1}']
            self.send(m.Objects([0] * 2, [5, 6], [m.OPTIONS] * 2, [(), ()], sets))

    def write(self, data):
        """What the master does not take is not sent."""
        with contextlib.suppress(OSError):
            while data:
                data = data[self.socket.send(data) :]
                self._world.turn()

    def send(self, message):
        self.write(frames_of(message))

    def read(self):
        """Take what the master has sent."""
        with contextlib.suppress(OSError, ProtocolError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.socket, 2**18, 64)
                if not data:
                    return
                self.decoder.files.extend(fds)
                for message in self.decoder.feed(data):
                    self._take(message)

    def _take(self, message):
        if type(message) is m.Dispatch:
            jobs = zip(message.sessions, message.numbers, strict=True)
            self.held.update(zip(message.dispatches, jobs, strict=True))
            self._world.dispatches += message.dispatches
        elif type(message) is m.Results:
            for number, status, payload in zip(
                message.numbers, message.statuses, message.payloads, strict=True
            ):
                assert number not in self.results and number not in self.lost, "delivered twice"
                self.results[number] = status, bytes(payload)
        elif type(message) is m.Lost:
            assert message.number not in self.results and message.number not in self.lost, "lost twice"
            self.lost.add(message.number)
        elif type(message) is m.Recall:
            self.recalls += 1
        elif type(message) in (m.Stop, m.TakeBack):
            gone = [dispatch for dispatch in message.dispatches if self.held.pop(dispatch, None)]
            self.send(m.Returned(gone))

        elif type(message) is m.Claim:
            self.send(m.Returned(message.dispatches))  # it was not kept

    def report(self, inventories, sessions=()):
        if inventories:
            self.send(m.Inventory(*map(list, zip(*inventories, strict=True))))
        self.send(m.InventoryEnd(list(sessions)))

    def submit(self, numbers, function=1, options=0, size=3):
        count = len(numbers)
        self.last = max([self.last, *numbers])
        self.send(m.Submit(numbers, [function] * count, [options] * count, [bytes(size)] * count))

    def answer(self, status=0, seconds=0.001):
        """All that it holds is done."""
        self.read()
        for _ in range(self.recalls):
            self.send(m.Recalled([]))
        self.recalls = 0
        if self.held:
            done = list(self.held)
            self.held.clear()
            count = len(done)
            self.send(m.Results(done, [status] * count, [seconds] * count, [b"done"] * count))

    def close(self):
        self.socket.close()
        self.decoder.close()


class World:
    """A master with a sound client and a sound worker, and with as many faulty peers as come."""

    def __init__(self):
        self._passed = 0.0
        cw.master.master.time = types.SimpleNamespace(monotonic=self.now, time=time.time)
        self._alarms = []
        self.loop = Loop()
        self.loop.call_every = lambda seconds, callback: None
        self.loop.call_later = lambda seconds, callback: self._alarms.append((self.now() + seconds, callback))
        self.master = Master(self.loop)
        self.dispatches = []  # that anybody was ever sent
        self.faulty = []
        self.client = Peer(self, "client")
        self.worker = Peer(self, "worker")
        self.worker.report([])
        for role in ("client", "worker"):
            self.faulty.append(Peer(self, role))
        self.faulty[-1].report([])

    def now(self):
        return time.monotonic() + self._passed

    def turn(self):
        """The loop, until nothing is left to do."""
        for _ in range(100):
            if not self.loop._handle(self.loop._epoll.poll(0)):
                break
        self.master.dispatcher.check_invariants()

    def tick(self, later=0.0):
        """A second is over; or more of them, in which no worker was silent."""
        self._passed += later
        self.worker.send(m.Heartbeat())
        due = [alarm for alarm in self._alarms if alarm[0] <= self.now()]
        self._alarms = [alarm for alarm in self._alarms if alarm not in due]
        for _, callback in due:
            callback()
        self.master._on_second(self.now())
        self.master.perform(self.master.dispatcher.on_tick())
        self.loop.flush()
        self.turn()

    def finish(self):
        """The faulty ones are gone; the sound ones must not have noticed."""
        for peer in self.faulty:
            peer.close()
        self.turn()
        for _ in range(10 + self.client.last):
            self.tick(1000.0)  # nobody is waited for any more
            self.worker.answer()
            self.turn()
            self.client.read()
        ended = set(self.client.results) | self.client.lost
        assert ended == set(range(1, self.client.last + 1)), (ended, self.client.last)
        assert len(self.master.clients) == len(self.master.workers) == 1
        assert not self.loop.unflushed

    def close(self):
        cw.master.master.time = time
        for peer in (self.client, self.worker, *self.faulty):
            peer.close()
        self.loop._close()


_index = st.integers(0, 3)
_number = st.integers(1, 6)
_options = st.sampled_from([0, 5, 6])
_count = st.one_of(_small, st.sampled_from([-1, 10**6, 2**70]))
_status = st.sampled_from([0, 0, 0, 1, 7])
_seconds = st.sampled_from([0.001, 0.001, 0.5, 3.0, float("nan"), float("inf"), -1.0])
_holdings = st.lists(st.tuples(st.integers(0, 30), _index, _number, st.integers(0, 3)), max_size=3)
_client_step = st.one_of(
    st.tuples(st.just("submit next"), st.integers(1, 4), _options),
    st.tuples(st.just("submit"), st.lists(_number, max_size=3), st.integers(1, 2), _options),
    st.tuples(st.just("cancel"), st.lists(_number, max_size=3)),
    st.tuples(st.just("charge"), _number, _count, _count),
    st.tuples(st.just("come back"), st.one_of(st.just(None), _small, st.just(2**63))),
    st.tuples(st.just("receive"), _small),
    st.tuples(st.just("hand in")),
    st.tuples(st.just("name workers"), st.booleans()),
    st.tuples(st.just("say"), _from(ClientPeer.handlers)),
)
_worker_step = st.one_of(
    st.tuples(st.just("report"), _holdings, st.lists(_index, max_size=3)),
    st.tuples(st.just("come back"), _holdings),
    st.tuples(st.just("answer"), _status, _seconds),
    st.tuples(st.just("claim"), st.integers(0, 30)),
    st.tuples(st.just("start")),
    st.tuples(st.just("give back"), st.booleans()),
    st.tuples(st.just("die"), _index),
    st.tuples(st.just("drain")),
    st.tuples(st.just("say"), _from(WorkerPeer.handlers)),
)
_any_step = st.one_of(
    st.tuples(st.just("say"), _any_message),
    st.tuples(st.just("write"), _bytes),
    st.tuples(st.just("replay"), st.integers(0, 10)),
    st.tuples(st.just("read")),
    st.tuples(st.just("leave")),
)
_steps = st.lists(
    st.one_of(
        st.just("join client"),
        st.just("join worker"),
        st.just("tick"),
        st.just("time"),
        st.integers(1, 4),  # the sound client submits
        st.just("work"),  # the sound worker
        st.tuples(st.just("client"), _index, _client_step),
        st.tuples(st.just("client"), _index, _client_step),
        st.tuples(st.just("worker"), _index, _worker_step),
        st.tuples(st.just("worker"), _index, _worker_step),
        st.tuples(st.just(None), _index, _any_step),
    ),
    min_size=8,
    max_size=60,
)


class Play:
    """Carries out steps."""

    def __init__(self, world):
        self._world = world
        self._said = []

    def step(self, step):
        world = self._world
        if step == "tick":
            world.tick()
        elif step == "time":
            world.tick(20.0)
        elif step == "work":
            world.worker.answer()
        elif isinstance(step, int):
            world.client.submit(list(range(world.client.last + 1, world.client.last + 1 + step)))
        elif isinstance(step, str):
            world.faulty.append(Peer(world, step.split()[1]))
            if step == "join worker":
                world.faulty[-1].report([])
        else:
            role, index, (what, *arguments) = step
            peers = [peer for peer in world.faulty if role in (None, peer.role)]
            if peers:
                peer = peers[index % len(peers)]
                name = what.replace(" ", "_")
                method = getattr(self, f"_{role}_{name}", None) or getattr(self, f"_{name}")
                method(peer, *arguments)
        world.turn()

    def _session(self, index):
        return list(self._world.master.clients)[index % len(self._world.master.clients)]

    def _holdings(self, inventories):
        known = self._world.dispatches or [7]
        return [
            (known[-1 - d % len(known)], self._session(s), number, state)
            for d, s, number, state in inventories
        ]

    def _say(self, peer, message):
        self._said.append(frames_of(message))
        peer.write(self._said[-1])

    def _write(self, peer, data):
        peer.write(data)

    def _replay(self, peer, index):
        if self._said:
            peer.write(self._said[index % len(self._said)])

    def _read(self, peer):
        peer.read()

    def _leave(self, peer):
        self._world.faulty.remove(peer)
        peer.close()

    def _submit_next(self, peer, count, options):
        peer.submit(list(range(peer.last + 1, peer.last + 1 + count)), options=options)

    def _submit(self, peer, numbers, function, options):
        peer.submit(numbers, function, options)

    def _cancel(self, peer, numbers):
        peer.send(m.Cancel(numbers))

    def _charge(self, peer, number, crashes, worker_losses):
        peer.send(m.AttemptCounts(number, crashes, worker_losses, [{"how": "in the past"}, 7]))

    def _receive(self, peer, count):
        peer.send(m.Received([count]))

    def _client_come_back(self, peer, resubmitted_up_to):
        world = self._world
        world.faulty.append(
            Peer(
                world,
                "client",
                resubmitted_up_to=peer.last if resubmitted_up_to is None else resubmitted_up_to,
                like=peer,
            )
        )

    def _worker_come_back(self, peer, inventories):
        world = self._world
        world.faulty.append(Peer(world, "worker", like=peer))
        world.faulty[-1].report(self._holdings(inventories))

    def _report(self, peer, inventories, sessions):
        peer.report(self._holdings(inventories), map(self._session, sessions))

    def _hand_in(self, peer):
        peer.send(m.ResubmitEnd())

    def _name_workers(self, peer, known):
        joined = list(self._world.master.workers) if known else [os.urandom(16).hex()]
        peer.send(m.Roster(joined, []))

    def _answer(self, peer, status, seconds):
        peer.answer(status, seconds)

    def _claim(self, peer, index):
        """Results of what another one was sent."""
        known = self._world.dispatches
        if known:
            peer.send(m.Results([known[-1 - index % len(known)]], [0], [0.1], [b"claimed"]))

    def _start(self, peer):
        peer.read()
        peer.send(m.Started(list(peer.held)))

    def _give_back(self, peer, as_recalled):
        peer.read()
        back = list(peer.held)
        peer.held.clear()
        peer.send(m.Recalled(back) if as_recalled else m.Returned(back))

    def _die(self, peer, slot):
        peer.read()
        if peer.held:
            peer.send(m.RunnerDied(peer.held.popitem()[0], {"how": "at random", "slot": slot}))

    def _drain(self, peer):
        peer.send(m.Draining())


@given(_steps)
def fuzz_master(steps):
    """Faulty clients and workers come, say what they like, and go: a sound client's jobs are done all the same."""
    world = World()
    play = Play(world)
    try:
        for step in steps:
            play.step(step)
        world.finish()
    finally:
        world.close()


# --- the short run, in the suite --------------------------------------------------------------

_SETTINGS = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level("CRITICAL", logger="cw")


@pytest.mark.parametrize("examples", [80, pytest.param(400, marks=pytest.mark.slow)])
def test_the_decoder_gives_messages_or_a_protocol_error_whatever_comes(examples):
    settings(max_examples=examples, **_SETTINGS)(fuzz_decoder)()


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.slow)])
def test_faulty_peers_do_not_disturb_a_sound_session(examples):
    settings(max_examples=examples, **_SETTINGS)(fuzz_master)()


# --- the long run, by hand --------------------------------------------------------------------


def main():
    logging.disable(logging.ERROR)
    parser = argparse.ArgumentParser(description="Fuzzes the decoder or the master for a while.")
    parser.add_argument("target", nargs="?", choices=["decoder", "master"], default="master")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--corpus", help="a directory in which atheris keeps what it has found")
    options = parser.parse_args()
    target = {"decoder": fuzz_decoder, "master": fuzz_master}[options.target]
    chosen = {**_SETTINGS, "derandomize": False}
    if atheris is None:
        print("atheris is not installed: at random, without guidance", file=sys.stderr)
        end, examples = time.monotonic() + 60 * options.minutes, 0
        while time.monotonic() < end:
            settings(max_examples=1000, **chosen)(target)()
            examples += 1000
        print(f"{examples} examples, nothing found")
        return
    settings(**chosen)(target)
    limits = [
        f"-max_total_time={int(60 * options.minutes)}",
        "-max_len=4096",
        "-len_control=0",
        "-rss_limit_mb=1500",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *limits, *filter(None, [options.corpus])], target.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
