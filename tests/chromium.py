"""A headless Chromium for tests, driven over its debugging protocol: pages, keys, screenshots."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def program():
    """Its path, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """A page of the browser, with what was asked of the network and what the console said."""

    def __init__(self, websocket):
        self._websocket = websocket
        self._number = 0
        self._answers = {}
        self.urls = []
        self.console = []

    async def read(self):
        async for message in self._websocket:
            data = json.loads(message.data)
            if "id" in data:
                self._answers.pop(data["id"]).set_result(data)
            elif data["method"] == "Network.requestWillBeSent":
                self.urls.append(data["params"]["request"]["url"])
            elif data["method"] == "Network.webSocketCreated":
                self.urls.append(data["params"]["url"])
            elif data["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.console.append(json.dumps(data["params"]))

    async def call(self, method, **parameters):
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._websocket.send_json({"id": self._number, "method": method, "params": parameters})
        data = await asyncio.wait_for(answer, 20)
        assert "error" not in data, data
        return data["result"]

    async def open(self, url):
        """Go to an address, and return the text of the page, when it is loaded."""
        await self.call("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return await self.value("document.body.innerText")

    async def value(self, expression):
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return result["result"].get("value")

    async def wait_for(self, expression, seconds=20):
        for _ in range(int(seconds * 20)):
            if await self.value(expression):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not in {seconds} s: {expression}; console: {self.console}")

    async def type(self, text):
        for character in text:
            await self.call("Input.dispatchKeyEvent", type="char", text=character)

    async def screenshot(self, path):
        data = await self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(data["data"]))


@asynccontextmanager
async def browser(*options):
    """Yield a function that opens a page of a new browser. It ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}",
                 "--no-first-run", "--disable-dev-shm-usage", "--window-size=1000,600"]  # fmt: skip
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        process = subprocess.Popen(
            [program(), *flags, *options],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            where = Path(profile, "DevToolsActivePort")
            for _ in range(1200):
                if where.exists() and where.read_text():
                    break
                await asyncio.sleep(0.05)
            port = where.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                tasks = []

                async def page():
                    async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                        target = await answer.json()
                    websocket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
                    made = Page(websocket)
                    tasks.append(asyncio.create_task(made.read()))
                    for domain in ("Page", "Runtime", "Network", "Log"):
                        await made.call(f"{domain}.enable")
                    return made

                yield page
                for task in tasks:
                    task.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
