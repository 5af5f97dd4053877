"""Faults of every kind in a simulated cluster of real masters, workers and clients (see simulation.py), by the seed.

By hand, for as long as one likes:  python tests/test_simulation.py MINUTES [SEED]
"""

import sys
import time
from random import Random

import pytest
import simulation
from simulation import MONOTONIC, Simulation

import cw
from cw.master.policy.jobs import CRASHES, WORKER_LOSSES
from cw.net import messages as m
from cw.net.objects import ObjectCache
from cw.payloads import serialize


class Scenario:
    """One seed: how many of whom, which faults, how often."""

    def __init__(self, seed, *, is_gentle):
        self.random = random = Random(seed)
        self.is_gentle = is_gentle
        self.sim = Simulation(random.random())
        self.faults = 0
        self.killed = 0  # workers
        self.slots = [random.choice([1, 1, 2, 4]) for _ in range(random.randint(1, 4))]
        self.seconds = random.choice([5, 20, 60])
        self.pause = random.choice([0.2, 1, 5])
        kinds = GENTLE if is_gentle else ROUGH
        self.kinds = random.sample(kinds, random.randint(1, len(kinds)))

    def run(self):
        with self.sim.installed():
            self.sim.start_master()
            self.sim.run(self.random.choice([0, 0.5]))
            for slots in self.slots:
                self.sim.start_worker(slots)
            for _ in range(self.random.randint(1, 3)):
                self.sim.client()
            self.disturb()
            self.heal()
            self.check_jobs()
            self.check_nothing_left()

    # --- events ---

    def disturb(self):
        sim, random = self.sim, self.random
        end = sim.now + self.seconds
        next_fault = sim.now + random.uniform(0, 2 * self.pause)
        while sim.now < end:
            for client in sim.clients:
                if random.random() < 0.3 and client.session.outstanding() < 400:
                    self.submit(client, random.choice([1, 1, 5, 50]))
            if sim.now >= next_fault:
                random.choice(self.kinds)(self)
                self.faults += 1
                next_fault = sim.now + random.uniform(0, 2 * self.pause)
            sim.run(random.choice([0.01, 0.1, 0.1, 0.5]))

    def submit(self, client, count):
        random = self.random
        longest = random.choice([0.002, 0.01, 0.1, 1.0, 3.0])
        attempts = random.choice([None, None, None, 1, 2])
        for _ in range(count):
            crashes = 0 if self.is_gentle else random.choice([0] * 30 + [1, 1, 2, 5])
            client.submit(random.uniform(0, longest), crashes=crashes, attempts=attempts)

    def master_restarts(self):
        sim = self.sim
        if sim.master is not None:
            sim.master.process.die()
            sim.master = None
            # Nothing but that, until all are back and have reported.
            pause = self.random.choice([0.0, 0.1, 1.0, 3.0] if self.is_gentle else [0.0, 0.1, 1.0, 3.0, 20.0])
            sim.at(pause, sim.start_master)
            if self.is_gentle:
                sim.run(pause + 10)

    def master_is_replaced_while_it_lives(self):
        sim = self.sim
        if sim.master is not None:
            old = sim.master.process
            sim.start_master()
            for process in self.random.sample(sim.workers, self.random.randint(0, len(sim.workers))):
                sim.cut(process)
            sim.at(self.random.choice([1, 10, 70]), old.die)

    def clients_connection_breaks(self):
        client = self.random.choice(self.sim.clients)
        if client.process.is_alive:
            self.sim.cut(client.process, (self.delay(), self.delay()))
            if self.is_gentle:
                self.sim.run(8)

    def workers_connection_breaks(self):
        worker = self.some_worker()
        if worker is not None:
            # In the gentle case the worker is back before it is taken for lost.
            self.sim.cut(
                worker,
                (0.01, self.random.choice([0.01, 2.0])) if self.is_gentle else (self.delay(), self.delay()),
            )
            if self.is_gentle:
                self.sim.run(5)

    def delay(self):
        return self.random.choice([0.01, 0.01, 1.0] + [3.0, 10.0] * (not self.is_gentle))

    def network_stalls(self):
        everybody = [p for p in (*self.sim.workers, *(c.process for c in self.sim.clients)) if p.is_alive]
        for process in self.random.sample(everybody, min(len(everybody), self.random.randint(1, 3))):
            directions = self.random.choice([(True, True), (True, False), (False, True)])
            self.sim.stall(process, self.random.choice([0.1, 1, 5, 20]), directions)

    def worker_is_killed(self):
        worker = self.some_worker()
        if worker is not None:
            worker.die()
            self.killed += 1
            self.sim.start_worker(self.random.choice([1, 2]))

    def worker_drains(self):
        worker = self.some_worker()
        if worker is not None:
            worker.run(worker.worker.leaving.on_sigterm)
            self.sim.start_worker(self.random.choice([1, 2]))

    def worker_joins(self):
        if len(self.sim.workers) < 6:
            self.sim.start_worker(self.random.choice([1, 2]))

    def somebody_freezes(self):
        everybody = [*self.sim.workers, *(c.process for c in self.sim.clients), *self.sim.masters]
        self.random.choice(everybody).freeze(self.random.choice([0.1, 1, 5, 20]))

    def worker_cannot_start_runners(self):
        worker = self.some_worker()
        if worker is not None:
            worker.runners.can_start = False
            self.sim.at(self.random.choice([0.1, 2, 30]), lambda: setattr(worker.runners, "can_start", True))

    def client_dies(self):
        if len(self.sim.clients) > 1:
            client = self.random.choice(self.sim.clients)
            client.process.die()
            self.sim.clients.remove(client)
            self.sim.client()

    def client_leaves(self):
        if len(self.sim.clients) > 1:
            client = self.random.choice(self.sim.clients)
            client.process.run(lambda: client.session.exchange.leave())
            self.sim.clients.remove(client)
            self.sim.client()

    def jobs_are_cancelled(self):
        client = self.random.choice(self.sim.clients)
        open_jobs = [job.number for job in client.session.jobs.all()]
        if client.process.is_alive and not client.process.is_frozen:
            for number in self.random.sample(open_jobs, min(len(open_jobs), self.random.randint(1, 10))):
                client.cancel(number)
            client.session._loop.wake()

    def some_worker(self):
        alive = [worker for worker in self.sim.workers if worker.is_alive]
        return self.random.choice(alive) if alive else None

    # --- what must be true in the end ---

    def heal(self):
        sim = self.sim
        self.start_what_is_missing(25)
        done = sim.run_until(lambda: all(not c.session.outstanding() for c in sim.clients), 3000)
        assert done, {c.process.name: [job.number for job in c.session.jobs.all()][:20] for c in sim.clients}

    def start_what_is_missing(self, seconds):
        """After so long, in which faults end: one master, and at least one worker."""
        sim = self.sim
        sim.run(seconds)
        if sim.master is None or not sim.master.process.is_alive:
            sim.start_master()
        for process in sim.masters:
            if process is not sim.master.process:
                process.die()
        if not any(worker.is_alive for worker in sim.workers):
            sim.start_worker(2)

    def check_jobs(self):
        for client in self.sim.clients:
            for number in client.numbers:
                assert client.delivered[number] == (number not in client.cancelled), (
                    client.process.name,
                    number,
                )
                runs = self.sim.runs[client.key, number]
                if self.is_gentle:
                    assert runs <= 1, (client.process.name, number, runs)
                if client.attempts[number] == 1:
                    assert runs <= 1, (client.process.name, number, runs, "attempts=1")
            for number, error in client.errors.items():
                assert type(error) is cw.WorkerLost and not self.is_gentle, (number, error)
                attempts = client.attempts[number] or 3
                assert attempts == 1 or len(error.attempts) >= min(attempts, WORKER_LOSSES), (number, error)

    def check_records(self):
        """What the master has noted is held by a worker, or its client may not have the result."""
        sim = self.sim
        dispatcher = sim.master.dispatcher
        kept = {dispatch for worker in dispatcher.state.workers.values() for dispatch in worker.held}
        for session in dispatcher.state.sessions.values():
            kept.update(dispatch for *_, dispatches, _ in session.unacknowledged for dispatch in dispatches)
        for orphans in dispatcher._reconciler.orphans.values():
            kept.update(dispatch for _, dispatch, _ in orphans.values())
        assert sim.master.records._places.keys() <= kept

    def check_nothing_left(self):
        sim = self.sim
        self.check_records()
        self.all_leave()
        sim.run(70)  # the grace of those that died, and of what only workers know
        dispatcher = sim.master.dispatcher
        assert not dispatcher.state.sessions and not dispatcher._reconciler.orphans and not sim.master.clients
        assert not sim.master.records._places
        for worker in dispatcher.state.workers.values():
            assert not worker.held and not worker.load and not worker.size
        for process in sim.workers:
            if process.is_alive:
                worker = process.worker
                policy, kept = worker._slots, worker._outcomes.outbox
                assert policy.is_empty() and not policy.has_runners() and not policy.held.backlog
                assert not len(kept) and not kept._size
                assert not worker._sessions and not policy.held.closed

    def all_leave(self):
        for client in self.sim.clients:
            client.process.run(client.session.exchange.leave_when_done)


GENTLE = [
    Scenario.master_restarts, Scenario.clients_connection_breaks, Scenario.workers_connection_breaks,
    Scenario.worker_joins, Scenario.jobs_are_cancelled, Scenario.worker_cannot_start_runners,
]  # fmt: skip
ROUGH = [
    Scenario.master_restarts, Scenario.master_is_replaced_while_it_lives, Scenario.clients_connection_breaks,
    Scenario.workers_connection_breaks, Scenario.network_stalls, Scenario.worker_is_killed, Scenario.worker_drains,
    Scenario.worker_joins, Scenario.somebody_freezes, Scenario.client_dies, Scenario.client_leaves,
    Scenario.jobs_are_cancelled, Scenario.worker_cannot_start_runners,
]  # fmt: skip


SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 7))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_each_job_is_delivered_once_and_nothing_is_left(seed):
    Scenario(seed, is_gentle=False).run()


@pytest.mark.parametrize("seed", SEEDS)
def test_when_all_come_back_in_time_nothing_runs_twice(seed):
    Scenario(seed, is_gentle=True).run()


@pytest.mark.parametrize("how", ["lost", "left"])
def test_a_worker_that_goes_in_the_moment_in_which_a_client_settles_is_asked_for_nothing(how):
    sim = Simulation(1)
    with sim.installed():
        sim.start_master()
        workers = [sim.start_worker(1) for _ in range(2)]
        client = sim.client()
        sim.run(1)
        for seconds in (0.5, 1000.0):
            client.submit(seconds)
        for _ in range(2):
            client.submit(1000.0)
        sim.run(0.2)
        sim.master.process.die()
        for number in client.numbers[1:]:  # the orphans of a client that does not know them any more
            client.cancel(number)
        client.session._loop.wake()
        stays = next(process for process in workers if 1000.0 in _running(process))
        (gone,) = set(workers) - {stays}
        gone.die()  # and is waited for
        sim.start_master()
        peer = sim.run_until(lambda: next((w for w in sim.master.workers.values() if w.is_known), None), 3)
        (session,) = sim.master.clients.values()
        resumption = session._resumption
        assert sim.run_until(lambda: resumption._is_resubmitted, 3)
        assert resumption._missing
        sim.now = resumption._settles_at
        peer.connection.close()
        going = (
            peer._lose if how == "lost" else lambda reason: peer._on_goodbye(cw.net.messages.Goodbye(reason))
        )
        sim.master.process.run(lambda: going("it is time"))
        assert not resumption._is_settling and not sim.master.workers
        sim.start_worker(1)
        assert sim.run_until(lambda: not client.session.outstanding(), 30)


def test_a_client_whose_first_connection_breaks_before_it_is_welcome_tries_on():
    sim = Simulation(1)
    with sim.installed():
        sim.start_master()
        sim.start_worker(1)
        client = sim.client()
        assert sim.run_until(lambda: client.process.connections, 1)
        sim.cut(client.process)
        assert sim.run_until(client.session._connected.is_set, 5)
        client.submit(0.1)
        assert sim.run_until(lambda: not client.session.outstanding(), 5)
        assert not client.errors


def test_the_next_master_knows_the_options_of_the_jobs_that_wait():
    sim = Simulation(1)
    with sim.installed():
        sim.start_master()
        client = sim.client()
        sim.run(1)
        once, twice, often = (client.submit(0.1, crashes=9, attempts=n) for n in (1, 2, None))
        sim.run(1)
        sim.master.process.die()
        sim.start_master()
        assert sim.run_until(lambda: len(_jobs_at(sim.master)) == 3, 5)
        assert [job.options and job.options.attempts for job in _jobs_at(sim.master)] == [1, 2, None]
        sim.start_worker(1)
        sim.start_worker(1)
        assert sim.run_until(lambda: not client.session.outstanding(), 60)
        assert [len(client.errors[n].attempts) for n in (once, twice, often)] == [1, 2, CRASHES]


def test_at_every_hop_few_of_many_options_are_kept(monkeypatch):
    for module in (simulation, cw.master.job_sender, cw.client.session.object_sender):
        monkeypatch.setattr(module, "ObjectCache", lambda: ObjectCache(most_objects=16))
    monkeypatch.setattr(cw.client.session.objects, "KEPT_OBJECTS", 16)
    sim = Simulation(1)
    with sim.installed():
        sim.start_master()
        worker = sim.start_worker(2)
        client = sim.client()
        sim.run(1)
        (session,) = sim.master.clients.values()
        for n in range(300):
            client.submit(0.001, attempts=10 + n)
            client.submit(0.001)
            assert sim.run_until(lambda: not client.session.outstanding(), 60)
            for kept in (
                client.session.calls.objects,
                session._objects.by_number,
                worker.worker._sessions[client.key].by_number,
                *(runner.objects for runner in worker.runners.runners.values()),
            ):
                assert len(kept) <= 2 * 16
        assert worker.runners.runners and not client.errors


def test_a_job_whose_runner_died_is_sent_with_the_slot_to_avoid():
    sim, sent = Simulation(1), []
    sim.on_sent = lambda sender, receiver, message: sent.append(message)
    with sim.installed():
        sim.start_master()
        worker = sim.start_worker(2)
        client = sim.client()
        sim.run(1)
        client.submit(0.01, crashes=1)
        assert sim.run_until(lambda: not client.session.outstanding(), 60)
        assert not client.errors
    first, second = (message for message in sent if type(message) is m.Dispatch)
    (avoid,) = (message for message in sent if type(message) is m.Avoid)
    assert avoid == m.Avoid(second.dispatches, avoid.slots) and sent.index(avoid) < sent.index(second)
    (died,) = (message for message in sent if type(message) is m.RunnerDied)
    assert avoid.slots == [died.note["slot"]] and died.dispatch in first.dispatches
    assert {runner.runner.slot.index for runner in worker.runners.runners.values()} == {1 - avoid.slots[0]}


def _jobs_at(master):
    """The open jobs at this master."""
    return [job for key in master.clients for job in master.dispatcher.state.open_jobs(key).values()]


def _running(process):
    """Seconds of the jobs that this worker holds."""
    return [serialize.load_call(job.payload)[0][1] for job, _ in process.worker._slots.inventories()]


def main(minutes, seed=0):
    end = time.monotonic() + 60 * minutes
    runs = faults = jobs = events = twice = 0
    simulated = 0.0
    while time.monotonic() < end:
        scenario = Scenario(seed, is_gentle=bool(seed % 2))
        try:
            scenario.run()
        except BaseException:
            print(f"seed {seed} (is_gentle={scenario.is_gentle}), after {runs} scenarios", file=sys.stderr)
            raise
        runs, seed = runs + 1, seed + 1
        faults += scenario.faults
        events += scenario.sim.events
        simulated += scenario.sim.now - MONOTONIC
        jobs += len(scenario.sim.runs)
        twice += sum(count > 1 for count in scenario.sim.runs.values())
    print(f"{runs} scenarios, {simulated / 3600:.1f} simulated hours, {faults} faults, {events} events, {jobs} jobs; "
          f"{twice} ran more than once")  # fmt: skip


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
