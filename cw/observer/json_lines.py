"""A snapshot as JSON lines, as `cw status --json` prints it: one object a line, whose `kind` says which.

master, totals, client, function, shape, worker, host, running, failure, loss
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from cw.observer.model import Snapshot, to_dict

_LISTS = {
    "client": "clients", "function": "functions", "shape": "shapes", "worker": "workers", "host": "hosts",
    "running": "running", "failure": "failures", "loss": "losses",
}  # fmt: skip


def lines(snapshot: Snapshot) -> Iterator[str]:
    """Yield the lines. Each object has `kind`, `time` (seconds since 1970), and the fields of its class in
    `cw.observer.model`; that of the master also `where`, its address."""
    state = to_dict(snapshot)
    rows = [("master", {"where": snapshot.where, **state["master"]}), ("totals", state["totals"])]
    rows += [(kind, value) for kind, name in _LISTS.items() for value in state[name]]
    for kind, value in rows:
        yield json.dumps({"kind": kind, "time": snapshot.at, **value})
