"""`cw.status`: the state of a cluster at this moment, and the search for the cluster that a program would find.

HOST, CW_MASTER, address file, launched clusters, this machine ---> candidates ---> Observer ---> Snapshot
"""

from __future__ import annotations

from collections.abc import Callable

from cw import advice, mp, slurm  # noqa: F401  (their masters are found, too)
from cw.errors import ConnectionError
from cw.net import address
from cw.observer.looking import Observer
from cw.observer.model import Snapshot
from cw.ssh import known  # noqa: F401  (the same)


def status(host: str | None = None) -> Snapshot:
    """Return the state of the cluster: what waits, runs and failed, its workers, and the time left.

    `host` is HOST or HOST:PORT of its master; None: the one that a client of this program would find. Takes some tenths
    of a second. Raises cw.ConnectionError if no master answers, ValueError for an address that is none.
    """
    found: list[Snapshot] = []

    def on_snapshot(snapshot: Snapshot) -> None:
        found.append(snapshot)
        observer.close()

    observer = observe(host, on_snapshot)
    observer.run()
    if not found:
        raise ConnectionError(why_not(observer))
    return found[0]


def observe(host: str | None, on_snapshot: Callable[[Snapshot], None]) -> Observer:
    """Return an observer of the cluster that a client of this program would find. Raises as `status` does."""
    candidates = address.find_master(host)
    if not candidates:
        raise ConnectionError(address.why_not_found())
    return Observer(candidates, on_snapshot)


def why_not(observer: Observer) -> str:
    """Return the sentence for an observer that saw nothing, with what to do."""
    if not observer.failures:
        return f"the master at {observer.where} shows nothing: {observer.reason}"
    tried = "; ".join(f"{where}: {error.strerror or error}" for where, error in observer.failures)
    return (
        f"no master answers ({tried}): start a cluster (`{advice.command('local')}`, "
        f"`{advice.command('slurm', 'start', '-n', '32')}`), or say where it is (host=, CW_MASTER)"
    )
