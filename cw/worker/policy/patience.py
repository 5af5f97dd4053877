"""Patience of a worker that looks for its master: endless, but it gives up its jobs if a lost one does not return.

No socket, no thread, no clock: `cw.net.master_link` asks.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Sequence

from cw import credential, program
from cw.events import EventLogger
from cw.net import address, memory
from cw.net import messages as m
from cw.net.master_link import Failures, Loss, Terms

logger = EventLogger("cw.worker")

DIAL_SECONDS = 10.0
"""Time limit of one attempt to connect (seconds)."""

WRONG_SECONDS = 5.0
"""Time that a new credential may take to appear on a network file system (seconds). After that, a master with another
one is the user's mistake."""

STILL_WAITING = 30.0
"""Time between two log lines about a missing master (seconds)."""

TERMS = Terms(
    role="worker",
    accepts=m.sent_on(m.Leg.MASTER_WORKER),
    backoff=(0.1, 5.0),
    soonest=1.0,
    goodbye="it was asked to end",
    goodbye_seconds=1.0,
    allocate=memory.allocate,
)


class Patience:
    """The `cw.net.master_link.Patience` of a worker. `forsake()` is called when no master knows of the jobs here any
    more."""

    def __init__(
        self,
        silence: float,
        reconnect_timeout: float,
        forsake: Callable[[], None],
        without_master: float = math.inf,
    ) -> None:
        """`without_master`: time without a master after which the worker ends (seconds)."""
        self.is_lost = False
        self._silence = silence
        self._reconnect_timeout = reconnect_timeout
        self._forsake = forsake
        self._lost_at = 0.0
        self._logged_at = 0.0  # time of the last log line about a missing master; 0: none since we had one
        self._was_joined = False
        self._without_master = without_master
        self._missing_since = math.inf  # since when there is none
        self._wrong_since = 0.0  # since when all masters found have another credential

    def dial_seconds(self, now: float) -> float:
        return DIAL_SECONDS

    def answer_seconds(self, now: float) -> float:
        return self._silence

    def on_welcome(self) -> None:
        self._logged_at = 0.0
        self._missing_since = math.inf
        self.is_lost, self._was_joined = False, True

    def on_lost(self, loss: Loss, now: float, pause: float) -> BaseException | None:
        if loss.goodbye is not None and loss.goodbye.is_final:
            logger.info("worker.master_ended", "the master has ended: %s", loss.reason)
            self._forsake()
            return None
        self._logged_at = now  # the log line below is enough for a while
        if not self.is_lost:
            self.is_lost, self._lost_at = True, now
        logger.warning("worker.master_gone",
                       "the master is gone%s; the worker looks for it for %.0f s, and its jobs go on",
                       f" ({loss.reason})" if loss.reason else "", self._reconnect_timeout)  # fmt: skip
        return None

    def on_not_found(
        self, failures: Failures, candidates: Sequence[address.Candidate], now: float, pause: float
    ) -> BaseException | None:
        if self.is_lost and now - self._lost_at > self._reconnect_timeout:
            logger.warning(
                "worker.jobs_given_up",
                "the master did not come back within %.0f s: the worker gives its jobs up",
                self._reconnect_timeout,
            )
            self.is_lost = False
            self._forsake()
        self._missing_since = min(self._missing_since, now)
        if now - self._missing_since >= self._without_master:
            return program.UserError(f"no master was found for {self._without_master:g} s: the worker ends")
        is_unknown = bool(failures) and all(
            isinstance(e, socket.gaierror) and e.errno == socket.EAI_NONAME for _, e in failures
        )
        if is_unknown and not self._logged_at:
            return program.UserError(f"the host {failures[0][0][0]!r} is unknown: check its name")
        fault = self._hopeless_fault(failures, candidates, now)
        if fault is not None:
            return program.UserError(str(fault))
        if not self._logged_at or now - self._logged_at > STILL_WAITING:
            self._logged_at = now
            tried = "; ".join(
                f"{c} {e.strerror or e}" for c, (_, e) in zip(candidates, failures, strict=False)
            )
            logger.warning(
                "worker.no_master",
                "no master is found yet, the worker tries on: %s",
                tried or address.why_not_found(),
            )
        return None

    def _hopeless_fault(
        self, failures: Failures, candidates: Sequence[address.Candidate], now: float
    ) -> credential.CredentialError | None:
        """Find a mistake with the credential that waiting does not mend. The worker then ends with a message.

        A worker that has joined a master before waits: the fault may disappear.
        """
        fault = credential.fault_among(error for _, error in failures)
        if not isinstance(fault, credential.WrongCredential):
            self._wrong_since = now
        # Without a named master, another user's may be there.
        is_named = bool(candidates) and candidates[0].source != address.NOTHING_KNOWN
        if fault is None or self._was_joined:
            return None
        if fault.may_pass and not (is_named and now - self._wrong_since >= WRONG_SECONDS):
            return None
        return fault
