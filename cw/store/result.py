"""One result of a store: its fields, and its arguments and value, which are unpickled when they are used."""

from __future__ import annotations

import datetime
from typing import Any

from cw.net import messages as m
from cw.output import last_words
from cw.payloads import classes, serialize
from cw.payloads.job_usage import Usage, usage_of
from cw.store.format import Stored


class Result:
    """One result of a store, of the n-th call with its key."""

    __slots__ = ("_stored",)

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    @property
    def key(self) -> str:
        """Key of the call, in hexadecimal digits."""
        return self._stored.key.hex()

    @property
    def jobid(self) -> int:
        """Number of the job in the run that computed it."""
        return self._stored.number

    @property
    def function(self) -> str:
        """Name of the function."""
        return self._stored.function

    @property
    def failed(self) -> bool:
        """True if the call raised."""
        return self._stored.status != m.DONE

    @property
    def when(self) -> datetime.datetime:
        """Time at which the result was stored."""
        return datetime.datetime.fromtimestamp(self._stored.when, datetime.timezone.utc).astimezone()

    @property
    def seconds(self) -> float:
        """Time that the call ran (seconds)."""
        return self._stored.seconds

    @property
    def host(self) -> str:
        """Host on which it ran; '' if unknown."""
        return self._stored.host

    @property
    def usage(self) -> Usage | None:
        """What the call has used: CPU seconds, and memory at its peak. None: that was not measured, as for calls
        of less than 10 ms."""
        return usage_of(self._stored.payload)

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments. Raises LookupError if they were too large to be stored."""
        return self._call()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments. Raises LookupError as `args` does."""
        return self._call()[1]

    @property
    def stdout(self) -> str | None:
        """What the call printed on stdout, up to 64 KiB with stderr; None if it was not kept. It is of calls with
        output="keep", and of those that failed."""
        return None if self._stored.output is None else self._stored.output[0].decode(errors="replace")

    @property
    def stderr(self) -> str | None:
        """What the call printed on stderr, as `stdout`."""
        return None if self._stored.output is None else self._stored.output[1].decode(errors="replace")

    @property
    def value(self) -> Any:
        """Value that the call returned. Raises what the call raised."""
        classes.definitions.update(self._stored.definitions)
        if self.failed:
            raise self._error()
        return serialize.load_result(self._stored.payload)

    @property
    def error(self) -> BaseException | None:
        """Exception that the call raised, or None."""
        if not self.failed:
            return None
        classes.definitions.update(self._stored.definitions)
        return self._error()

    def _error(self) -> BaseException:
        error = serialize.load_error(self._stored.payload, f"job {self.jobid}, {self.function}()")
        last_words.add_to(error, self.stdout or "", self.stderr or "")
        return error

    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._stored.args is None:
            raise LookupError("the arguments of this call were too large to be stored")
        classes.definitions.update(self._stored.definitions)
        return serialize.load_call(self._stored.args)

    def __repr__(self) -> str:
        state = "failed" if self.failed else "done"
        when = f"{self.when:%Y-%m-%d %H:%M:%S}"
        return f"<{self.function}() {state} in {self.seconds:.3g} s on {self.host or '?'}, {when}>"
