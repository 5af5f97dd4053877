"""`cw top --web` with a real Chromium, and with requests that no browser makes. The cluster is the sample's.

Needs the extra `web` and Chromium. What is missing is skipped, unless WEB=all is in the environment.
"""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

if os.environ.get("WEB") != "all":
    pytest.importorskip("aiohttp")
    pytest.importorskip("textual_serve")
import aiohttp
import chromium
from aiohttp import web

from cw.program import UserError
from cw.web import door, places, server
from cw.web.door import Door

HERE = Path(__file__).parent
VIEW = [sys.executable, str(HERE / "top_view.py")]
COOKIE = "cw_top"
in_chromium = pytest.mark.skipif(
    chromium.program() is None and os.environ.get("WEB") != "all", reason="needs Chromium"
)
pytestmark = pytest.mark.timeout(180)  # a browser on a busy machine


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "cw"))
    return tmp_path / "cw"


@asynccontextmanager
async def served(listener, entrance, *options):
    """Serve views of the sample at a socket; yields the server."""
    made = server.Server([*VIEW, *map(str, options)], entrance, COOKIE)
    runner = web.AppRunner(made.application(), shutdown_timeout=3)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def at_port(*options):
    """Serve at a free port; yields its address, and the list of tokens."""
    tokens = []
    listener = places.at_port(0)
    async with served(listener, Door(True, on_token=tokens.append), *options):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", tokens


async def get(session, url, **headers):
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        return answer.status, await answer.text(), answer.headers


async def open_view(session, url, **headers):
    """The status of a websocket that is refused, or the websocket."""
    try:
        return await session.ws_connect(url + "ws", headers=headers)
    except aiohttp.WSServerHandshakeError as error:
        return error.status


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 150))


# --- Chromium --------------------------------------------------------------------------------------------


@in_chromium
def test_a_browser_gets_the_page_for_a_token_once(tmp_path):
    """And with --control a job is killed from there, after a question."""

    async def test():
        orders = tmp_path / "orders"
        async with (
            at_port(orders) as (url, tokens),
            chromium.browser("--host-resolver-rules=MAP * 127.0.0.1") as new,
        ):
            page = await new()
            assert door.NO_TOKEN.text in await page.open(url)
            assert door.SPENT.text in await page.open(f"{url}?{door.PARAMETER}=wrong")
            spent = tokens[0]
            await page.open(f"{url}?{door.PARAMETER}={spent}")
            await page.wait_for("document.body.classList.contains('-first-byte')", 60)
            assert await page.value("location.search") == ""  # the token is not in the address any more
            assert await page.value("document.cookie") == ""  # no script reads the cookie
            for _ in range(100):  # the program may still start
                await page.type("3k")
                await asyncio.sleep(0.3)
                await page.type("y")
                await asyncio.sleep(0.3)
                if orders.exists():
                    break
            await page.screenshot(tmp_path / "page.png")
            assert "stop" in orders.read_text()
            own = url.replace("http://", "")
            foreign = [u for u in page.urls if not u.startswith((url, f"ws://{own}", "data:", "about:"))]
            assert foreign == []  # no font or script from elsewhere
            assert not [
                line
                for line in page.console
                if "Content Security Policy" in line or "exceptionDetails" in line
            ]

            assert door.SPENT.text in await page.open(f"{url}?{door.PARAMETER}={spent}")
            await refuse_other_sites(new, url, tokens)

    run(test())


async def their_page(request):
    return web.Response(text="<body>evil</body>", content_type="text/html")


async def refuse_other_sites(new, url, tokens):
    """A page of another site, in the browser that has the cookie; and a name of another site that leads here."""
    port = url.rstrip("/").rpartition(":")[2]
    evil = web.Application()
    evil.router.add_get("/", their_page)
    runner = web.AppRunner(evil)
    await runner.setup()
    listener = places.at_port(0)
    await web.SockSite(runner, listener).start()
    page = await new()
    try:
        for host in (
            "127.0.0.1",
            "evil.example",
        ):  # the same site at another port, which gets the cookie; another site
            assert "evil" in await page.open(f"http://{host}:{listener.getsockname()[1]}/")
            outcome = await page.value(
                f"new Promise(done => {{ const w = new WebSocket('ws://127.0.0.1:{port}/ws?width=80&height=24');"
                "w.onopen = () => done('open'); w.onerror = () => done('refused'); })"
            )
            assert outcome == "refused"
            assert await page.value(f"fetch('{url}').then(r => r.text(), () => 'refused')") == "refused"
            framed = await page.value(
                "new Promise(done => { const f = document.createElement('iframe');"
                f"f.src = '{url}'; f.onload = () => {{ try {{ done(f.contentDocument ? 'seen' : 'refused') }}"
                " catch { done('refused') } }; document.body.append(f); })"
            )
            assert framed == "refused"
        # The attacker's name has been bound anew, to this machine: the browser thinks that it is the same site.
        assert door.FOREIGN_HOST.text in await page.open(f"http://evil.example:{port}/")
        assert door.FOREIGN_HOST.text in await page.open(
            f"http://evil.example:{port}/?{door.PARAMETER}={tokens[-1]}"
        )
    finally:
        await runner.cleanup()


@in_chromium
def test_a_tunnel_to_the_unix_socket_is_read_only(tmp_path, home):
    """As `ssh -L PORT:SOCKET` makes it. No token: the kernel says who connects."""

    async def test():
        orders = tmp_path / "orders"
        listener, path = places.at_socket()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        async with served(listener, Door(False), "--read-only", orders):
            tunnel = await asyncio.start_server(lambda r, w: carry(r, w, path), "127.0.0.1", 0)
            port = tunnel.sockets[0].getsockname()[1]
            async with chromium.browser() as new:
                page = await new()
                await page.open(f"http://localhost:{port}/")
                await page.wait_for("document.body.classList.contains('-first-byte')", 60)
                await asyncio.sleep(1)
                for keys in ("3k", "y", "2d", "y"):
                    await page.type(keys)
                    await asyncio.sleep(0.5)
                await page.screenshot(tmp_path / "tunnel.png")
            assert not orders.exists()
            tunnel.close()

    run(test())


async def carry(reader, writer, path):
    """A connection of ssh's."""
    other_reader, other_writer = await asyncio.open_unix_connection(path)

    async def copy(source, target):
        while data := await source.read(65536):
            target.write(data)
        target.close()

    await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer), return_exceptions=True)


# --- what no browser does --------------------------------------------------------------------------------


def test_every_path_asks_for_the_cookie(tmp_path):
    async def test():
        async with at_port(tmp_path / "orders") as (url, tokens), aiohttp.ClientSession() as session:
            for path in (
                "",
                "ws",
                "static/js/textual.js",
                "page/page.js",
                "nothing",
                "ws?{door.PARAMETER}=x",
                "?{door.PARAMETER}=",
            ):
                status, text, headers = await get(session, url + path)
                assert status == 403, path
                assert headers["X-Content-Type-Options"] == "nosniff"
            assert await open_view(session, url, Origin=url.rstrip("/")) == 403
            assert await open_view(session, url, Origin=url.rstrip("/"), Cookie=f"{COOKIE}=guess") == 403
            status, _, headers = await get(session, f"{url}?{door.PARAMETER}={tokens[-1]}")
            assert status == 303 and headers["Location"] == "./"
            cookie = headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
            mine = {"Cookie": cookie.partition(";")[0]}
            status, text, headers = await get(session, url, **mine)
            assert status == 200 and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            for path in ("static/", "page/", "static/../server.py", "page/%2e%2e/server.py", "download/x"):
                assert (await get(session, url + path, **mine))[0] in (403, 404), path
            assert (await get(session, url, Host="evil.example", **mine))[0] == 403
            async with session.post(url, headers=mine) as answer:
                assert answer.status == 405

    run(test())


@pytest.mark.slow
def test_views_are_few_and_end_with_their_connection(tmp_path):
    async def test():
        async with at_port(tmp_path / "orders") as (url, tokens), aiohttp.ClientSession() as session:
            _, _, headers = await get(session, f"{url}?{door.PARAMETER}={tokens[-1]}")
            mine = {"Cookie": headers["Set-Cookie"].partition(";")[0], "Origin": url.rstrip("/")}
            junk = ("[]", "nothing", '["stdin"]', '["resize", {"width": 1e999, "height": 1}]', '{"a": 1}')
            await asyncio.gather(*[ends(await open_view(session, url, **mine), text) for text in junk])
            server.VIEWS, most = 2, server.VIEWS
            try:
                views = [await open_view(session, url, **mine) for _ in range(3)]
                assert views[2] == 503 and most == 8
                assert (await get(session, url, **mine))[0] == 503
                for view in views[:2]:
                    assert (await view.receive()).type is aiohttp.WSMsgType.BINARY
                    await view.close()
                while (await get(session, url, **mine))[0] == 503:
                    await asyncio.sleep(0.05)
            finally:
                server.VIEWS = most

    run(test())


async def ends(view, text):
    """Wait until a view that gets this text is closed."""
    await view.send_str(text)
    while (await view.receive()).type not in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_reach_the_socket(tmp_path, home):
    async def test():
        listener, path = places.at_socket()
        async with served(listener, Door(False), tmp_path / "orders"):
            assert "Permission denied" in await as_nobody(path)
            # Even if the directory and the socket were open, as after a chmod:
            for directory in (home, *home.parents):
                if directory.stat().st_uid == 0 and directory != Path("/"):
                    directory.chmod(directory.stat().st_mode | 0o055)
            os.chmod(path, 0o777)
            assert door.OTHER_USER.text in await as_nobody(path)
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
                assert (await get(session, "http://localhost:8765/"))[0] == 200
                assert (await get(session, "http://evil.example/"))[0] == 403
                assert await open_view(session, "http://localhost:8765/", Origin="http://evil.example") == 403
                assert await open_view(session, "http://localhost:8765/") == 403

    run(test())


async def as_nobody(path):
    """What a process of another user gets from the socket."""
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); s.sendall(b'GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n');"
        "print(s.makefile().read())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", code, path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return (await process.communicate())[0].decode()


# --- places ----------------------------------------------------------------------------------------------


def test_a_socket_that_was_left_over_is_replaced_and_one_that_serves_is_not(home):
    first, path = places.at_socket()
    first.listen()
    with pytest.raises(UserError, match="serves at"):
        places.at_socket()
    first.close()
    second, again = places.at_socket()
    assert again == path
    second.close()


def test_a_path_that_is_too_long_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / ("x" * 100)))
    with pytest.raises(UserError, match="CW_HOME"):
        places.at_socket()


def test_a_port_that_is_taken_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}"):
            places.at_port(port)


@pytest.mark.parametrize(
    "url", ["hub.example.org", "ftp://x/", "https:///x", "https://h/?q=1", "https://u@h/"]
)
def test_a_public_address_is_one_of_a_page(url):
    with pytest.raises(UserError, match="address of a page"):
        places.check_public_url(url)
    assert places.check_public_url("https://h/p") == "https://h/p/"
