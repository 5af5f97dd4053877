"""The cluster that cw makes for a program that knows of none: on this machine, for the life of the program.

    ClusterExecutor(), cw.map(), cw.Pool() ---> cluster_for --known.decide--> USE: None; the client looks for its master
                                                     '--> MAKE: the client's master is that of an own cluster

A client whose size is given gets a cluster of just that size, as a pool has its processes; all others of the program
share one, which its children find, too, by an inherited variable (`address.bind_program`). When another is started,
those that no client uses any more end.
"""

from __future__ import annotations

import operator
import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from cw import guard, program
from cw.cpus import usable_cpus
from cw.errors import ConnectionError
from cw.events import EventLogger
from cw.launch import batch_signs, known
from cw.launch.known import Decision
from cw.net import address

if TYPE_CHECKING:
    from cw.mp import LocalCluster

logger = EventLogger("cw.own")


class User(Protocol):
    """A client's session, as it is needed here."""

    is_closed: bool

    def is_alive(self) -> bool:
        """True if its thread is running."""


# All are changed under the lock, which users' threads hold while a cluster starts.
_clusters: list[LocalCluster] = []
# The one of these that clients without a size, and the program's children, use.
_shared: LocalCluster | None = None
_users: weakref.WeakKeyDictionary[User, LocalCluster] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # reentrant: a signal's handler may make a client


def cluster_for(
    user: User | None, local: bool | int | None, size: int | None, is_patient: bool
) -> LocalCluster | None:
    """Return the own cluster for a client that names no host; None: it looks for its master.

    `local`: as for ClusterExecutor. `size`: the number of slots, if `local` gives none; None: one for each usable CPU.
    `is_patient`: the client waits for a master for a time that the user has chosen. `user`: None if it is not there
    yet; until it is, the cluster ends when another one is started.

    Raises ConnectionError if there is no cluster and none may be made, and LaunchError, StartRefused, TypeError,
    ValueError.
    """
    is_asked, size = _check(local, size)
    with _lock:
        _drop_dead()
        if is_asked:
            guard.check_start(f"a cluster of its own (local={local})")
            return _get(user, size, is_told=True)
        facts = known.LAPTOP if _is_shared_in_use() else known.collect()
        decision = known.decide(facts)
        if decision is Decision.MAKE:
            found = _get(user, size)
            if _shared is None or (size is None and found is not _shared):
                _share(found)
            return found
        if decision is Decision.REFUSE and _clusters:
            return _use(user, _clusters[-1])  # it was asked for; here no other is made
        if decision is Decision.REFUSE and not is_patient:
            raise ConnectionError(batch_signs.refusal(facts.batch_sign))
        return None


def slots_for(user: User) -> int:
    """Return the number of slots of the own cluster that this client uses; 0: it uses another cluster."""
    cluster = _users.get(user)
    return 0 if cluster is None else cluster.slots


def _check(local: bool | int | None, size: int | None) -> tuple[bool, int | None]:
    """Return (whether a cluster of its own is asked for, the number of its slots if that is given)."""
    if local is None or isinstance(local, bool):
        return bool(local), size
    try:
        slots = operator.index(local)
    except TypeError:
        raise TypeError(f"local must be True, False or a number of slots, not {local!r}") from None
    if slots < 1:
        raise ValueError(f"local is the number of slots, from 1 on (or False), not {slots}")
    return True, slots


def _is_shared_in_use() -> bool:
    """True if clients of this program use the shared one by default."""
    is_innermost = _shared is not None and address.started_here() == _shared.master
    return is_innermost and not os.environ.get("CW_MASTER")


def _get(user: User | None, size: int | None, is_told: bool = False) -> LocalCluster:
    """Return a cluster of this size, or the shared one; it is started if there is none. `is_told`: no line says so."""
    slots = usable_cpus() if size is None else size
    found = _shared if size is None and _shared is not None and _shared.slots >= slots else None
    found = found or next((cluster for cluster in _clusters if cluster.slots == slots), None)
    return _use(user, found or _start(slots, is_told))


def _use(user: User | None, cluster: LocalCluster) -> LocalCluster:
    if user is not None:
        _users[user] = cluster
    return cluster


def _start(slots: int, is_told: bool) -> LocalCluster:
    from cw import mp  # takes 10 ms, which a program with a cluster saves

    _end_unused()
    started = mp.start_own(slots)
    count = program.count(slots, "slot")
    if is_told or _clusters:
        logger.info("own.another_started", "started a cluster of this program's own, with %s", count)
    else:
        logger.warning(
            "own.started",
            "no cluster is known: this program has started its own on this machine, with %s (local=False forbids that; "
            "its logs: %s)",
            count,
            started.logs,
        )
    _clusters.append(started)
    return started


def _share(cluster: LocalCluster) -> None:
    global _shared
    _shared = cluster
    address.bind_program(cluster.master)


def _drop_dead() -> None:
    """Forget clusters whose master has ended. (Clients whose jobs it had keep looking for it.)"""
    for cluster in list(_clusters):
        if not cluster.is_alive():
            _end(cluster)


def _end_unused() -> None:
    # (One that has not begun is neither closed nor alive.)
    users = [user for user in list(_users) if not user.is_closed or user.is_alive()]
    in_use = {id(_users[user]) for user in users}
    for cluster in list(_clusters):
        if cluster is not _shared and id(cluster) not in in_use:
            _end(cluster)


def _end(cluster: LocalCluster) -> None:
    global _shared
    _clusters.remove(cluster)
    if cluster is _shared:
        _shared = None
    cluster.stop()


def _after_fork_in_child() -> None:
    """Use the parent's shared one as long as the parent lives, as other children do."""
    global _shared, _lock
    if _shared is not None:
        address.unbind_process(_shared.master)
    _clusters.clear()
    _users.clear()
    _shared, _lock = None, threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
