"""Checks on the messages of the master's peers, beyond their form (which cw.net.wire has checked).

    Connection ---> message ---> rules.check(message) ---> the handler, which may rely on it
                                         '--> ProtocolError: one line, and this connection is closed

All peers that get this far hold the credential, so these checks are against *faulty* peers: one broken client or worker
must harm no session but its own. The checks change nothing in the master: an error in here, even a bug of ours, ends
one connection and nothing else. An error behind them ends the master, loudly, since its state may be wrong from then on
(clients and workers can report all that it knew to another master).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cw.errors import ProtocolError
from cw.events import EventLogger
from cw.net import messages as m
from cw.net.objects import SHARED_BYTES, SessionObjects, closure
from cw.net.schema import MOST_DEPTH, TEXT, check_bounds, is_ident, is_text
from cw.net.wire import MAX_PAYLOAD
from cw.requirements import JobOptions, WorkerCapacity
from cw.version import VERSION

logger = EventLogger("cw.checks")

ENVIRONMENT_BYTES = 4 * 1024**2
"""Most bytes of an environment: a working directory and a `sys.path` take some kilobytes."""

OBJECTS = 64 * 1024
"""Most objects of one session that the master keeps. A client forgets unused ones (cw.client.session.objects)."""

OBJECT_BYTES = 512 * 1024**2
"""Most bytes of these objects, beside those that the submitted jobs need. Clients keep to half of it."""

SLACK = 2
"""Open jobs allowed here, as a multiple of the window: the client learns late of a smaller window."""

NOTES = 20
"""Most notes on the earlier attempts of one job; the latest are kept."""

INVENTORIES = 1_000_000
"""Most jobs, ended or not, that a worker may report to hold."""

OUTPUT_BYTES = 4 * 1024**2
"""Most bytes of one part of a job's output. A worker's own bounds are far below."""

RESUBMITTED_JOBS = 8 * 1024**2
"""Most jobs that a client which is back may resubmit: they went through the window of a previous master, which this one
does not know."""

_NOTE: dict[str, tuple[type, ...]] = {
    "host": (str,), "worker_ident": (str,), "worker": (str, int), "slot": (int,), "pid": (int,), "how": (str,),
    "seconds": (int, float), "stderr": (str,), "loading": (bool,), "cuts": (int,),
}  # fmt: skip


# --- Hello ------------------------------------------------------------------------------------


def reason_to_refuse(hello: m.Hello) -> str:
    """Reason to refuse a peer with this Hello; '' if there is none."""
    if not is_text(hello.version) or not is_text(hello.host):
        return "it does not say where it is, or what"
    if hello.protocol != m.PROTOCOL:
        return (
            f"it is cw {hello.version} (protocol {hello.protocol}), the master is cw {VERSION} "
            f"(protocol {m.PROTOCOL}): install the same cw on both"
        )
    if hello.role not in ("client", "worker", "observer"):
        return f"its role is {hello.role!r}"
    if hello.role == "worker":
        try:
            WorkerCapacity.from_wire(hello.capacity)
        except ProtocolError as error:
            return clean_text(str(error))
    if not is_ident(hello.ident) or (hello.role == "client" and not is_ident(hello.secret)):
        return "it does not say who it is"
    if not is_text(hello.program):
        return "the name of its program is no line of text"
    if hello.depth > MOST_DEPTH:
        return f"it is a client in a job in a job, {hello.depth} deep"
    python = hello.python
    if len(python) != 2 or not all(type(part) is int and 0 <= part < 1000 for part in python):
        return "it does not say its Python version"
    return ""


def clean_text(text: str) -> str:
    """Make any text safe for a line of the log: printable, and of limited length."""
    return "".join(c if c.isprintable() else "?" for c in text[:TEXT])


def clean_note(note: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a note on a lost attempt to the known keys, with valid values of limited length."""
    clean = {}
    for key, types in _NOTE.items():
        value: Any = note.get(key)
        if isinstance(value, str) and str in types:
            clean[key] = "\n".join(map(clean_text, value[:TEXT].split("\n")))
        elif type(value) in types and math.isfinite(value) and abs(value) < 2**63:
            clean[key] = value
    return clean


def clean_notes(notes: Iterable[Any]) -> list[dict[str, Any]]:
    """Clean the latest NOTES notes on one job."""
    return [clean_note(note) for note in list(notes)[-NOTES:] if isinstance(note, dict)]


# --- every message ----------------------------------------------------------------------------


class Rules:
    """Rules for the messages of one connection: the bounds that they declare for their values, and conditions that
    depend on earlier messages.

    `check(message)` raises ProtocolError.
    """

    _checks: dict[type, Callable[[Any, Any], None]] = {}

    def check(self, message: Any) -> None:
        check = self._checks.get(type(message))
        try:
            check_bounds(message)
            if check is not None:
                check(self, message)
        except ProtocolError:
            raise
        except Exception as error:
            logger.error("checks.failed", "the check of %s failed", type(message).__name__, exc_info=True)
            raise ProtocolError(f"{type(message).__name__} cannot be checked: {error!r}") from error


class ClientRules(Rules):
    """Rules for a client. `open_jobs()` gives the session's open jobs by number, each with its `payload`; `objects` are
    those that it has sent. Jobs up to `resubmitted_up_to` may be resubmitted, open or not: the client was connected
    before."""

    def __init__(
        self,
        open_jobs: Callable[[], Mapping[int, Any]],
        objects: SessionObjects,
        window_bytes: int,
        resubmitted_up_to: int = 0,
    ) -> None:
        self.window_jobs = 0
        """The largest window that was granted over this connection."""
        self.shared_room = SHARED_BYTES
        """The most bytes of shared values that the client was allowed over this connection."""
        self._open_jobs = open_jobs
        self._window_bytes = window_bytes
        self._resubmitted_up_to = resubmitted_up_to
        self._objects = objects
        self._has_new_objects = False  # since the last Submit
        # Upper bound of the open jobs' bytes: jobs that have ended are subtracted only when it gets large.
        self._size = 0
        self._submitted = 0  # highest number of a job submitted over this connection, in order
        self._has_apart = False  # some were submitted out of that order
        self._is_resubmitting = True

    def _on_objects(self, message: m.Objects) -> None:
        known = self._objects.by_number
        kinds: dict[int, int] = {}  # kinds of the objects in this message
        size = self._objects.size
        for _, number, kind, needs, payload in zip(*message, strict=True):
            if number in known or number in kinds:
                raise ProtocolError(f"object {number} is sent again")
            if kind > m.SHARED:
                raise ProtocolError(f"object {number} is of a kind {kind}, which is none")
            if kind == m.SHARED and needs:
                raise ProtocolError(f"the shared value {number} with {len(needs)} needs")
            size += 0 if kind == m.SHARED else len(payload)
            if kind == m.OPTIONS:
                self._check_options(number, needs, payload)
            places = 0
            for need in needs:
                if need not in known and need not in kinds:
                    raise ProtocolError(f"object {number} needs object {need}, which was not sent")
                places += (kinds[need] if need in kinds else known[need].kind) == m.ENVIRONMENT
            if kind == m.FUNCTION and places != 1:
                raise ProtocolError(f"function {number} in {places} environments")
            if kind == m.ENVIRONMENT and len(payload) > ENVIRONMENT_BYTES:
                raise ProtocolError(f"an environment of {len(payload)} bytes")
            kinds[number] = kind
        count = len(known) + len(kinds)
        if count > OBJECTS or size > MAX_PAYLOAD:
            raise ProtocolError(f"{count} objects of {size} bytes: more than are kept")
        self._has_new_objects = True

    def _check_options(self, number: int, needs: Sequence[int], payload: Any) -> None:
        if needs:
            raise ProtocolError(f"options {number} with {len(needs)} needs")
        JobOptions.from_wire(payload)

    def _check_size_of_objects(self, functions: Iterable[int]) -> None:
        """Limit the bytes of objects that these functions do not need; those that they need are not limited."""
        self._has_new_objects = False
        objects, most_shared = self._objects, SLACK * self.shared_room
        if objects.size > OBJECT_BYTES or objects.shared_size > most_shared:
            needed = closure([objects.by_number[number] for number in functions])
            beside = objects.size - sum(item.size for item in needed)
            shared = objects.shared_size - sum(item.shared_size for item in needed)
            if beside > OBJECT_BYTES or shared > most_shared:
                raise ProtocolError(
                    f"{beside + shared} bytes of objects that are not needed: more than are kept"
                )

    def _on_function_name(self, message: m.FunctionName) -> None:
        known = self._objects.by_number.get(message.number)
        if known is None or known.kind != m.FUNCTION:
            raise ProtocolError("the name of a function that was not sent")

    def _on_submit(self, message: m.Submit) -> None:
        numbers = message.numbers
        # Jobs must come in order, and so each once over this connection: then an open one was submitted before it.
        first = numbers[0] if numbers else 0
        if numbers != list(range(first, first + len(numbers))) and numbers != sorted(set(numbers)):
            raise ProtocolError("jobs that are not in order")
        if numbers and first <= self._submitted:
            raise ProtocolError("jobs that were submitted over this connection before")
        if self._has_apart and not self._is_resubmitting and not self._open_jobs().keys().isdisjoint(numbers):
            raise ProtocolError("jobs to be submitted that are open")
        is_again = bool(numbers) and numbers[-1] <= self._resubmitted_up_to
        self._check_jobs(message, RESUBMITTED_JOBS if is_again else SLACK * self.window_jobs)
        self._submitted = numbers[-1] if numbers else self._submitted

    def _on_submit_apart(self, message: m.SubmitApart) -> None:
        jobs, numbers = self._open_jobs(), message.numbers
        if len(set(numbers)) < len(numbers):
            raise ProtocolError("jobs that are submitted twice")
        if not self._is_resubmitting and any(number in jobs for number in numbers):
            raise ProtocolError("jobs to be submitted that are open")
        self._has_apart = True
        self._check_jobs(message, RESUBMITTED_JOBS if self._resubmitted_up_to else SLACK * self.window_jobs)

    def _on_resubmit_end(self, message: m.ResubmitEnd) -> None:
        self._is_resubmitting = False

    def _check_jobs(self, message: m.Submit | m.SubmitApart, most: int) -> None:
        """Check what jobs name, their number and their size. `most`: how many may be open."""
        jobs = self._open_jobs()
        if len(jobs) + len(message.numbers) > most:
            raise ProtocolError(f"more jobs than its window of {self.window_jobs}")
        objects = self._objects.by_number
        for number in set(message.functions):
            if number not in objects or objects[number].kind != m.FUNCTION:
                raise ProtocolError("a job of a function that was not sent")
        if self._has_new_objects:
            self._check_size_of_objects(set(message.functions))
        for number in set(message.options):
            if number and (number not in objects or objects[number].kind != m.OPTIONS):
                raise ProtocolError("a job with options that were not sent")
        size = sum(map(len, message.payloads))
        if self._size + size > SLACK * self._window_bytes:
            self._size = sum(len(job.payload) for job in jobs.values())
            if self._size > SLACK * self._window_bytes:
                raise ProtocolError(f"jobs of {self._size + size} bytes, its window has {self._window_bytes}")
        self._size += size

    _checks = {
        m.Objects: _on_objects,
        m.FunctionName: _on_function_name,
        m.Submit: _on_submit,
        m.SubmitApart: _on_submit_apart,
        m.ResubmitEnd: _on_resubmit_end,
    }


class WorkerRules(Rules):
    """Rules for a worker. Dispatch numbers need none: the policy ignores those that the worker does not hold."""

    def __init__(self, slots: int) -> None:
        self.recalls = 0
        """Number of Recalls that were sent and not answered yet."""
        self._slots = slots
        self._named: set[int] = set()  # dispatches of its inventory so far

    def _on_results(self, message: m.Results) -> None:
        if max(message.statuses, default=0) > m.TIMEOUT:
            raise ProtocolError("a result that is neither done nor an error nor late")

    def _on_output(self, message: m.Output) -> None:
        if message.streams and not m.STDOUT <= min(message.streams) <= max(message.streams) <= m.RECORDS:
            raise ProtocolError("output of a stream that is none")
        self._check_output(message.payloads)

    def _on_kept(self, message: m.Kept) -> None:
        if any(map(int.__gt__, message.sizes, map(len, message.payloads))):
            raise ProtocolError("a kept output with more stdout than there is output")
        self._check_output(message.payloads)

    def _check_output(self, payloads: Sequence[Any]) -> None:
        largest = max(map(len, payloads), default=0)
        if largest > OUTPUT_BYTES:
            raise ProtocolError(f"output of {largest} bytes in one part")

    def _on_inventory(self, message: m.Inventory) -> None:
        before = len(self._named)
        self._named.update(message.dispatches)
        if len(self._named) < before + len(message.dispatches):
            raise ProtocolError("it holds one dispatch twice")
        if len(self._named) > INVENTORIES:
            raise ProtocolError(f"it holds {len(self._named)} jobs")

    def _on_inventory_end(self, message: m.InventoryEnd) -> None:
        self._named.clear()

    def _on_capacity(self, message: m.Capacity) -> None:
        if not 0 <= message.slots <= self._slots:
            raise ProtocolError(f"{message.slots} of its {self._slots} slots can be used")

    def _on_not_entered(self, message: m.NotEntered) -> None:
        if any(map(int.__gt__, message.sizes, map(len, message.payloads))):
            raise ProtocolError("a reason that is longer than its payload")

    def _on_lent(self, message: m.Lent) -> None:
        if message.extra > INVENTORIES or len(message.floors) > self._slots:
            raise ProtocolError("it lends more slots than it has")

    def _on_recalled(self, message: m.Recalled) -> None:
        if not self.recalls:
            raise ProtocolError("Recalled without a Recall")
        self.recalls -= 1

    _checks = {
        m.Results: _on_results,
        m.Output: _on_output,
        m.Kept: _on_kept,
        m.Inventory: _on_inventory,
        m.InventoryEnd: _on_inventory_end,
        m.Recalled: _on_recalled,
        m.NotEntered: _on_not_entered,
        m.Capacity: _on_capacity,
        m.Lent: _on_lent,
    }


class ObserverRules(Rules):
    """Rules for an observer. It asks for little: the bounds that its messages declare are enough."""
