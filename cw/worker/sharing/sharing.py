"""Shared values that a worker was promised, those that it fetches from other workers, and its port for these.

    Promise ---> AWAITED ---> Objects from the master, or Fetch ---> Fetching ---> Held: jobs that waited can start
                    ^                                                   |
                    '--- NotFetched: the master names another source ---'
    OpenPort ---> SharePort ---> PortOpened

All in here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cw.events import RateLimited
from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.objects import Key, Object, SessionObjects
from cw.net.schema import TEXT
from cw.worker.sharing.fetching import Fetching
from cw.worker.sharing.share_port import SharePort

_lines = RateLimited("cw.worker")


class Sharing:
    """The shared values of one worker on their way. `sessions` are the worker's; `send` sends to the master;
    `on_here()` is called when jobs may start for a value that is here now."""

    def __init__(
        self,
        loop: Loop,
        sessions: dict[int, SessionObjects],
        send: Callable[[tuple[Any, ...]], None],
        on_here: Callable[[], None],
        silence: float,
    ) -> None:
        self._loop = loop
        self._sessions = sessions
        self._send = send
        self._on_here = on_here
        self._awaited: dict[Key, Object] = {}
        self._fetching: dict[Key, Fetching] = {}
        self._port = SharePort(loop, self._find, silence)

    def on_promise(self, message: m.Promise) -> None:
        """Values of known sessions come later."""
        for session, number, size in zip(*message, strict=True):
            key = session, number
            item = self._sessions[session].promise(number, size, self._awaited.get(key))
            if item.is_awaited:
                self._awaited[key] = item
            else:
                self._send(m.Held(*key))

    def on_fetch(self, order: m.Fetch) -> None:
        key = order.session, order.number
        item = self._awaited.get(key)
        if item is None or key in self._fetching:
            return  # the master has sent it meanwhile, or closed the session

        def on_done(payload: Any, reason: str) -> None:
            del self._fetching[key]
            if payload is not None:
                self._on_value(key, payload)
                return
            _lines.warning("worker.not_fetched", "a shared value of %d bytes could not be fetched from another worker "
                           "(%s): the master is asked for it", item.shared_size, reason)  # fmt: skip
            self._send(m.NotFetched(*key, _line(reason)))

        self._fetching[key] = Fetching(self._loop, order, item.shared_size, on_done)

    def on_objects(self, session: int, number: int, payload: Any) -> bool:
        """A value has come from the master. Returns False if it was not awaited."""
        item = self._awaited.get((session, number))
        if item is None:
            return False
        self._sessions[session].put(item)
        self._on_value((session, number), payload)
        return True

    def _on_value(self, key: Key, payload: Any) -> None:
        item = self._awaited.pop(key)
        item.fill(payload)
        if key in self._fetching:
            self._fetching.pop(key).cancel()
        self._send(m.Held(*key))
        self._on_here()

    def on_open_port(self, message: m.OpenPort) -> None:
        if not message.is_open:
            self._port.close()
            return
        port = self._port.open()
        self._send(m.PortOpened(port, self._port.addresses() if port else []))

    def close_session(self, session: int) -> None:
        """Forget a session's values."""
        for key in [key for key in self._awaited if key[0] == session]:
            del self._awaited[key]
            if key in self._fetching:
                self._fetching.pop(key).cancel()

    def on_lost(self) -> None:
        """The master is lost: nobody knows any more who should get what."""
        self._port.close()
        for fetching in self._fetching.values():
            fetching.cancel()
        self._fetching.clear()

    def begin_anew(self) -> None:
        """Forget what the master before has promised: no job waits for it any more."""
        self._awaited.clear()

    def _find(self, session: int, number: int) -> Object | None:
        objects = self._sessions.get(session)
        item = None if objects is None else objects.by_number.get(number)
        return None if item is None or item.kind != m.SHARED or item.is_awaited else item


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:TEXT])
