"""Debian's Chromium without a window, driven over its own DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from websockets.asyncio.client import connect

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--ignore-certificate-errors", "--no-proxy-server", "--remote-debugging-port=0", "--window-size=1000,800",
]  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, browser: "Browser", session: str):
        self.browser = browser
        self.session = session

    async def call(self, method: str, **parameters) -> dict:
        return await self.browser.call(method, parameters, self.session)

    async def open(self, url: str) -> None:
        answer = await self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        await self.wait_for(f"location.href.startsWith({json.dumps(url[:20])}) && document.readyState === 'complete'")

    async def evaluate(self, expression: str):
        """The value of an expression, of a promise once it is settled."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def run(self, body: str):
        """The value that the body of an async function returns."""
        return await self.evaluate(f"(async () => {{{body}}})()")

    async def wait_for(self, expression: str, seconds: float = 8) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await self.evaluate(f"Boolean({expression})"):
            if asyncio.get_running_loop().time() > deadline:
                text = await self.evaluate("document.body?.innerText")
                raise AssertionError(f"not within {seconds} s: {expression}\nthe page says: {text}")
            await asyncio.sleep(0.05)

    async def type(self, selector: str, text: str) -> None:
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def screenshot(self, file: Path) -> None:
        # A tab behind another one is not painted.
        await self.call("Page.bringToFront")
        image = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
        assert image.startswith(b"\x89PNG") and len(image) > 5000
        file.write_bytes(image)


class Browser:
    def __init__(self, connection):
        self.connection = connection
        self.problems: list[str] = []
        self.handshakes: list[dict] = []  # answers to WebSockets' handshakes, on pages whose `Network` is enabled
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future] = {}

    async def listen(self) -> None:
        async for frame in self.connection:
            message = json.loads(frame)
            if waiting := self._waiting.pop(message.get("id"), None):
                waiting.set_result(message)
            elif message.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(message["params"]["exceptionDetails"])[:1000])
            elif message.get("method") == "Network.webSocketHandshakeResponseReceived":
                self.handshakes.append(message["params"]["response"])

    async def call(self, method: str, parameters: dict | None = None, session: str | None = None) -> dict:
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": parameters or {}} | (
            {"sessionId": session} if session else {}
        )
        await self.connection.send(json.dumps(request))
        answer = await asyncio.wait_for(self._waiting[number], 30)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    async def page(self, url: str) -> Page:
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = Page(self, attached["sessionId"])
        await page.call("Page.enable")
        await page.call("Runtime.enable")
        await page.open(url)
        return page


@contextlib.asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """A browser of its own, whose pages threw nothing that they did not catch."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: apt-get install chromium"
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={profile}", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        address = await asyncio.wait_for(devtools_address(process.stderr), 30)
        draining = asyncio.create_task(process.stderr.read())
        async with connect(address, max_size=None, proxy=None, ping_interval=None) as connection:
            browser = Browser(connection)
            listening = asyncio.create_task(browser.listen())
            yield browser
            listening.cancel()
        assert not browser.problems, browser.problems
        draining.cancel()
    finally:
        # Its helpers are in the session that it leads, and in no other.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def devtools_address(stderr: asyncio.StreamReader) -> str:
    said = []
    async for line in stderr:
        said.append(line.decode(errors="replace"))
        if match := re.search(r"DevTools listening on (ws://\S+)", said[-1]):
            return match[1]
    raise AssertionError("chromium did not start:\n" + "".join(said))
