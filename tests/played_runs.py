"""Runs that a test plays: their folders, calls, states and results, without a script or a steward."""

import os
import threading

from cw import processes
from cw.runs.calls import CallEntry, CallRecord, CallsWriter
from cw.runs.folder import ENDED, STEWARD, Description, RunFolder, RunState
from cw.store import callkey
from cw.store.format import Entry
from cw.store.reader import Store
from cw.store.writer import Writer

LIMIT = 30

ELSEWHERE = {"host": os.uname().nodename, "pid": os.getppid(), "start": processes.identity(os.getppid())}
"""A process that lives, and is not this one."""


class PlayedRun:
    """A run that a test plays: its list of calls, its state, and the results that its owner stores."""

    def __init__(self, path, name="sweep", phase=STEWARD):
        self.folder = RunFolder(path / "runs" / name)
        self.folder.create(Description(name, str(path)))
        self.state = RunState(phase, **ELSEWHERE)
        self.folder.write_state(self.state)
        self.calls = CallsWriter(self.folder)
        self.writer = Writer(Store(path, True, callkey.SCHEME))
        self.numbers = 0

    def add(self, *keys, args=b"", former=0.0):
        for key in keys:
            self.numbers += 1
            entry = CallEntry(key, "f", args, former=former)
            self.calls.put_call(CallRecord(self.numbers, 1, 0, b"", (entry,)))
        self.calls.flush()

    def store(self, entry):
        done = threading.Event()
        self.writer.put([entry], lambda error: done.set())
        assert done.wait(LIMIT)

    def end(self, phase=ENDED):
        self.state = self.state._replace(phase=phase, beat=self.state.beat + 1)
        self.folder.write_state(self.state)

    def close(self):
        self.writer.close()
        self.calls.close()


def entry(key, status=0, when=1.0):
    return Entry(key, 1, "f", "", status, when, 0.0, b"", b"", False, ())


def key(number):
    return number.to_bytes(16, "big")


def as_entry(stored):
    fields = {name: getattr(stored, name) for name in stored._fields if name in Entry._fields}
    return Entry(**fields, is_durable=False, classes=())
