"""The zygote: the process from which those of a local cluster are forked, so that Python starts and imports but once.

    launcher --exec--> zygote: imports what master and runners share
                         |--fork--> master
                       imports what worker and runners share
                         |--fork--> forkserver: imports the rest of what runners need --fork--> runners
                         '--------> becomes the worker, the forkserver's parent

In the cluster of one program it becomes both, worker and master (cw.launch.one_process), and forks no master.

Each part is forked before anything is imported that it would not have by itself: runners see no module of the master or
the worker. There is one thread. The user's own process is never forked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable

from cw.named_tuple import NamedTuple


class MasterPart(NamedTuple):
    """The master, as the zygote starts it."""

    arguments: list[str]
    descriptors: list[int]
    """What the arguments name."""
    log: int
    """Descriptor for its output."""
    pid: int
    """Descriptor to which it writes its pid."""


class BothPart(NamedTuple):
    """The master, as it comes into the worker's process."""

    listeners: list[int]
    """Descriptors of its listening sockets."""
    log: int
    """Descriptor for its lines of the log."""
    records: str
    """File of what outlives the process."""


class Parts(NamedTuple):
    """What a zygote starts."""

    arguments: list[str]
    """Of the worker."""
    descriptors: list[int]
    """What the worker's arguments name."""
    master: MasterPart | None = None
    """A master in a process of its own."""
    both: BothPart | None = None
    """A master in the worker's process."""

    def to_text(self) -> str:
        """Return it as an argument of `main`."""
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str) -> Parts:
        arguments, descriptors, master, both = json.loads(text)
        return cls(arguments, descriptors, master and MasterPart(*master), both and BothPart(*both))


def main() -> None:
    """Run as the zygote: `sys.argv[1]` has the parts. It does not look for garbage, of which imports leave none; each
    part does that from its `program.collect_from_now_on` on."""
    parts = Parts.from_text(sys.argv[1])
    own = {*parts.descriptors}
    if parts.both is not None:
        own |= {*parts.both.listeners, parts.both.log}
    if parts.master is not None:
        from cw.net import connection, objects  # noqa: F401

        _fork_master(parts.master, own)
        _close({*parts.master.descriptors, parts.master.log, parts.master.pid} - own)
    from cw.worker.runners import early

    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # until the worker has its handler
    early.fork(own)
    try:
        _become("cw.worker", parts.arguments)
        from cw import program

        program.run("cw.worker", _main_of(parts))
    finally:
        early.end()


def _main_of(parts: Parts) -> Callable[[], int]:
    """Return what the zygote becomes."""
    if (both := parts.both) is None:
        from cw.worker import cli

        return cli.main
    from cw.launch import one_process

    return lambda: one_process.main(*both)


def _fork_master(part: MasterPart, others: set[int]) -> None:
    """Fork the master, whose parent is not this process: the worker kills its children when it ends."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    if os.fork():
        os._exit(0)
    os.setsid()
    os.write(part.pid, b"%d\n" % os.getpid())
    os.dup2(part.log, 1)
    os.dup2(part.log, 2)
    _close({*others, part.log, part.pid} - {*part.descriptors})
    _become("cw.master", part.arguments)
    from cw import program
    from cw.master import cli

    program.run("cw.master", cli.main)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _become(name: str, arguments: list[str]) -> None:
    """Take the arguments of `python -m NAME`, also as other programs see them."""
    from cw import processes

    sys.argv[:] = [name, *arguments]
    processes.show_as([sys.executable, "-m", *sys.argv])
