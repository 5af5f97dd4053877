"""Output of jobs as it comes from the master, on its way to the session's sink. All in here runs in its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cw.net import messages as m
from cw.output.sink import Sink


class Incoming:
    """Takes the messages about what jobs print. `sink` gets what is in them, and may be replaced."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._host = ""  # of the JobOutput that comes
        self.handlers: dict[type, Callable[[Any], None]] = {
            m.OutputHost: self._on_host,
            m.JobOutput: self._on_output,
            m.JobKept: self._on_kept,
        }

    def _on_host(self, message: m.OutputHost) -> None:
        self._host = message.host

    def _on_output(self, message: m.JobOutput) -> None:
        for number, stream, lines, size, payload in zip(*message, strict=True):
            if size:
                self.sink.on_left_out(number, stream, lines, size)
            if payload:
                self.sink.on_output(number, stream, bytes(payload), self._host)

    def _on_kept(self, message: m.JobKept) -> None:
        for number, size, cut, payload in zip(*message, strict=True):
            kept = bytes(payload)
            self.sink.on_kept(number, kept[:size], kept[size:], bool(cut))
