"""Master and worker in one process, for the cluster of one program: a job goes through one process fewer on each way.

    clients <== sockets ==> Master <== in_process ==> Worker <==> runners
                                '--- one Loop ---'

Other workers may join, and observers see a master and a worker as in any cluster. The process has the worker's name and
options. The master leaves when the worker has left, unless that was only asked to drain. If the process dies, its
launcher starts the next one, which listens at the same address; `Records` has what that one must know.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from cw import credential, program
from cw.master.master import Master
from cw.master.records import Records
from cw.net import in_process
from cw.net.acceptor import Acceptor
from cw.net.loop import Loop
from cw.worker import cli
from cw.worker.worker import Worker

OF_MASTER = ("cw.master", "cw.acceptor")
"""Loggers whose lines go to the master's log; all others' go to the worker's."""


def main(listeners: Sequence[int], log: int, records: str) -> int:
    """Run both; `sys.argv` has the worker's options. Returns the exit status. `listeners`: descriptors of the master's
    listening sockets; `log`: that of its log; `records`: file of its `Records`."""
    return cli.main(lambda loop, worker: _add_master(loop, worker, listeners, log, records))


def _add_master(loop: Loop, worker: Worker, listeners: Sequence[int], log: int, records: str) -> None:
    os.set_inheritable(log, False)
    for name in OF_MASTER:
        program.log_to(log, name)
    kept = Records.of(records)
    master = Master(loop, is_final=True, records=kept)
    acceptor = Acceptor(loop, credential.load_or_make(), master.on_admitted)
    for descriptor in listeners:
        listener = socket.socket(fileno=descriptor)
        listener.set_inheritable(False)
        acceptor.listen(listener)
        if listener.family == socket.AF_INET:
            in_process.masters[listener.getsockname()] = master.on_admitted
    # It has the ident of the one before, so that clients which come back wait for no other.
    worker.ident = kept.worker or worker.ident
    kept.note_worker(worker.ident, os.getpid())
    worker.leaving.on_left = lambda: master.leave() if worker.leaving.ends_process else None
