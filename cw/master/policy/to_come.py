"""Workers that a cluster's tender could still start, as it has said. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cw.net import messages as m

if TYPE_CHECKING:
    from cw.observer.demand import PossibleWorker


@dataclass(frozen=True)
class ToCome:
    """What the tender has said last. By default: there is none, and no worker can be expected."""

    kinds: tuple[PossibleWorker, ...] = ()
    notice: str = ""
    """Why jobs that only these can run wait, a sentence without a full stop; ''."""
    problem: str = ""
    """What goes wrong with the cluster and is tried again; ''."""
    until: float = 0.0
    """When it is of no worth any more, as the tender may have ended."""

    @classmethod
    def of(cls, message: m.WorkersToCome, now: float) -> ToCome:
        """What this message says. Raises ProtocolError."""
        from cw.observer.demand import PossibleWorker  # loaded when there is a tender

        kinds = tuple(map(PossibleWorker.from_wire, message.kinds))
        return cls(kinds, message.notice, message.problem, now + message.seconds)

    def at(self, now: float) -> ToCome:
        """Return what is still true."""
        return self if now < self.until else NOTHING


NOTHING = ToCome()
