"""Whether a client without a host makes a cluster of its own: one pure decision on facts that are collected here.

    CW_MASTER, CW_CLUSTER, a cluster that this process is part of --.
    address file, notes of launchers in ~/.cw ---------------------|--> USE: look for its master, as workers do
    a master of this user at the usual port -----------------------'
    otherwise, signs of a batch system on this machine ---------------> REFUSE: say how to start one
    otherwise --------------------------------------------------------> MAKE (cw.own_cluster)

The first true fact decides, and the later ones are not looked for: the port costs most.
"""

from __future__ import annotations

import enum
import glob
import os
import socket
import threading

from cw import guard, userdir
from cw.launch import batch_signs, local_state
from cw.named_tuple import NamedTuple
from cw.net import address

ANSWER_SECONDS = 0.2
"""Time for a master at the usual port to answer (seconds). Longer: a port that another program holds delays every
program without a cluster. Shorter: a tunnel to a master far away is passed over."""


class Facts(NamedTuple):
    """What is known on this machine; the defaults are those of a laptop."""

    is_named: bool = False
    """The environment names a cluster, or this process is part of one."""
    is_noted: bool = False
    """There is an address file, or a launcher's note of a cluster."""
    answers: bool = False
    """A master of this user answers at the usual port."""
    batch_sign: str = ""
    """What shows that a batch system serves this machine: 'sbatch is on the PATH'."""


LAPTOP = Facts()


class Decision(enum.Enum):
    USE = "use"
    REFUSE = "refuse"
    MAKE = "make"


def decide(facts: Facts) -> Decision:
    """Decide for a client that names no host."""
    if facts.is_named or facts.is_noted or facts.answers:
        return Decision.USE  # if it does not answer, that is an error: nobody may compute elsewhere unnoticed
    return Decision.REFUSE if facts.batch_sign else Decision.MAKE


def collect() -> Facts:
    """Collect the facts. Raises AddressError, HomeError."""
    # (A process in a job always uses the cluster that it is in.)
    if address.names_one() or guard.depth():
        return Facts(is_named=True)
    if is_noted():
        return Facts(is_noted=True)
    return Facts(answers=_answers_at_usual_port(), batch_sign=batch_signs.find())


def is_noted() -> bool:
    """True if there is an address file of the user's cluster, or a launcher's note of it."""
    name = address.cluster_name()
    in_batch_system = os.path.join(glob.escape(userdir.home_directory()), f"*-{name}", "state.json")
    return bool(
        os.path.exists(address.address_file(name)) or glob.glob(in_batch_system) or local_state.noted_master()
    )


def _answers_at_usual_port() -> bool:
    """True if a master with this user's credential answers there; another user's does not count."""
    try:
        socket.create_connection(("127.0.0.1", address.PORT), ANSWER_SECONDS).close()
    except OSError:
        return False
    from cw.launch import status_client  # takes 15 ms, and mostly nobody listens there

    found: list[object] = []

    def look() -> None:
        candidate = address.Candidate("127.0.0.1", address.PORT, address.NOTHING_KNOWN)
        found.append(status_client.ask([candidate], seconds=ANSWER_SECONDS))

    # In a thread of its own: callbacks make clients, too, and run in another loop.
    looking = threading.Thread(target=look, name="cw-look", daemon=True)
    looking.start()
    looking.join(ANSWER_SECONDS)
    return any(found)
