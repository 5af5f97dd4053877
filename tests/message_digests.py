"""Digests of the messages of a simulated cluster, recorded once, to show that a change of the code sends the same.

    python tests/message_digests.py print SEED [LEG]     # one seed's messages as canonical text
    python tests/message_digests.py check [FIRST LAST]   # which seeds differ from the record
    python tests/message_digests.py record [SEED ...]    # write the record anew: only for an intended change

`message_digests.txt` holds, for each seed and leg, a digest of the canonical text of all messages there, in order.
When a seed differs, print it here and at a commit that agrees with the record, and compare the two texts:

    git worktree add /tmp/before COMMIT
    (cd /tmp/before && PYTHONPATH=. python tests/message_digests.py print 17 worker-master) > before.txt

Canonical text says who sends what to whom, with the names that classes and fields had when it was recorded: the tables
below translate today's names. It leaves out what depends on the machine, the versions, the wording and the payloads.
"""

import hashlib
import sys
from pathlib import Path
from random import Random

from simulation import Simulation
from test_simulation import GENTLE, ROUGH, Scenario

RECORD = Path(__file__).with_name("message_digests.txt")
SEEDS = range(1000)
LEGS = [
    "client-master", "master-client", "master-worker", "worker-master", "worker-runner", "runner-worker",
]  # fmt: skip

# --- what has changed since the record was written: today's names on the left --------------------

RENAMED_CLASSES: dict[str, str] = {}
"""{"Inventory": "Holding"}"""

RENAMED_FIELDS: dict[str, str] = {}
"""{"Inventory.jobs": "numbers"}: the class by today's name."""

NEW_FIELDS: dict[str, object] = {}
"""{"Hello.cpus": 0}: left out where it has this value, in a batch where each entry has it."""

GONE_FIELDS: dict[str, object] = {}
"""{"Dispatch.timeouts": 0.0}: what it always was in the record, in a batch for each entry."""

NEW_MESSAGES: frozenset[str] = frozenset()
"""{"FunctionName"}: omitted classes. They are delivered with the next message, so that they change nothing else."""

GONE_MESSAGES: dict[str, str] = {}
"""{"CloseSession": "ForgetSession"}: each of the first was followed, in the data lane, by one of the second."""

# --- what is never recorded ------------------------------------------------------------------

PAYLOADS = {"payloads", "payload"}
MACHINE = {
    "Hello.secret", "Hello.python", "Hello.version", "Hello.host", "Hello.pid", "Hello.takes_files", "Hello.protocol",
    "Welcome.version", "Welcome.takes_files", "WorkerInfo.location", "Hello.program", "Heartbeat.load",
    "Heartbeat.memory",
}  # fmt: skip
WORDS = {
    "Goodbye.reason", "Notice.text", "Remark.text", "Waiting.text", "JobFailed.first", "JobFailed.last",
    "Refused.reason", "Lost.reason", "Capacity.reason",
}  # fmt: skip
SETS = {"Roster.joined", "Roster.gone", "InventoryEnd.sessions", "Capacity.blocked_sessions"}
NOTE_WORDS = {"how", "stderr", "host", "worker"}


class Short(Scenario):
    """A scenario of some seconds, many faults and a few dozen jobs, without checks: others do that."""

    def __init__(self, seed):
        is_gentle = Random(seed).random() < 0.2
        super().__init__(seed, is_gentle=is_gentle)
        random = self.random
        self.sim = Simulation(
            random.random(), silence=2.0, client_grace=8.0, worker_grace=4.0, is_checked=False
        )
        self.seconds = random.choice([1, 2, 4])
        self.pause = random.choice([0.1, 0.2, 0.5])
        kinds = GENTLE if is_gentle else ROUGH
        self.kinds = random.sample(kinds, random.randint(1, 4))

    def submit(self, client, count):
        random = self.random
        longest = random.choice([0.002, 0.01, 0.1, 1.0, 3.0])
        attempts = random.choice([None, None, None, 1, 2])
        for _ in range(random.choice([count, min(count, 5)])):
            crashes = 0 if self.is_gentle else random.choice([0] * 10 + [1, 1, 2, 5])
            client.submit(random.uniform(0, longest), crashes=crashes, attempts=attempts)

    def delay(self):
        return self.random.choice([0.01, 0.01, 0.5] + [1.0, 3.0] * (not self.is_gentle))

    def heal(self):
        self.start_what_is_missing(5)
        self.sim.run_until(lambda: not any(c.session.outstanding() for c in self.sim.clients), 300)

    def check_jobs(self):
        pass

    def check_nothing_left(self):
        self.all_leave()
        self.sim.run(10)


class Texts:
    """Makes canonical text of the messages of one simulation, in order."""

    def __init__(self):
        self._names = {}  # of processes, by ident and by session
        self.lines = []

    def add(self, sender, receiver, message):
        cls = type(message).__name__
        if cls in NEW_MESSAGES:
            return
        if cls in ("Hello", "Welcome"):
            self._names[message.ident] = self._names[int(message.ident[:16], 16)] = sender
        text = self._text(cls, message)
        self.lines.append((_leg(sender, receiver), f"{sender} -> {receiver}: {text}"))
        if cls in GONE_MESSAGES:
            text = text.replace(cls, GONE_MESSAGES[cls], 1)
            self.lines.append((_leg(sender, receiver), f"{sender} -> {receiver}: {text}"))

    def _text(self, cls, message):
        was = RENAMED_CLASSES.get(cls, cls)
        values = {}
        for field, value in message._asdict().items():
            name = RENAMED_FIELDS.get(f"{cls}.{field}", field)
            if name in PAYLOADS or f"{was}.{name}" in MACHINE or _is_default(f"{cls}.{field}", value):
                continue
            values[name] = bool(value) if f"{was}.{name}" in WORDS else self._plain(value)
            if f"{was}.{name}" in SETS:
                values[name].sort()
        for key, value in GONE_FIELDS.items():
            gone_from, name = key.split(".")
            if gone_from == cls:
                first = message[0]
                values[name] = [value] * len(first) if _is_column(first) else value
        return " ".join([was, *(f"{name}={values[name]!r}" for name in sorted(values))])

    def _plain(self, value):
        """The same of lists, dicts in the order of their keys, numbers and strings; idents as names of processes."""
        if isinstance(value, dict):
            return {key: self._plain(value[key]) for key in sorted(value) if key not in NOTE_WORDS}
        if _is_column(value):
            return [self._plain(part) for part in value]
        return self._names.get(value, value)


def _is_column(value):
    return isinstance(value, (list, tuple))


def _is_default(key, value):
    if key not in NEW_FIELDS:
        return False
    return all(part == NEW_FIELDS[key] for part in (value if _is_column(value) else [value]))


def _leg(sender, receiver):
    return f"{sender.split()[0]}-{receiver.split()[0]}"


def run(seed):
    """Return a scenario that has run, and the text of its messages."""
    scenario = Short(seed)
    texts = Texts()
    scenario.sim.on_sent = texts.add
    scenario.sim.rides = lambda message: type(message).__name__ in NEW_MESSAGES
    scenario.sim.is_followed = lambda message: type(message).__name__ in GONE_MESSAGES
    scenario.run()
    return scenario, texts


def messages(seed):
    """Return the canonical text of a seed: (leg, line) in the order of sending."""
    return run(seed)[1].lines


def digests(seed):
    """Return a digest for each of LEGS."""
    lines = messages(seed)
    hashes = {leg: hashlib.sha256() for leg in LEGS}
    for leg, line in lines:
        hashes[leg].update(line.encode() + b"\n")
    return [hashes[leg].hexdigest()[:8] for leg in LEGS]


def read_record():
    rows = [line.split() for line in RECORD.read_text().splitlines() if not line.startswith("#")]
    return {int(seed): row for seed, *row in rows}


def differences(seeds, most=5):
    """Return a line, with the legs, for each seed that differs from the record; at most `most`."""
    record = read_record()
    found = []
    for seed in seeds:
        legs = [
            leg for leg, is_now, was in zip(LEGS, digests(seed), record[seed], strict=True) if is_now != was
        ]
        if legs:
            found.append(
                f"seed {seed} differs on {', '.join(legs)}; what is sent now: "
                f"python tests/message_digests.py print {seed} {legs[0]}"
            )
        if len(found) == most:
            break
    return found


def main(command="", *arguments):
    if command == "print" and arguments:
        seed, leg = int(arguments[0]), arguments[1] if len(arguments) > 1 else None
        for on, line in messages(seed):
            if leg in (None, on):
                print(line)
    elif command == "check":
        first, last = map(int, arguments or (SEEDS[0], SEEDS[-1]))
        found = differences(range(first, last + 1), most=len(SEEDS))
        print("\n".join(found) or f"seeds {first} to {last} are as recorded")
        return bool(found)
    elif command == "record":
        head = f"# Digests of the messages on each leg (see message_digests.py): seed {' '.join(LEGS)}"
        anew = {seed: digests(seed) for seed in map(int, arguments or SEEDS)}
        rows = {**(read_record() if arguments else {}), **anew}
        RECORD.write_text(
            "\n".join([head, *(" ".join([str(seed), *row]) for seed, row in rows.items())]) + "\n"
        )
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
