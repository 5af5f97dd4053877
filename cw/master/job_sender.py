"""What the master sends to one worker for its jobs: the sessions and objects that it lacks, then the jobs.

    jobs ---> objects that they name ---> Depth, Objects, Forget  (what this worker has not been sent)
      |-----> slots to avoid -----------> Avoid
      '---------------------------------> Dispatch

Sessions that are closed, and objects that clients let go, are forgotten here and there. All in here runs in the loop's
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from cw.master.jobs import Job
from cw.net import messages as m
from cw.net.connection import Connection
from cw.net.objects import Key, ObjectCache, named_by


class JobSender:
    """Sends jobs to one worker over one connection, and knows what else it has been sent. `depth` says how deep a
    session is."""

    def __init__(self, connection: Connection, key: str, depth: Callable[[int], int]) -> None:
        self._connection = connection
        self._key = key
        self._depth = depth
        self._sessions: set[int] = set()
        self._objects = ObjectCache()

    def on_inventory(self, sessions: Iterable[int]) -> None:
        """The worker has named the sessions that it knows from before."""
        self._sessions = set(sessions)

    def on_shared_room(self, size: int) -> None:
        """The worker has memory for this many bytes of shared values."""
        self._objects.most_shared = size

    def send_jobs(self, jobs: list[Job]) -> None:
        """Send these jobs, and before them what the worker needs for them."""
        for message in self._objects.prepare(named_by(jobs)):
            if type(message) is m.Objects:
                for session in set(message.sessions) - self._sessions:
                    if depth := self._depth(session):
                        self._connection.send(m.Depth(session, depth))
                self._sessions.update(message.sessions)
            self._connection.send(message)
        if avoiding := [job for job in jobs if job.excluded_worker is not None]:
            self._send_avoid(avoiding)
        self._connection.send(
            m.Dispatch(
                [job.dispatch for job in jobs],
                [job.session.key for job in jobs],
                [job.number for job in jobs],
                [job.function.number for job in jobs],
                [0 if job.options_object is None else job.options_object.number for job in jobs],
                [job.attempt() if job.notes or job.tries else 1 for job in jobs],
                [job.payload for job in jobs],
            )
        )

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
            for kind in m.Depth, m.Objects:  # (its jobs are withdrawn, or have been sent)
                self._connection.withdraw(kind, {key})
            self._connection.send(m.CloseSession(key))

    def close_unknown_sessions(self, known: Set[int]) -> None:
        """Close sessions that ended while the worker was away."""
        for key in self._sessions - known:
            self.close_session(key)

    def forget_objects(self, keys: list[Key]) -> None:
        """Let it forget these objects, which only jobs that it holds may still use."""
        for message in self._objects.forget(keys):
            self._connection.send(message)
