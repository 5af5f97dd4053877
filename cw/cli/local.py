"""`cw local`: a cluster on this machine, in the foreground. Ctrl-C or the end of the terminal ends it."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import Any

from cw import mp, program
from cw.cli import status
from cw.cpus import usable_cpus
from cw.errors import StartRefused
from cw.launch.launcher import Cluster
from cw.launch.options import ClusterOptions
from cw.net import address

LOOK_SECONDS = 0.5
"""Time between checks that the cluster still exists (seconds). Longer: its end is noticed later. Shorter: it costs
more."""


def main() -> int:
    """Run `cw local`; returns the exit status."""
    options = _parse_arguments()
    program.set_up_logging(options.verbose)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    port = _free_port() if options.port is None else options.port
    wanted = ClusterOptions(options.slots, master_options=["--port", str(port)], verbose=options.verbose)
    try:
        with mp.hold(wanted) as cluster:
            _print_where(cluster)
            return _wait_for_end(cluster)
    except ValueError as error:
        raise program.UsageError(str(error)) from None
    except StartRefused as error:
        raise program.UserError(str(error)) from None


def _parse_arguments() -> Any:
    parser = program.argument_parser(
        "cw local",
        "Starts a cluster on this machine, and ends it at Ctrl-C. Unfinished jobs are lost with it.",
    )
    parser.add_argument(
        "-n",
        "--slots",
        type=int,
        metavar="N",
        default=usable_cpus(),
        help="number of slots (default: one for each usable CPU, here %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=program.converted_by(address.check_port),
        help=f"port of the master (default: {address.PORT}, or a free one if that is taken)",
    )
    return parser.parse_args()


def _free_port() -> int:
    """Return the port at which programs look by default; 0 (any) if it is taken."""
    try:
        socket.create_server(("127.0.0.1", address.PORT)).close()
    except OSError:
        return 0
    return address.PORT


def _print_where(cluster: Cluster) -> None:
    print(f"{program.count(cluster.slots, 'slot')} on this machine, until Ctrl-C; logs in {cluster.logs}")
    found = status.look().status
    if found is not None and found.where.rpartition(":")[2] == cluster.master.rpartition(":")[2]:
        print(
            "programs on this machine find the cluster, unless CW_MASTER or host= names another", flush=True
        )
    else:
        print(f"for your programs to find the cluster, set:\nexport CW_MASTER={cluster.master}", flush=True)


def _wait_for_end(cluster: Cluster) -> int:
    """Wait until Ctrl-C (0), or until the cluster ends by itself or is stopped from elsewhere (1)."""
    try:
        while True:
            time.sleep(LOOK_SECONDS)
            found = mp.status()
            if found is None or found.master != cluster.master:
                raise program.UserError("the cluster was stopped")
            if found.ended and not (found.ended == ["worker"] and cluster.is_kept_up()):
                raise program.UserError(f"the {found.ended[0]} has ended: see its log in {cluster.logs}")
    except KeyboardInterrupt:
        print("\nended", flush=True)
        return 0
