"""What a user may ask for a job, and what a worker offers: frozen values that alone validate, compare and travel.

    options(timeout=60)  -->  JobOptions(timeout=60)  --to_wire()-->  b'{"timeout":60.0}'  --from_wire()-->  the same

A new option is a field of `JobOptions` with its check, a parameter of the two `options` methods, and a line where it is
acted on. The options of a job go to master, worker and runner as an object that many jobs share (`cw.net.objects`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from cw.errors import ProtocolError

TEXT = 200
"""Characters of a peer's mistake in a message about it."""

MOST_SECONDS = 1e9
"""The longest time limit of a job: 30 years. A longer one is cut to that."""

OPTIONS_BYTES = 4096
"""Most bytes of a job's options on the wire. Larger: more of the master's memory, as each open job may have its own."""

MOST_SLOTS = 65535
"""Most slots of one worker."""


def to_seconds(name: str, value: Any) -> float:
    """A number of seconds that a user gave. Raises TypeError."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except OverflowError:
        return math.inf
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {value!r}") from None


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _duration(name: str, value: Any) -> float:
    seconds = to_seconds(name, value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    return min(seconds, MOST_SECONDS)


def _keep(name: str, value: Any) -> str:
    if value != "keep":
        raise ValueError(f"{name} must be 'keep' or None, not {value!r}")
    return "keep"


def _option(check: Callable[[str, Any], Any]) -> Any:
    return field(default=None, metadata={"check": check})


@dataclass(frozen=True)
class JobOptions:
    """The options of a job; None is the default of each. Raises TypeError, ValueError, which say what is right."""

    attempts: int | None = _option(_count)
    """How many of its runners a job may take down before it is given up."""
    timeout: float | None = _option(_duration)
    """How long it may run (seconds)."""
    min_time: float | None = _option(_duration)
    """How long its worker must be there after its start (seconds)."""
    on_limit: str | None = _option(_keep)
    """'keep': what the job returns when its time is up is its result."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))

    def to_wire(self) -> bytes:
        """The payload of an object: JSON of the options that are set, by name."""
        values = ((option.name, getattr(self, option.name)) for option in fields(self))
        return json.dumps(
            {name: value for name, value in values if value is not None}, separators=(",", ":")
        ).encode()

    @classmethod
    def from_wire(cls, payload: Any) -> JobOptions:
        """The options in this payload. Raises ProtocolError."""
        if len(payload) > OPTIONS_BYTES:
            raise ProtocolError(f"options of {len(payload)} bytes: more than {OPTIONS_BYTES}")
        try:
            options = json.loads(bytes(payload))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"options that are not JSON: {str(error)[:TEXT]}") from None
        if not isinstance(options, dict):
            raise ProtocolError(f"options that are no object of JSON: {str(options)[:TEXT]}")
        for name, value in options.items():
            if name not in _NAMES or value is None:
                raise ProtocolError(f"an option {name[:TEXT]!r} of {str(value)[:TEXT]!r}")
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"an option that is none: {str(error)[:TEXT]}") from None


_NAMES = [option.name for option in fields(JobOptions)]

NO_OPTIONS = JobOptions()


def to_options(arguments: dict[str, Any]) -> JobOptions:
    """The options that a user has given by name: `NO_OPTIONS` itself if none is set. Raises TypeError, ValueError."""
    options = JobOptions(**arguments)
    return NO_OPTIONS if options == NO_OPTIONS else options


@dataclass(frozen=True)
class WorkerCapacity:
    """What a worker offers, one number for each dimension."""

    slots: int
    """Jobs that it runs at a time."""

    def to_wire(self) -> dict[str, int]:
        """The dimensions by name."""
        return {"slots": self.slots}

    @classmethod
    def from_wire(cls, offer: object) -> WorkerCapacity:
        """The capacity that a Hello names. Raises ProtocolError."""
        if not isinstance(offer, dict) or offer.keys() != {"slots"}:
            raise ProtocolError(f"it offers {str(offer)[:TEXT]}, which is no capacity")
        slots = offer["slots"]
        if type(slots) is not int or not 0 < slots <= MOST_SLOTS:
            raise ProtocolError(f"it offers {str(slots)[:TEXT]} slots")
        return cls(slots)
