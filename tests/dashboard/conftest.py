"""What the viewer's tests share: a real Chromium, spoken to over its DevTools socket, and a server that counts who comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]


class Tab:
    """One page of the browser: what it asked for, what it said, and what it holds."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.console: list[str] = []
        self.violations: list[str] = []

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.ask(method, params, self._session)

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            await self.ask(f"{domain}.enable")

    def told(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
            self._browser.later(self.ask("Page.handleJavaScriptDialog", accept=False))
        elif method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(it.get("value", it.get("description"))) for it in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(f"exception: {params['exceptionDetails'].get('exception', {}).get('description')}")
        elif method == "Log.entryAdded":
            self.violations.append(params["entry"]["text"])
        elif method == "Audits.issueAdded" and params["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.violations.append(json.dumps(params["issue"]["details"]))

    async def go(self, url: str) -> None:
        """Open `url` and wait until it has loaded."""
        await self.ask("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, expression: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 20) -> None:
        """Wait until `expression` is true in the page."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            with contextlib.suppress(AssertionError, RuntimeError):  # the page may be between two documents
                if await self.run(expression):
                    return
            assert asyncio.get_running_loop().time() < deadline, f"never true: {expression}"
            await asyncio.sleep(0.05)

    async def look(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Be a screen of this size and scheme."""
        await self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = "dark" if dark else "light"
        await self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def shoot(self, path: Path, *, whole: bool = False) -> None:
        shot = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A Chromium over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.later(self._listen())

    def later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                waiting = self._waiting.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    if "error" in message:
                        waiting.set_exception(RuntimeError(message["error"]["message"]))
                    else:
                        waiting.set_result(message["result"])
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.told(message["method"], message["params"])

    async def ask(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        number = next(self._numbers)
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})))
        return await asyncio.wait_for(waiting, 30)

    async def tab(self) -> Tab:
        context = (await self.ask("Target.createBrowserContext", {}))["browserContextId"]
        target = (await self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context}))["targetId"]
        session = (await self.ask("Target.attachToTarget", {"targetId": target, "flatten": True}))["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        await tab.start()
        return tab

    async def targets(self) -> list[str]:
        """The addresses of all pages that are open."""
        found = await self.ask("Target.getTargets", {})
        return [it["url"] for it in found["targetInfos"] if it["type"] == "page"]


@contextlib.asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """A Chromium of our own, ended with everything it started."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "these tests need chromium on the PATH: apt-get install chromium"
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            async for line in process.stderr:
                if line.startswith(b"DevTools listening on "):
                    break
        address = line.decode().removeprefix("DevTools listening on ").strip()
        drain = asyncio.create_task(process.stderr.read())
        async with connect(address, max_size=None, ping_interval=None) as socket:
            browser = Browser(socket)
            yield browser
            with contextlib.suppress(Exception):
                await browser.ask("Browser.close", {})
        async with asyncio.timeout(10):
            await process.wait()
        await drain
    finally:
        if process.returncode is None:
            import os

            os.killpg(process.pid, signal.SIGKILL)  # its own group: start_new_session above
            await process.wait()
