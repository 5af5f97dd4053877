"""Messages of observers, and what clients tell for them. Part of `cw.net.messages`."""

from typing import Annotated, Any

from cw.named_tuple import NamedTuple
from cw.net.schema import Bound, Leg, Line, Payloads, TimeLeft, U32s, batch, is_text, record

LISTED = 100
"""Most functions that a Backlog names."""

MOST_KINDS = 100
"""Most kinds of workers that a tender names."""


def _are_counts(values: dict[str, Any]) -> bool:
    return len(values) <= LISTED and all(
        is_text(name) and type(count) is int and 0 <= count < 2**63 for name, count in values.items()
    )


Counts = Annotated[dict[str, Any], Bound(_are_counts, f"at most {LISTED} names with numbers")]
Kinds = Annotated[list[Any], Bound(lambda kinds: len(kinds) <= MOST_KINDS, f"at most {MOST_KINDS} kinds")]

# --- a client, for observers ------------------------------------------------------------------


@record(140, Leg.CLIENT_MASTER, is_ordered=True)
class FunctionName(NamedTuple):
    """Name of a function, an object that was sent. Sent once for its code: functions of the same code have it, too."""

    number: int
    name: Line


@record(141, Leg.CLIENT_MASTER)
class JobFailed(NamedTuple):
    """First and last line of the error of a job that failed. Only the latest are sent, if many fail."""

    number: int  # within the session
    first: Line
    last: Line  # '' if there is only one


@record(142, Leg.MASTER_CLIENT)
class Watched(NamedTuple):
    """Somebody looks at the cluster, or nobody any more: send Backlog every second, or no more."""

    is_watched: bool


@record(143, Leg.CLIENT_MASTER)
class Backlog(NamedTuple):
    """The jobs that wait at the client, by function (estimated if they are many). Replaces the one before."""

    counts: Counts  # by the function's name


# --- observers --------------------------------------------------------------------------------


@record(144, Leg.OBSERVER_MASTER)
class WantStatus(NamedTuple):
    """Answered by a StatusReport."""


@record(145, Leg.OBSERVER_MASTER)
class Look(NamedTuple):
    """The observer looks: a Snapshot comes soon, and then one every second until it leaves."""


@batch(146, Leg.MASTER_OBSERVER)
class SnapshotReport(NamedTuple):
    """The state of the cluster."""

    numbers: U32s  # of this snapshot
    payloads: Payloads  # JSON: a cw.observer.model.Snapshot


@record(147, Leg.OBSERVER_MASTER)
class StopJob(NamedTuple):
    """This job must end, and fails at its client."""

    session: int
    number: int  # within the session
    by: Line  # who wants it, for the error


# --- the tender of a cluster ------------------------------------------------------------------


@record(148, Leg.OBSERVER_MASTER)
class WantDemand(NamedTuple):
    """Answered by a DemandReport."""


@record(149, Leg.MASTER_OBSERVER)
class DemandReport(NamedTuple):
    """What jobs ask of the cluster, and the workers that it has. `cw.observer.demand` defines its content."""

    state: dict[str, Any]


@record(150, Leg.OBSERVER_MASTER)
class WorkersToCome(NamedTuple):
    """The kinds of workers that a tender could still start. Replaces the one before."""

    kinds: Kinds  # each a cw.observer.demand.PossibleWorker
    seconds: TimeLeft  # for which it can be relied on
    notice: Line  # why jobs that only these can run wait, if there is more to say than that; ''
    problem: Line  # what goes wrong with the cluster's jobs, and is tried again, in words; ''
