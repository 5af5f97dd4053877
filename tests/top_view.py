"""A `cw top` of a cluster that is not there, for tests: its snapshots are the sample's, a second older each time.

Run as a program (`top_view.py [--read-only] FILE`), it writes its orders into the file.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

from snapshots import sample

from cw.top.app import TopApp


class SampleSource:
    """The snapshots of a list, then the last one again and again if `every` is a number of seconds."""

    def __init__(self, takes_orders=True, every=None, on_order=lambda order: None):
        self.takes_orders = takes_orders
        self.orders = []
        self._every = every
        self._on_order = on_order
        self._end = threading.Event()

    def start(self, on_update):
        self.on_update = on_update
        on_update(sample())
        if self._every:
            threading.Thread(target=self._repeat, daemon=True).start()

    def _repeat(self):
        snapshot = sample()
        while not self._end.wait(self._every):
            snapshot = replace(snapshot, at=snapshot.at + 1)
            self.on_update(snapshot)

    def close(self):
        self._end.set()

    def stop_job(self, session, number):
        self._order("stop", session, number)

    def drain(self, worker):
        self._order("drain", worker)

    def _order(self, *order):
        if not self.takes_orders:
            raise PermissionError("read-only")
        self.orders.append(order)
        self._on_order(order)


if __name__ == "__main__":
    orders = Path(sys.argv[-1])
    source = SampleSource("--read-only" not in sys.argv, 1.0, lambda order: orders.write_text(repr(order)))
    TopApp(source).run()
