"""One job of a client: a call, or a chunk of calls, that is outstanding. Pure."""

from __future__ import annotations

from typing import Any

from cw.client.session.retries import Retries
from cw.requirements import NO_OPTIONS, JobOptions

ENDED = -1
"""`ClientJob.sent_over` of a job that must not be sent: it waited for a future that failed, or was cancelled."""


class NamedTag:
    """Tag of a job that has an id of the caller's."""

    __slots__ = ("jobid", "number", "options")

    def __init__(self, jobid: Any, options: Any) -> None:
        self.jobid = jobid
        self.options = options  # those of its `submit`
        self.number = 0  # the session's for the job; 0: it is being submitted

    def note_number(self, number: int) -> bool:
        """Take another number for the job: it has waited for futures."""
        self.number = number
        return True


class ClientJob:
    """One call (or chunk of calls) that is outstanding."""

    __slots__ = (
        "number",
        "function",
        "options",
        "payload",
        "tag",
        "call",
        "retries",
        "priority",
        "keeps_output",
        "sent_over",
    )

    def __init__(
        self,
        number: int,
        function: int,
        options: int,
        payload: Any,
        tag: Any,
        call: Any = None,
        asked: JobOptions = NO_OPTIONS,
    ) -> None:
        self.number = number
        self.function = function  # number of an object
        self.options = options  # number of an object; 0: none
        self.payload = payload
        self.tag = tag  # the caller's; the result is delivered with it
        self.call = call  # a `store_client.Call` or `Chunk`, if its result goes to a store
        # If it may be tried again after an error; and its priority: jobs with a larger one are sent first.
        if asked is NO_OPTIONS:  # as most are
            self.retries = None
            self.priority = 0
            self.keeps_output = False
        else:
            self.retries = Retries(asked) if asked.retries else None
            self.priority = asked.priority or 0
            self.keeps_output = asked.output == "keep"
        self.sent_over = 0  # connection over which it was sent last, from 1; or ENDED

    @property
    def id(self) -> Any:
        """What its caller knows it by: its number, or the caller's own id."""
        tag = self.tag
        return tag.jobid if type(tag) is NamedTag else self.number

    @property
    def name(self) -> str:
        """Name for messages, with the caller's own id if the job has one."""
        return f"job {self.id}"


class Dependent(ClientJob):
    """A call that waits for futures; then it is a job."""

    __slots__ = ("called", "missing", "results")

    def __init__(
        self,
        called: Any,
        function: int,
        options: int,
        payload: Any,
        tag: Any,
        call: Any = None,
        asked: JobOptions = NO_OPTIONS,
    ) -> None:
        super().__init__(0, function, options, payload, tag, call, asked)
        self.called = called  # the function itself
        self.missing = 0  # number of futures that are not done; 0 if it does not wait any more
        self.results: list[Any] = []  # one for each place in the payload (`cw.client.session.dependents`)
