"""Classes of the original library below its ClientThread: for programs that drive a client in bluelet's loop.

    Client            coroutines of bluelet: `handle_results(callback)`, `send_job(jobid, function, ...)`
    BaseClientThread  the same in a thread: `start()`, `start_job(jobid, function, ...)`, `stop()`

Their callbacks get (jobid, True, result) or (jobid, False, text of the traceback). New programs use `ClientThread`.
"""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Callable, Generator
from typing import Any

import bluelet  # type: ignore[import-untyped,unused-ignore]

from cw.client.futures.remote import traceback_of
from cw.client.thread import ClientThread

OnResult = Callable[[Any, bool, Any], object]
"""Type of the callback with a job's id, whether it returned, and its result or the traceback's text."""


class Client:
    """Connection to a master, for a program with a bluelet loop of its own. `host`, `port`: as for ClientThread."""

    def __init__(self, host: str | None = None, port: int | None = None) -> None:
        self.host = host
        self.port = port
        self._thread: ClientThread | None = None

    def connection_ready(self) -> None:
        """Do nothing, when the master is connected. Subclasses may do more."""

    def handle_results(self, callback: OnResult) -> Generator[Any, Any, None]:
        """Coroutine that connects, and calls back for each job, until it is killed. Raises cw.ConnectionError."""
        results: queue.SimpleQueue[tuple[Any, bool, Any]] = queue.SimpleQueue()
        here, there = socket.socketpair()
        with here, there:
            there.setblocking(False)

            def wake(*result: Any) -> None:
                results.put(result)
                with contextlib.suppress(BlockingIOError):  # then there are enough bytes on the way
                    there.send(b"\0")

            self._connect(wake)
            try:
                connection = bluelet.Connection(here, None)
                while True:
                    yield connection.recv(4096)
                    while not results.empty():
                        callback(*results.get())
            finally:
                self._connected().stop()

    def send_job(
        self, jobid: Any, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Generator[Any, Any, None]:
        """Coroutine that submits a job, after `handle_results` has connected."""
        self._connected().submit(jobid, func, *args, **kwargs)
        yield bluelet.null()

    def _connect(self, callback: OnResult) -> None:
        thread = ClientThread(
            lambda jobid, result: callback(jobid, True, result),
            self.host,
            self.port,
            on_error=lambda jobid, error: callback(jobid, False, traceback_of(error)),
        )
        thread.start()
        self._thread = thread
        self.connection_ready()

    def _connected(self) -> ClientThread:
        if self._thread is None:
            raise RuntimeError("this client is not connected yet")
        return self._thread


class BaseClientThread(Client):
    """A thread that runs jobs with the caller's own ids, and calls back with `callback(jobid, success, result)`."""

    def __init__(self, callback: OnResult, host: str | None = None, port: int | None = None) -> None:
        super().__init__(host, port)
        self.callback = callback

    def start(self) -> None:
        """Connect to the master. Raises cw.ConnectionError."""
        self._connect(self.callback)

    def start_job(self, jobid: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Submit a job. For any thread."""
        self._connected().submit(jobid, func, *args, **kwargs)

    def stop(self) -> None:
        """Disconnect. Outstanding jobs are cancelled."""
        self._connected().stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, after `stop`."""
        self._connected().join(timeout)

    def is_alive(self) -> bool:
        """True if the thread is running."""
        return self._thread is not None and self._thread.is_alive()
