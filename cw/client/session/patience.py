"""Time limits of a client's search for its master: a deadline for the first; a lost one while jobs are outstanding.

No socket, no thread, no clock: `cw.net.master_link` asks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from cw import advice, credential
from cw.errors import ConnectionError
from cw.events import EventLogger
from cw.net import address
from cw.net import messages as m
from cw.net.master_link import SAYS_NOTHING, Failures, Loss, Terms
from cw.waits.sentences import SECONDS, in_words

logger = EventLogger("cw.client")

CONNECT_SECONDS = 5.0
"""Default of `connect_timeout`: time that `start` tries to reach a master (seconds)."""

RECONNECT_SECONDS = 300.0
"""Default of `reconnect_timeout`: time that a client looks for a lost master while jobs are outstanding (seconds)."""

DIAL_SECONDS = 5.0
"""Time limit of one attempt to connect to a lost master (seconds). Longer: a master that is elsewhere by then is found
late. Shorter: a slow network fails."""

TERMS = Terms(
    role="client",
    accepts=m.sent_on(m.Leg.MASTER_CLIENT),
    backoff=(0.05, 1.0),
    soonest=0.5,
    goodbye="it has finished",
    goodbye_seconds=0.7,
)


class Patience:
    """The `cw.net.master_link.Patience` of one session. `is_needed()`: true if a lost master must be found."""

    def __init__(
        self, connect_timeout: float, reconnect_timeout: float, is_needed: Callable[[], bool]
    ) -> None:
        self.is_lost = False
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._is_needed = is_needed
        self._deadline = 0.0
        self._was_welcome = False
        self._is_reported = False  # the user was warned that the credential is missing, or another
        self._is_awaited = False  # the user knows that the first master is awaited

    def start_clock(self, now: float) -> None:
        """Start the connect timeout for the first master. For any thread, before `connect`."""
        self._deadline = now + self._connect_timeout

    def dial_seconds(self, now: float) -> float:
        left = max(0.1, self._deadline - now)
        return min(left, DIAL_SECONDS) if self.is_lost else left

    def answer_seconds(self, now: float) -> float:
        return DIAL_SECONDS if self.is_lost else max(0.1, min(DIAL_SECONDS, self._deadline - now))

    def on_welcome(self) -> None:
        self._was_welcome = True
        self.is_lost = False
        if self._is_awaited:
            self._is_awaited = False
            logger.warning("client.master_found", "a master answers")

    def on_lost(self, loss: Loss, now: float, pause: float) -> BaseException | None:
        where, reason, goodbye = loss
        if goodbye is not None:
            if not self._was_welcome:
                return ConnectionError(f"the master at {where} refused this client: {reason}")
            if goodbye.is_final:
                self._reconnect_timeout = 0.0
        if reason == SAYS_NOTHING and now >= self._deadline:
            return ConnectionError(f"the master at {where} accepts the connection but says nothing")
        is_over = self._reconnect_timeout <= 0 if self._was_welcome else now + pause > self._deadline
        lost = f"the connection to the master at {where} was lost{': ' * bool(reason)}{reason}"
        if is_over or not self._is_needed():
            return ConnectionError(lost)
        if self._was_welcome and not self.is_lost:
            self.is_lost = True
            self._deadline = now + self._reconnect_timeout
            logger.warning(
                "client.master_gone", "%s; the client looks for it for %.0f s", lost, self._reconnect_timeout
            )
        return None

    def on_not_found(
        self, failures: Failures, candidates: Sequence[address.Candidate], now: float, pause: float
    ) -> BaseException | None:
        fault = credential.fault_among(error for _, error in failures)
        if fault is not None and fault.may_pass and not self._is_reported:
            self._is_reported = True
            logger.warning(
                "client.credential_awaited",
                "%s; the client waits, since a network file system may show a file late",
                fault,
            )
        is_unknown = (
            bool(failures)
            and not self.is_lost
            and all(isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for _, e in failures)
        )
        is_hopeless = is_unknown or (fault is not None and not fault.may_pass)
        if is_hopeless or now + pause > self._deadline:
            return _no_master(failures, candidates)
        waited, left = self._connect_timeout - (self._deadline - now), self._deadline - now
        if not self._was_welcome and not self._is_awaited and waited >= SECONDS <= left:
            self._is_awaited = True
            logger.warning(
                "client.master_awaited",
                "%s; the client looks for it for %s (connect_timeout)",
                _no_master(failures, candidates),
                in_words(left),
            )
        return None


def _no_master(failures: Failures, candidates: Sequence[address.Candidate]) -> ConnectionError:
    fault = credential.fault_among(error for _, error in failures)
    if fault is not None:
        return ConnectionError(str(fault))
    if not failures:
        return ConnectionError(address.why_not_found())
    tried = [f"{address.join(*where)}: {error.strerror or 'no answer in time'}" for where, error in failures]
    # A variable that the shell has kept, or a file that a killed master left: else nobody knows where to look.
    sources = dict.fromkeys(candidate.source for candidate in candidates)
    tried += [source for source in sources if source not in (address.AS_GIVEN, address.NOTHING_KNOWN)]
    return ConnectionError(
        f"no cw master answers ({'; '.join(tried)}); start one with `{advice.module('master')}` (or a whole cluster: "
        "`with cw.allocate(4):`), or name its host"
    )
