"""The web server of `cw top --web`: a page with a terminal, and behind it `cw top` in a process for each view.

browser --- websocket ---> Door ---> View: keys, size ---> `cw top`, whose Textual speaks to a pipe (textual-serve)
        <------------------------- what it draws ---------'

The script of the page, its fonts and the form of what goes through the pipe are textual-serve's. Its server is not
used: that one lets everyone in, and its page fetches a font from elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import textual_serve
from aiohttp import WSMsgType, web
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from cw.web import door
from cw.web.door import Door, Refusal

VIEWS = 8
"""Most views at a time. Larger: more processes on a login node. Smaller: fewer people of a group look at once."""

MOST_COLUMNS, MOST_LINES = 500, 200
"""Largest size of a view. A browser may say anything."""

LONGEST_MESSAGE = 64 * 1024
"""Most bytes of a message of a browser: keys, or a text that is pasted."""

STOP_SECONDS = 3.0
"""Time for a view's process to end."""

PAGE = Path(__file__).parent / "page"
SCRIPTS = Path(textual_serve.__file__).parent / "static"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves views of `command`, a `cw top`, to whom the door lets in."""

    def __init__(self, command: Sequence[str], entrance: Door, cookie: str) -> None:
        self._command = shlex.join(command)
        self._door = entrance
        self._cookie = cookie
        self._open: set[web.WebSocketResponse] = set()

    def application(self) -> web.Application:
        """Return it as an aiohttp application."""
        app = web.Application(middlewares=[self._check], client_max_size=LONGEST_MESSAGE)
        app.router.add_get("/", self._page)
        app.router.add_get("/ws", self._view)
        app.router.add_static("/page", PAGE)
        app.router.add_static("/static", SCRIPTS)
        app.on_shutdown.append(self._close_all)
        return app

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through, or refuse it: also of paths that there are not."""
        refusal = self._refusal(request)
        if refusal is not None:
            return _refuse(refusal)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(door.HEADERS)
            raise
        if not response.prepared:
            response.headers.update(door.HEADERS)
        return response

    def _refusal(self, request: web.Request) -> Refusal | None:
        if not self._door.has_token and _peer_user(request) != os.geteuid():
            return door.OTHER_USER
        is_websocket = request.path == "/ws" or "Upgrade" in request.headers
        headers = request.headers
        refusal = self._door.check(headers.getall("Host", []), headers.getall("Origin", []), is_websocket)
        if refusal is not None or not self._door.has_token:
            return refusal
        if door.PARAMETER in request.query:  # what is wrong with it is said there
            return None if request.path == "/" and request.method == "GET" else door.NO_TOKEN
        return None if self._door.knows(request.cookies.get(self._cookie, "")) else door.NO_TOKEN

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if self._door.has_token and door.PARAMETER in request.query:
            cookie = self._door.spend(request.query[door.PARAMETER])
            if cookie is None:
                return _refuse(door.SPENT)
            response = web.Response(status=303, headers={"Location": "./"})
            response.set_cookie(
                self._cookie,
                cookie,
                httponly=True,
                samesite="Strict",
                path=self._door.path,
                secure=self._door.is_secure,
            )
            return response
        if len(self._open) >= VIEWS:
            return _refuse(
                Refusal(503, f"{VIEWS} views are open already: close one, and load this page again.")
            )
        return web.FileResponse(PAGE / "index.html")

    async def _view(self, request: web.Request) -> web.StreamResponse:
        """Run a `cw top` for this websocket, until either ends."""
        if len(self._open) >= VIEWS:
            return _refuse(Refusal(503, f"{VIEWS} views are open already."))
        websocket = web.WebSocketResponse(heartbeat=15, max_msg_size=LONGEST_MESSAGE)
        self._open.add(websocket)
        service = None
        try:
            await websocket.prepare(request)
            service = View(
                self._command,
                write_bytes=websocket.send_bytes,
                write_str=websocket.send_str,
                close=lambda: _close(websocket),
                download_manager=DownloadManager(),
            )
            # A size that came only after the start could be overtaken by that of the start.
            await service.start(*_size(request.query.get("width", "80"), request.query.get("height", "24")))
            async for message in websocket:
                if message.type is WSMsgType.TEXT and not await _handle(message.data, service, websocket):
                    break
        finally:
            self._open.discard(websocket)
            if service is not None:
                await service.end()
            await websocket.close()
        return websocket

    async def _close_all(self, app: web.Application) -> None:
        for websocket in list(self._open):
            await websocket.close()


class View(AppService):
    """One `cw top`, of one websocket."""

    async def end(self) -> None:
        """Ask it to end, and wait for that; kill it if it does not."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stop(), STOP_SECONDS)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate()  # (closes its pipes, too)


async def _handle(text: str, service: AppService, websocket: web.WebSocketResponse) -> bool:
    """Pass a message of the browser on to the view; returns False if it is none."""
    try:
        kind, *values = json.loads(text)
        if kind == "stdin":
            await service.send_bytes(values[0].encode())
        elif kind == "resize":
            await service.set_terminal_size(*_size(values[0]["width"], values[0]["height"]))
        elif kind == "ping":
            await websocket.send_json(["pong", str(values[0])[:100]])
        elif kind in ("focus", "blur"):
            await (service.focus() if kind == "focus" else service.blur())
        else:
            return False
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        return False
    return True


async def _close(websocket: web.WebSocketResponse) -> None:
    await websocket.close()


def _size(width: Any, height: Any) -> tuple[int, int]:
    """Return a size that is possible. Raises ValueError or TypeError if these are no numbers."""
    return min(max(int(width), 1), MOST_COLUMNS), min(max(int(height), 1), MOST_LINES)


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, text=f"{refusal.text}\n", headers=door.HEADERS)


def _peer_user(request: web.Request) -> int | None:
    """Return the user whose process is at the other end of a Unix socket."""
    sock: Any = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])


def serve(server: Server, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve at a socket that is bound, until SIGINT or SIGTERM."""
    asyncio.run(_serve(server, listener, on_ready))


async def _serve(server: Server, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        on_ready()
        await ended.wait()
    finally:
        await runner.cleanup()
