"""An executor as a notebook shows it."""

from __future__ import annotations

from collections.abc import Callable

from cw import html
from cw.client.session.session import Session


def of_executor(session: Session, slots: Callable[[], int]) -> str:
    """Return a small table. `slots()` gives the number of the cluster's slots."""
    submitted, delivered, failed, running = session.jobs.counts()
    fields: dict[str, object] = {"master": session.exchange.link.where}
    if session.is_closed:
        fields["state"] = "shut down"
    else:
        fields["slots"] = slots()
    fields["jobs"] = f"{delivered} done, {running} running, {submitted - delivered - running} waiting"
    for name, number in (("failed", failed), ("from the store", session.delivery.stored)):
        if number:
            fields[name] = number
    return html.fields("ClusterExecutor", fields)
