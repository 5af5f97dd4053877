"""A cluster as a notebook shows it: what its launcher knows, and what its master answers."""

from __future__ import annotations

from cw import html, program
from cw.launch import status_client
from cw.net import address

ANSWER_SECONDS = 0.5
"""Time for the master to answer (seconds). Longer: a cell hangs if the master does. Shorter: a busy one is not seen."""


def of_cluster(kind: str, master: str, slots: int, is_stopped: bool) -> str:
    """Return a small table."""
    fields: dict[str, object] = {"master": master, "slots": slots}
    if is_stopped:
        return html.fields(kind, fields | {"state": "stopped"})
    host, port = address.parse(master)
    candidate = address.Candidate(host, port or address.PORT, "started")
    status = status_client.ask([candidate], seconds=ANSWER_SECONDS)
    if status is None:
        return html.fields(kind, fields | {"state": "its master does not answer"})
    fields["slots"] = f"{status.slots} of {slots}, of {program.count(len(status.workers), 'worker')}"
    fields["jobs"] = f"{status.running} running, {status.waiting} waiting"
    fields["clients"] = status.clients
    return html.fields(kind, fields)
