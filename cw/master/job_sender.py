"""What the master sends to one worker for its jobs: the sessions and objects that it lacks, then the jobs.

    jobs ---> objects that they name ---> Depth, Objects, Forget  (what this worker has not been sent)
      |-----> slots to avoid -----------> Avoid
      |-----> later alternatives -------> Alternatives
      '---------------------------------> Dispatch

Sessions that are closed, and objects that clients let go, are forgotten here and there. All in here runs in the loop's
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from operator import attrgetter
from typing import Protocol

from cw.master.policy.jobs import Job
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.objects import Key, Object, ObjectCache, named_by, objects_message

# The columns of a Dispatch, by functions of C: this is on the way of each job.
_dispatch, _session, _number = attrgetter("dispatch"), attrgetter("session.key"), attrgetter("number")
_function, _payload = attrgetter("function.number"), attrgetter("payload")


class Passing(Protocol):
    """The part of `cw.master.passing_orders` that is used here."""

    def is_passed_on(self, size: int) -> bool: ...
    def on_wanted(self, worker: str, values: Iterable[Key]) -> None: ...
    def on_forgotten(self, worker: str, values: Iterable[Key]) -> None: ...


class JobSender:
    """Sends jobs to one worker over one connection, and knows what else it has been sent. `depth` says how deep a
    session is; `passing` decides who gives it large shared values."""

    def __init__(
        self, connection: Connection, key: str, depth: Callable[[int], int], passing: Passing
    ) -> None:
        self._connection = connection
        self._key = key
        self._depth = depth
        self._sessions: set[int] = set()
        self._objects = ObjectCache()
        self._passing = passing
        self._promised: dict[Key, Object] = {}  # values that it has not reported as held

    def on_inventory(self, sessions: Iterable[int]) -> None:
        """The worker has named the sessions that it knows from before."""
        self._sessions = set(sessions)

    def on_shared_room(self, size: int) -> None:
        """The worker has memory for this many bytes of shared values."""
        self._objects.most_shared = size

    def send_jobs(self, jobs: list[Job]) -> None:
        """Send these jobs, and before them what the worker needs for them."""
        promised: dict[Key, None] = {}
        named = named_by(jobs)
        for message in self._objects.prepare(named):
            if type(message) is m.Objects:
                for session in set(message.sessions) - self._sessions:
                    if depth := self._depth(session):
                        self._connection.send(m.Depth(session, depth))
                self._sessions.update(message.sessions)
                message = self._promise(message, named, promised)
            else:
                self._passing.on_forgotten(self._key, zip(*message, strict=True))
            self._connection.send(message)
        if avoiding := [job for job in jobs if job.excluded_worker is not None]:
            self._send_avoid(avoiding)
        if others := [(job.dispatch, job.place.choice) for job in jobs if job.place and job.place.choice]:
            self._connection.send(m.Alternatives(*map(list, zip(*others, strict=True))))
        self._connection.send(
            m.Dispatch(
                list(map(_dispatch, jobs)),
                list(map(_session, jobs)),
                list(map(_number, jobs)),
                list(map(_function, jobs)),
                [0 if job.options_object is None else job.options_object.number for job in jobs],
                [job.attempt() if job.notes or job.tries else 1 for job in jobs],
                list(map(_payload, jobs)),
            )
        )
        self._connection.hurry()
        if promised:  # last: what comes from here comes after these jobs
            self._passing.on_wanted(self._key, promised)

    def _promise(self, message: m.Objects, named: Iterable[Object], promised: dict[Key, None]) -> m.Objects:
        """Promise the large shared values among these objects, if workers pass them on. Returns the other objects."""
        if self._connection.passes_files:
            return message
        rows = list(zip(*message, strict=True))
        large = {row[:2] for row in rows if row[2] == m.SHARED and self._passing.is_passed_on(len(row[4]))}
        if not large:
            return message
        for item in named:
            self._promised.update((need.key, need) for need in item.shared if need.key in large)
        promised.update(dict.fromkeys(sorted(large)))
        self._connection.send(
            m.Promise(
                [session for session, _ in promised],
                [number for _, number in promised],
                [self._promised[key].shared_size for key in promised],
            )
        )
        return m.Objects(*map(list, zip(*(row for row in rows if row[:2] not in large), strict=True)))

    def send_value(self, value: Key) -> None:
        """Send a promised value from here."""
        item = self._promised[value]
        self._connection.send(objects_message([item]))
        if (
            item not in self._objects
        ):  # forgotten since it was promised: only jobs that it holds still need it
            self._connection.send(m.Forget([value[0]], [value[1]]))

    def on_held(self, value: Key) -> None:
        """A promised value is there."""
        self._promised.pop(value, None)

    def _send_avoid(self, jobs: list[Job]) -> None:
        """Name the slots here on which runners of these jobs died, if it was here. It is rare, hence no column."""
        dispatches, slots = [], []
        for job in jobs:
            worker, slot = job.excluded_worker, job.excluded_slot
            if worker is not None and worker.key == self._key and slot is not None:
                dispatches.append(job.dispatch)
                slots.append(slot)
        if dispatches:
            self._connection.send(m.Avoid(dispatches, slots))

    def close_session(self, key: int) -> None:
        if key in self._sessions:
            self._sessions.discard(key)
            self._objects.forget_session(key)
            for key_of_value in [value for value in self._promised if value[0] == key]:
                del self._promised[key_of_value]
            for kind in m.Depth, m.Promise, m.Objects:  # (its jobs are withdrawn, or have been sent)
                self._connection.withdraw(kind, {key})
            self._connection.send(m.CloseSession(key))

    def close_unknown_sessions(self, known: Set[int]) -> None:
        """Close sessions that ended while the worker was away."""
        for key in self._sessions - known:
            self.close_session(key)

    def forget_objects(self, keys: list[Key]) -> None:
        """Let it forget these objects, which only jobs that it holds may still use."""
        for message in self._objects.forget(keys):
            self._passing.on_forgotten(self._key, zip(*message, strict=True))
            self._connection.send(message)
