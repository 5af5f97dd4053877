"""A whole cluster in one thread: the real master, workers and clients; network, runners and clock are the test's.

    sim = Simulation(seed)
    client = sim.client()
    client.submit(...)
    sim.run(seconds)         # of simulated time

Everything that happens is an event in one heap, ordered by time; latencies are random, and faults are events too. So a
run of minutes with hundreds of jobs and dozens of faults takes a fraction of a second, and a seed repeats it exactly.
Not simulated: bytes (frames are whole), back pressure, the handshake, processes and signals of runners.
"""

import contextlib
import errno
import heapq
import itertools
import logging
import os
import secrets
import socket
from collections import Counter, deque
from random import Random
from types import SimpleNamespace
from unittest import mock

import cw.client.options
import cw.client.session.session
import cw.master.client_peer
import cw.master.master
import cw.master.worker_peer
import cw.net.master_link
import cw.observer.reporter
import cw.worker.leaving
import cw.worker.runners.execution
import cw.worker.runners.reaping
import cw.worker.runners.ticks
import cw.worker.worker
from cw.errors import ProtocolError
from cw.master.records import Records
from cw.net import messages as m
from cw.net import wire
from cw.net.batches import split, without
from cw.net.objects import ObjectCache, named_by
from cw.payloads import serialize
from cw.requirements import WorkerCapacity, to_options
from cw.worker.offer import Offer
from cw.worker.policy.jobs import WorkerJob

ADDRESS = "master", 5494
MONOTONIC = 1000.0
WALL = 1_700_000_000.0


class Process:
    """Owner of events: they do not happen when it is dead, and wait while it is frozen."""

    def __init__(self, sim, name):
        self.sim, self.name = sim, name
        self.is_alive, self.is_frozen = True, False
        self.connections = {}  # a set, in order
        self.waiting = []
        self.on_dead = lambda: None

    def run(self, function):
        if not self.is_alive:
            return
        if self.is_frozen:
            self.waiting.append(function)
            return
        function()
        if self.is_alive:
            self.check()

    def check(self):
        pass

    def freeze(self, seconds):
        if self.is_alive and not self.is_frozen:
            self.is_frozen = True
            self.sim.at(seconds, self.thaw)

    def thaw(self):
        self.is_frozen = False
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            self.run(function)

    def die(self):
        if self.is_alive:
            self.is_alive = False
            for connection in list(self.connections):
                connection.close()
            self.on_dead()


class Flushed:
    """`Loop.unflushed`: each message has a wakeup of its own."""

    def add(self, writer):
        writer.flush()


class SimLoop:
    """`cw.net.loop.Loop` on simulated time."""

    def __init__(self, process):
        self.process, self.sim = process, process.sim
        self.lock = contextlib.nullcontext()
        self.on_wake = lambda: None
        self.stopped = False
        self.on_stopped = lambda: None
        self.unflushed = Flushed()

    def call_every(self, seconds, callback):
        def once():
            if not self.stopped and callback(self.sim.now):
                self.sim.at(seconds, again)

        def again():
            self.process.run(once)

        self.sim.at(seconds, again)

    def call_later(self, seconds, callback):
        self.call_every(seconds, lambda now: bool(callback()) and False)

    def call_soon_threadsafe(self, function):
        self.sim.at(0, lambda: self.process.run(lambda: self.stopped or function()))

    def wake(self):
        self.call_soon_threadsafe(self.on_wake)

    def flush(self):
        pass

    def stop(self):
        if not self.stopped:
            self.stopped = True
            self.sim.at(0, lambda: self.process.run(self._end))

    def _end(self):
        self.on_stopped()
        self.process.die()


class Link:
    """One direction of a connection: two lanes of frames on their way."""

    def __init__(self, sim):
        self.sim = sim
        self.lanes = deque(), deque()  # control, data
        self.sent = 0
        self.taken = 0  # the last in the data lane of which it was asked, and that had left the sender
        self.is_stalled = False
        self.is_moving = self.has_ended = False
        self.to = None

    def send(self, lane, riding, message):
        self.sent += 1
        self.lanes[lane].append((self.sent, riding, message))
        self.move()

    def withdraw(self, kind, numbers):
        """Of what is on its way, chance says how much has left the sender. That arrives before all that follows."""
        control, data = self.lanes
        gone = []
        if any(type(message) is kind and without(message, numbers)[1] for _, _, message in data):
            left = self.sim.chances.choice([0, 0, self.sim.chances.randint(0, len(data))])
            left = max(left, sum(number <= self.taken for number, _, _ in data))
            if left:
                self.taken = max(self.taken, data[left - 1][0])
            for index in range(left, len(data)):
                number, riding, message = data[index]
                if type(message) is kind:
                    rest, dropped = without(message, numbers)
                    gone += dropped
                    data[index] = number, riding, rest
        return gone

    def move(self):
        if not self.is_moving:
            self.is_moving = True
            self.sim.at(self.sim.latency(), self._deliver)

    def _deliver(self):
        self.is_moving = False
        if self.is_stalled or self.to is None:
            return
        control, data = self.lanes
        if control or data:
            # What is urgent overtakes what the socket has not taken yet.
            is_first = control and (
                not data
                or control[0][0] < data[0][0]
                or (data[0][0] > self.taken and self.sim.random.random() < 0.5)
            )
            _, riding, message = (control if is_first else data).popleft()
            frame = riding if message is None else riding + encoded(message)
            self.to.process.run(lambda: self.to.receive(frame))
            self.move()
        elif self.has_ended:
            self.to.process.run(lambda: self.to.fail(""))


def encoded(message):
    return b"".join(bytes(buffer) for frame in wire.encode(message) for buffer in frame)


class SimConnection:
    """`cw.net.connection.Connection`; `sock` is one of the two ends that `dial` makes."""

    def __init__(self, loop, sock, *, decoder=None):
        self.decoder = wire.Decoder()
        self.on_message = self.on_close = self.on_drained = lambda *_: None
        self.unsent = 0
        self.heard_at = self._counted_at = loop.sim.now
        self._silence = 0
        self.closed = self._closing = False
        self.passes_files = self.is_local = False
        self.peer = "(simulated)"
        self.process = loop.process
        self.loop = loop
        self.out, self.into, self.way = sock.out, sock.into, sock.way
        self._riding = b""
        self.into.to = self
        self.into.move()
        self.process.connections[self] = None
        if sock.is_refused():
            self.loop.call_later(0.001, lambda: self.fail("Connection reset by peer"))

    def send(self, message, is_ordered=False):
        if self.closed or self._closing:
            return
        sim = self.loop.sim
        sim.on_sent(*self.way, message)
        if sim.rides(message):
            self._riding += encoded(message)
            return
        for part in split(message):
            self.out.send(0 if wire.is_control(message) and not is_ordered else 1, self._riding, part)
            self._riding = b""
        if sim.is_followed(message):
            self.out.send(1, b"", None)

    def hurry(self):
        pass

    send_along = send

    def withdraw(self, kind, numbers):
        return [] if self.closed or self._closing else self.out.withdraw(kind, numbers)

    def send_last(self, message):
        self.send(message)
        self._closing = True

    def receive(self, data):
        if self.closed:
            return
        self.heard_at = self.loop.sim.now
        try:
            for message in self.decoder.feed(data):
                if not self.closed:
                    self.on_message(message)
        except ProtocolError as error:
            raise AssertionError(f"{self.process.name}: {error}") from error

    def fail(self, reason):
        if not self.closed:
            self.close()
            self.on_close(reason)

    def close(self):
        """Close after messages on their way from here, which may still arrive."""
        if self.closed:
            return
        self.closed = True
        self.process.connections.pop(self, None)
        for lane in self.out.lanes:
            for _ in range(self.loop.sim.random.choice([0, 0, len(lane)])):
                lane.pop()
        self.out.has_ended = True
        self.out.move()

    def close_when_sent(self):
        self.close()

    def set_patience(self, seconds):
        pass

    def allow_slow_reader(self):
        pass

    def is_unanswered(self, seconds):
        return False

    def flush(self):
        pass

    count_silence = cw.net.connection.Connection.count_silence


class SimRunners:
    """`cw.worker.runners.runners.Runners`: processes that take tokens, run jobs for their time, and die."""

    def __init__(self, loop, threads, descriptors, end_seconds):
        self.loop, self.sim = loop, loop.sim
        self.runners = {}
        self.can_start = True
        loop.process.runners = self

    def memory(self):
        return 0

    def start(self, runner, environment):
        found = self.runners[runner.key] = SimRunner(self, runner)
        if not self.can_start:
            found.die("could not be started: Resource temporarily unavailable")

    def send_jobs(self, runner, jobs):
        found = self.runners[runner.key]
        messages = found.cache.prepare(named_by(jobs))
        run = m.Run(
            [job.dispatch for job in jobs],
            [job.function.number for job in jobs],
            [0 if job.options_object is None else job.options_object.number for job in jobs],
            [job.attempt for job in jobs],
            [job.number for job in jobs],
            [job.payload for job in jobs],
        )
        for message in (*messages, run):
            found.told(message)
        found.take([*messages, *jobs])

    def send_drop(self, runner):
        self.runners[runner.key].told(m.Drop())
        self.runners[runner.key].take([None])

    def forget(self, keys):
        for found in self.runners.values():
            messages = found.cache.forget(keys)
            for message in messages:
                found.told(message)
            found.take(messages)

    def take_tokens(self, runner, count):
        return self.runners[runner.key].take_tokens(count)

    def tokens_left(self, runner):
        return self.runners[runner.key].tokens

    def end(self, runner):
        if runner.key in self.runners:
            self.runners[runner.key].end()

    def take_in(self):
        for runner in list(self.runners.values()):
            runner.read()

    def stop(self, runner, pace):
        found = self.runners.get(runner.key)
        if found is not None and found.runner is runner:
            found.die("killed by SIGKILL")

    def place(self, runner):
        return {"host": "here", "worker": 1, "slot": runner.slot.index, "pid": runner.key}

    def close(self):
        for runner in self.runners.values():
            runner.is_dead = True
        self.runners.clear()


class SimRunner:
    def __init__(self, runners, runner):
        self.runners, self.runner, self.sim = runners, runner, runners.sim
        self.worker_name = runners.loop.process.name
        self.name = f"runner {runner.key} of {self.worker_name}"
        self.queue = deque()
        self.cache = ObjectCache()
        self.objects = {}  # needs by number
        self.tokens = 0
        self.current = None
        self.pipe = deque()
        self.is_skipping = self.is_ended = self.is_dead = self.is_moving = False
        self.sim.at(0.005, self.step)

    def told(self, message):
        self.sim.on_sent(self.worker_name, self.name, message)

    def take(self, jobs):
        """Jobs; and what must keep its place between them: None for a Drop, messages about objects."""
        self.tokens += sum(type(job) is WorkerJob for job in jobs)
        self.queue.extend(jobs)
        self.sim.at(self.sim.latency() / 10, self.step)

    def take_tokens(self, count):
        taken = min(count, self.tokens)
        self.tokens -= taken
        return taken

    def end(self):
        self.is_ended = True
        self.sim.at(0, self.step)

    def step(self):
        if self.is_dead or self.current is not None:
            return
        while self.queue:
            job = self.queue.popleft()
            if job is None:
                self.is_skipping = False
                self.say(None)
            elif type(job) is m.Forget:
                for number in job.numbers:
                    del self.objects[number]
            elif type(job) is m.Objects:
                self.objects.update(zip(job.numbers, job.needs, strict=True))
            elif not self.is_skipping:
                if self.tokens:
                    self.tokens -= 1
                    needs = self.objects[job.function.number]
                    assert all(need in self.objects for need in needs)
                    assert job.options_object is None or job.options_object.number in self.objects
                    assert job.function.runs_in in needs and self.runner.context[1] in needs
                    self.current = job
                    self.sim.on_start(self, job)
                    return
                self.is_skipping = True
        if self.is_ended:
            self.die("exited with status 0")

    def finish(self, job, status, seconds, payload):
        if not self.is_dead and self.current is job:
            self.current = None
            self.say((job.dispatch, status, seconds, payload))
            self.step()

    def say(self, word):
        message = m.Dropped() if word is None else m.Results(*([part] for part in word))
        self.sim.on_sent(self.name, self.worker_name, message)
        self.pipe.append(word)
        if not self.is_moving:
            self.is_moving = True
            self.sim.at(self.sim.latency() / 10, self.deliver)

    def deliver(self):
        self.is_moving = False
        if self.pipe:
            self.runners.loop.process.run(self.read)

    def read(self):
        while self.pipe:
            word = self.pipe.popleft()
            if word is None:
                self.runners.on_dropped(self.runner)
            else:
                self.runners.on_results(self.runner, *([part] for part in word))

    def die(self, how):
        if not self.is_dead:
            self.is_dead = True
            self.sim.at(
                self.sim.latency() / 10, lambda: self.runners.loop.process.run(lambda: self.gone(how))
            )

    def gone(self, how):
        if self.runners.runners.get(self.runner.key) is not self:
            return
        del self.runners.runners[self.runner.key]
        self.runners.on_gone(self.runner)
        self.read()
        unstarted = self.take_tokens(len(self.runner.sent))
        note = {**self.runners.place(self.runner), "how": how, "seconds": 0.0, "stderr": ""}
        self.runners.on_exited(self.runner, unstarted, note)


class Client:
    """A real session, and the outcomes of its jobs."""

    def __init__(self, sim, name):
        self.sim = sim
        self.process = Process(sim, name)
        with mock.patch.object(cw.client.session.session, "Loop", lambda: SimLoop(self.process)):
            settings = cw.client.options.ClientSettings("here", 1)
            self.session = session = cw.client.session.session.Session(
                settings, self._deliver, lambda number, tag: None
            )
        session._thread = SimpleNamespace(ident=1)
        exchange = session.exchange
        exchange.link._find = lambda: [SimpleNamespace(host=ADDRESS[0], port=ADDRESS[1])]
        exchange.patience.start_clock(sim.now + 1000)
        session._loop.on_stopped = session._abandon
        self.delivered = Counter()
        self.errors = {}
        self.cancelled = set()
        self.attempts = {}
        self.numbers = []
        session._loop.call_soon_threadsafe(exchange.link.connect)

    def submit(self, seconds, *, crashes=0, attempts=None):
        options = to_options({"attempts": attempts or None})
        number = self.session.submitter.submit(
            _job, (len(self.numbers) + 1, seconds, crashes), {}, None, options
        )
        assert number == len(self.numbers) + 1
        self.numbers.append(number)
        self.attempts[number] = attempts
        return number

    def cancel(self, number):
        if self.session.submitter.cancel(number):
            self.cancelled.add(number)

    def _deliver(self, number, tag, error, value):
        self.delivered[number] += 1
        assert self.delivered[number] == 1, f"{self.process.name}: job {number} was delivered twice"
        assert number not in self.cancelled
        if error is None:
            assert value == number
        else:
            self.errors[number] = error

    @property
    def key(self):
        return int(self.session.exchange.identity.ident[:16], 16)


def _job(number, seconds, crashes):
    raise AssertionError("runners are simulated")


class Simulation:
    def __init__(self, seed, *, silence=3.0, client_grace=60.0, worker_grace=20.0, is_checked=True):
        """Set up a simulation. `is_checked`: check invariants after each event, which takes most of the time."""
        self.is_checked = is_checked
        self.on_sent = lambda sender, receiver, message: None
        """Called with each message that is sent, and the names of the two processes."""
        self.rides = lambda message: False
        """True for a message to deliver with the next one on its connection. (It then changes no latencies.)"""
        self.is_followed = lambda message: False
        """True for a message that is followed by an empty one in the data lane (in place of a message that is gone)."""
        self.random = Random(seed)
        self._idents = Random(seed)
        self.chances = Random(seed)  # of what is asked only after a cancel: so it changes nothing else
        self.now = MONOTONIC
        self._heap = []
        self._order = itertools.count()
        self.runs = Counter()  # (session, number): starts
        self.settings = cw.master.master.Settings(silence=silence, client_grace=client_grace)
        self.worker_settings = cw.worker.worker.Settings(silence=silence, grace=worker_grace)
        self.masters, self.workers, self.clients = [], [], []
        self.master = None  # the one that is found
        self.links = []  # (Link, Link), of each connection
        self.events = 0
        self._names = itertools.count(1)
        self.wall = WALL

    def at(self, seconds, function):
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), function))

    def latency(self):
        return self.random.choice([0.0001, 0.0003, 0.001, 0.001, 0.01])

    def run(self, seconds):
        """Run for `seconds` of simulated time."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, function = heapq.heappop(self._heap)
            self.events += 1
            function()
        self.now = end

    def run_until(self, condition, seconds):
        end = self.now + seconds
        while not condition() and self.now < end and self._heap:
            self.now, _, function = heapq.heappop(self._heap)
            self.events += 1
            function()
        return condition()

    # --- who is there ---

    def start_master(self):
        process = Process(self, f"master {next(self._names)}")
        self.master = process.master = cw.master.master.Master(
            SimLoop(process), settings=self.settings, records=Records(memoryview(bytearray(2**16)).cast("Q"))
        )
        process.master.process = process
        if self.is_checked:
            process.check = process.master.dispatcher.check_invariants
        self.masters.append(process)

    def start_worker(self, slots):
        process = Process(self, f"worker {next(self._names)}")
        loop = SimLoop(process)
        worker = process.worker = cw.worker.worker.Worker(
            loop,
            Offer(WorkerCapacity(slots), "", ""),
            lambda: [SimpleNamespace(host=ADDRESS[0], port=ADDRESS[1], source="")],
            self.worker_settings,
        )
        if self.is_checked:
            process.check = lambda: worker._slots.check_invariants()
        process.on_dead = process.runners.close
        loop.on_stopped = process.runners.close
        self.workers.append(process)
        worker.connect()
        return process

    def client(self):
        client = Client(self, f"client {next(self._names)}")
        self.clients.append(client)
        return client

    def dial(self, loop, addresses, timeout, on_connected, on_failed, silence=0.0):
        def attempt():
            master = self.master
            if master is None or not master.process.is_alive:
                error = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
                loop.call_soon_threadsafe(lambda: on_failed([(where, error) for where in addresses]))
                return
            one, other = Link(self), Link(self)
            is_refused = lambda: one.to is None and not master.process.is_alive  # noqa: E731
            way = loop.process.name, master.process.name
            ours = SimpleNamespace(out=one, into=other, way=way, family=socket.AF_INET, is_refused=is_refused)
            theirs = SimpleNamespace(
                out=other, into=one, way=way[::-1], family=socket.AF_INET, is_refused=lambda: False
            )
            self.links.append((one, other))
            # The master's end first: what the other side says must find somebody.
            master.loop.call_soon_threadsafe(lambda: master.on_admitted(theirs))
            self.at(2 * self.latency(), lambda: loop.process.run(lambda: on_connected(ours, addresses[0])))

        self.at(self.latency(), attempt)

    # --- jobs ---

    def on_start(self, runner, job):
        (number, seconds, crashes), _ = serialize.load_call(job.payload)
        self.runs[job.session, number] += 1
        assert number == job.number
        if self.runs[job.session, number] <= crashes:
            self.at(min(seconds, 0.05), lambda: runner.die("killed by SIGSEGV"))
        else:
            result = serialize.dump_result(number)
            self.at(seconds, lambda: runner.finish(job, m.DONE, seconds, result))

    # --- faults ---

    def cut(self, process, seen=(0.001, 0.001)):
        """Break the process's connections; each side sees it after a delay in `seen` (it may close before)."""
        for connection in list(process.connections):
            other = connection.out.to
            for end, delay in ((connection, seen[0]), (other, seen[1])):
                if end is not None:
                    end.out.is_stalled = True
                    for lane in end.out.lanes:
                        lane.clear()
                    self.at(
                        delay, lambda end=end: end.process.run(lambda: end.fail("Connection reset by peer"))
                    )

    def stall(self, process, seconds, directions=(True, True)):
        """Drop packets for `seconds`: messages arrive after that, unless a side has given up."""
        for connection in list(process.connections):
            for link, is_hit in zip((connection.out, connection.into), directions, strict=True):
                if is_hit and not link.is_stalled:
                    link.is_stalled = True

                    def heal(link=link):
                        link.is_stalled = False
                        if link.to is not None:
                            link.move()

                    self.at(seconds, heal)

    # --- set-up ---

    @contextlib.contextmanager
    def installed(self):
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.wall + self.now - MONOTONIC)
        with contextlib.ExitStack() as stack:
            put = lambda module, name, value: stack.enter_context(mock.patch.object(module, name, value))  # noqa: E731
            for module in (
                cw.master.master,
                cw.master.client_peer,
                cw.master.worker_peer,
                cw.master.observers.watching,
                cw.net.master_link,
                cw.worker.worker,
                cw.worker.runners.execution,
                cw.worker.runners.ticks,
                cw.worker.leaving,
            ):
                put(module, "time", clock)
            put(cw.observer.reporter, "monotonic", lambda: self.now)
            for module in (cw.master.master, cw.net.master_link):
                put(module, "Connection", SimConnection)
            put(cw.net.master_link, "dial", self.dial)
            put(cw.net.master_link, "random", self.random)
            put(secrets, "token_hex", lambda count: self._idents.randbytes(count).hex())
            put(cw.worker.worker, "Runners", SimRunners)
            put(cw.worker.runners.reaping, "set_subreaper", lambda: None)
            level = logging.getLogger("cw").level
            logging.getLogger("cw").setLevel(logging.CRITICAL)
            try:
                yield self
            finally:
                logging.getLogger("cw").setLevel(level)
