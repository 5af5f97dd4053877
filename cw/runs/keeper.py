"""`python -m cw.runs.keeper`: sees to it that runs have a steward, as long as a cluster lasts. Users do not start it.

cluster NAME    beside the master of a cluster in a batch system: for all runs of this cluster whose folders are seen
                there; it ends when its standard input does
run FOLDER      beside the own cluster of a program that has left: for this run. Both end with the run

One keeper at a time looks after a cluster: it has a lease, as a steward has one of its run.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from cw import program
from cw.errors import Error
from cw.events import EventLogger
from cw.launch.launcher import LaunchError
from cw.mp import LocalCluster
from cw.runs import keeping, lease, names, own, starting
from cw.runs.folder import RunFolder
from cw.runs.keeping import Watch

logger = EventLogger("cw.runs")

CLUSTER_SECONDS, RUN_SECONDS = 2.0, 0.5
"""Time between looks for all runs of a cluster, and for the one run of an own cluster (seconds). Longer: a program that
hands over waits. Shorter: more reads of a network file system."""


class Keeper:
    """Starts stewards for those of the runs that need one."""

    def __init__(self) -> None:
        self._watches: dict[str, Watch] = {}

    def look(self, folder: RunFolder) -> bool:
        """Look at one run. False: it is over, or gone."""
        try:
            state = folder.state()
            if state.is_over or not folder.exists():
                self._watches.pop(folder.path, None)
                return False
            watch, now = self._watches.setdefault(folder.path, Watch()), time.monotonic()
            is_held = keeping.is_held(folder, watch.is_silent(state, now))
            if watch.needs_steward(state, keeping.WORD in folder.requests(), is_held, now):
                logger.info("runs.steward_started", "the run in %s gets a steward", folder.path)
                starting.start_steward_here(folder)
        except (Error, OSError) as error:
            logger.warning(
                "runs.keeping_failed", "the run in %s cannot be looked after: %s", folder.path, error
            )
        return True


def keep_cluster(name: str, wait: Callable[[float], bool]) -> None:
    """Look after all runs of a cluster until `wait(seconds)` says that it is over."""
    place, keeper = keeping.folder_of_cluster(name), Keeper()
    own_lease = lease.Lease(place)
    while not wait(CLUSTER_SECONDS):
        try:
            if not (own_lease.beat() if own_lease.number else _take(own_lease, place)):
                own_lease.number = 0
                continue
            for path in names.folders().values():
                folder = RunFolder(path)
                if folder.exists() and _is_of(folder, name):
                    keeper.look(folder)
        except (Error, OSError) as error:
            logger.warning("runs.looking_failed", "runs cannot be looked after now: %s", error)
    own_lease.release()


def _take(own_lease: lease.Lease, place: RunFolder) -> bool:
    os.makedirs(place.path, 0o700, exist_ok=True)
    return own_lease.acquire()


def _is_of(folder: RunFolder, name: str) -> bool:
    """True if a run uses this cluster."""
    try:
        description = folder.description()
    except Error:  # its owner is told, and whoever looks at it
        return False
    return description.cluster == name and not description.master and not description.own_cluster


def keep_run(folder: RunFolder, cluster: LocalCluster | None) -> None:
    """Look after a run and its own cluster until the run is over. `cluster`: as its program has left it."""
    place, keeper = keeping.folder_of_run(folder), Keeper()
    own_lease = lease.Lease(place)
    if not _take(own_lease, place):
        return  # another one was faster
    while own_lease.beat() and not (folder.state().is_over or not folder.exists()):
        if cluster is None or not cluster.is_alive():
            cluster = _replace(folder, cluster)
        if cluster is not None:
            keeper.look(folder)
        time.sleep(RUN_SECONDS)
    own_lease.release()


def _replace(folder: RunFolder, cluster: LocalCluster | None) -> LocalCluster | None:
    """Start the master of a cluster again, or another cluster. None: neither is possible now."""
    try:
        if cluster is not None:
            try:
                cluster.renew_master()
                return cluster
            except LaunchError:
                cluster.stop()
        return own.start(folder)
    except LaunchError as error:
        logger.error("runs.cluster_failed", "the run's cluster cannot be started again: %s", error)
        return None


def main() -> int:
    """Run the program. Returns its exit status."""
    parser = program.argument_parser("cw.runs.keeper", "Looks after runs. cw starts it.")
    parser.add_argument("verb", choices=["cluster", "run"])
    parser.add_argument("what")
    parser.add_argument("--cluster", metavar="JSON", default="")
    program.add_launcher_options(parser, "--lifeline-fd")
    options = parser.parse_args()
    program.set_up_logging(options.verbose)
    if options.verb == "cluster":
        keep_cluster(options.what, lambda seconds: bool(select.select([0], [], [], seconds)[0]))
        return 0
    handed = own.take_over(options.cluster, options.lifeline_fd) if options.cluster else None
    keep_run(RunFolder(options.what), handed)
    if handed is not None:
        handed.forget()  # it ends with this process, but not before the program that has handed it on
    return 0


if __name__ == "__main__":
    program.run("cw.runs.keeper", main)
