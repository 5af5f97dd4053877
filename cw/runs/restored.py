"""A call that was read from the disk, in place of the one that the script has made: its result is recorded as it came.

    CallRecord --> RestoredCall --entries: payloads, unopened--> the store

Results name the script's classes by their identity: the definitions are in the store beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from cw.net import messages as m
from cw.payloads import unopened
from cw.payloads.layout import split_text
from cw.runs.calls import CallRecord
from cw.store.format import Entry


class RestoredCall:
    """The record of a job's call, or of the calls of its chunk. `store_client`: takes the entries."""

    __slots__ = ("calls", "failed", "is_chunk", "is_durable", "store_client")

    is_stored = is_found = is_under_way = False
    again = None

    def __init__(self, record: CallRecord, store_client: Any, is_durable: bool) -> None:
        self.calls = record.entries
        self.is_chunk = record.is_chunk
        self.store_client = store_client
        self.is_durable = is_durable
        self.failed = 0
        """Number of calls that have failed, when their entries are made."""

    def entries(self, number: int, status: int, seconds: float, host: str, payload: Any) -> Iterator[Entry]:
        """Yield the entries to store. Raises PayloadError."""
        self.failed = 0
        payload = split_text(payload)[1]
        if status == m.DONE and self.is_chunk:
            outcomes = unopened.outcomes_of(payload)
        else:
            outcomes = [(status, seconds, payload)] * len(self.calls)
        for call, (status_of_call, lasted, result) in zip(self.calls, outcomes, strict=True):
            self.failed += status_of_call != m.DONE
            yield Entry(
                call.key, number, call.name, host, status_of_call, time.time(), lasted, call.args, result,
                self.is_durable, call.classes, call.definitions,
            )  # fmt: skip
