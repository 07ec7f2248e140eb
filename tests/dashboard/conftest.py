"""What the viewer's tests share: archives really written, the viewer really served, and a Chromium spoken to over its DevTools socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from archive.record import Body, Client, End, EndReason, Message, Record, Request, Response, Timing, Upstream, id_text, new_id
from archive.writer import Writer
from dashboard.app import create_app
from dashboard.guard import local_hosts

TOKEN = "a-token-of-the-tests-0123456789"

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
                if await self.run(f"!!({expression})"):
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
        path.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240  a test's loop may wait for a file


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
        await self._socket.send(
            json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {}))
        )
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
        program,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            async for line in process.stderr:
                if line.startswith(b"DevTools listening on "):
                    break
        assert line.startswith(b"DevTools"), "chromium ended before it could be spoken to"
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
            os.killpg(process.pid, signal.SIGKILL)  # its own group: start_new_session above
            await process.wait()


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with chromium(tmp_path / "chromium") as browser:
        yield browser


def make_exchange(
    *,
    ago: float = 0.0,
    method: bytes = b"POST",
    target: bytes = b"/openai/v1/chat/completions",
    route: str = "openai",
    sent: bytes | None = b'{"model":"gpt-5.2","messages":[]}',
    received: bytes | None = b'{"choices":[]}',
    status: int | None = 200,
    request_headers: Sequence[tuple[bytes, bytes]] = ((b"Content-Type", b"application/json"),),
    response_headers: Sequence[tuple[bytes, bytes]] = ((b"Content-Type", b"application/json"),),
    encoding: str = "",
    marks: Sequence[tuple[int, float]] = ((0, 120.0),),
    messages: Sequence[Message] = (),
    end: End | None = End(EndReason.COMPLETE),  # noqa: B008  never changed by anyone
    **others: Any,
) -> Record:
    """A record such as the gateway hands over, of an exchange that began `ago` seconds ago."""
    at = time.time() - ago
    return Record(
        id=new_id(int(at * 1000)),
        part=0,
        at=at,
        client=Client("127.0.0.1:50000"),
        upstream=Upstream(route, f"https://{route}.example"),
        request=Request(method, target, [*request_headers]),
        request_body=None if sent is None else Body([sent], ended=True),
        response=None if status is None else Response(status, [*response_headers], b"OK" if status == 200 else b""),
        response_body=None if received is None else Body([received], encoding=encoding, ended=end is not None),
        messages=[*messages],
        timing=Timing(120.0 if status else None, 480.0 if end else None, [*marks] if received else []),
        end=end,
        **others,
    )


def write_archive(folder: Path, records: Iterable[Record]) -> list[str]:
    """Write `records` with the real writer; returns their ids."""
    writer = Writer(folder, version="0.0.test", min_free=0)
    writer.start()
    ids = []
    for record in records:
        ids.append(id_text(record.id))
        assert writer.put(record)
    assert writer.close(10)
    return ids


@dataclass
class Viewer:
    """A viewer that is being served, and a client that has its cookie not yet."""

    port: int
    folder: Path
    client: httpx.AsyncClient
    token: str = TOKEN
    pid: int = 0
    bearer: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {TOKEN}"})

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def way_in(self) -> str:
        return f"{self.origin}/?token={TOKEN}"

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """GET with the token."""
        return await self.client.get(path, headers=self.bearer | options.pop("headers", {}), **options)

    async def page(self, path: str, **options: Any) -> str:
        answer = await self.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def raw(
        self, target: bytes, headers: Sequence[tuple[bytes, bytes]] = (), *, host: bytes | None = b"127.0.0.1"
    ) -> tuple[int, bytes]:
        """GET a target exactly as it is spelt, which no client library would send. Returns status and body."""
        status, body, _ = await self.raw_head(target, headers, host=host)
        return status, body

    async def raw_head(
        self, target: bytes, headers: Sequence[tuple[bytes, bytes]] = (), *, host: bytes | None = b"127.0.0.1"
    ) -> tuple[int, bytes, bytes]:
        """As `raw`, and the head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        fields = [(b"Authorization", b"Bearer " + TOKEN.encode()), (b"Connection", b"close"), *headers]
        if host is not None:
            fields.insert(0, (b"Host", b"%b:%d" % (host, self.port)))
        writer.write(b"GET " + target + b" HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % it for it in fields) + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body, head


@contextlib.asynccontextmanager
async def serve_viewer(folder: Path, **options: Any) -> AsyncIterator[Viewer]:
    """The viewer of `folder` on a port of its own, on this test's loop, where whatever blocks is found out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = await asyncio.to_thread(create_app, folder, token=TOKEN, hosts=local_hosts(port), **options)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=2)
        )
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  pytest's signals stay its own
        task = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(10):
                while not server.started:  # noqa: ASYNC110  uvicorn tells nobody
                    await asyncio.sleep(0.01)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                yield Viewer(port, folder, client)
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def start_viewer(folder: Path) -> AsyncIterator[Viewer]:
    """The viewer of `folder` as a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-P", "-m", "dashboard.server", str(folder), "--fd", str(listener.fileno()), "--quiet"],
            pass_fds=[listener.fileno()],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "VERBATIM_VIEWER_TOKEN": TOKEN},
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield Viewer(port, folder, client, pid=process.pid)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


# Fixtures hand these out, since test modules cannot import a conftest.


@pytest.fixture
def exchange() -> Any:
    return make_exchange


@pytest.fixture
def write() -> Any:
    return write_archive


@pytest.fixture
def serve() -> Any:
    return serve_viewer


@pytest.fixture
def started() -> Any:
    return start_viewer


@pytest.fixture
async def viewer(tmp_path: Path) -> AsyncIterator[Viewer]:
    """A viewer of an archive with one exchange in it."""
    folder = tmp_path / "archive"
    write_archive(folder, [make_exchange()])
    async with serve_viewer(folder) as viewer:
        yield viewer


@pytest.fixture
async def known_id(viewer: Viewer) -> str:
    found = (await viewer.get("/api/exchanges")).json()["exchanges"]
    return str(found[0]["id"])
