"""`make autobahn`: the Autobahn test suite through the gateway and without it, in both directions; no case may be worse through it.

    python tests/autobahn/run.py [--short] [--cases 1.* ...] [--install]

The suite runs on Python 2.7 alone, found on PATH or among pyenv's; what it needs is installed in .wstest on first use. Exit code 0:
none is worse; 1: some are, and named; 77: it cannot run here, and why. The gateway is the real one, recording.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidHandshake, InvalidMessage, WebSocketException

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from rig import ROOT, Gateway, free_port, gateway, wait_for  # noqa: E402  its folder has just been named

INSTALLED = HERE.parent.parent / ".wstest"
REQUIREMENTS = HERE / "requirements.txt"
SECTIONS = {
    "1": "framing", "2": "pings and pongs", "3": "reserved bits", "4": "opcodes", "5": "fragmentation", "6": "UTF-8", "7": "closing",
    "9": "limits and performance", "10": "miscellaneous", "12": "compression", "13": "compression, parameters",
}  # fmt: skip
SHORT = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.1.*", "6.2.*", "6.3.*", "6.4.*", "7.*", "10.*"]
FINE = {"OK": 0, "INFORMATIONAL": 0, "UNIMPLEMENTED": 0, "NON-STRICT": 1}
"""How good a verdict is; whatever else the suite says is a failure."""
TRIES = 3
"""Some verdicts hang on timing, directly too (two ends that close at once): what is worse is tried again."""
SHOWN = 20
"""Cases told one by one."""
CANNOT = 77

START = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()"

Verdict = tuple[str, str]
"""What the suite says of a case's behaviour, and of how it closed."""


class CannotRunError(Exception):
    """The suite cannot run on this machine; the message says why."""


def python27() -> str:
    """An interpreter for the suite."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which("python2.7"), *map(str, sorted(pyenv.glob("2.7.*/bin/python2.7"), reverse=True))):
        if candidate and subprocess.run([candidate, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise CannotRunError("Autobahn's test suite needs Python 2.7 with pip, and there is none on PATH or in ~/.pyenv")


def wstest() -> list[str]:
    """The command that runs the suite; installs it first where it is not there."""
    python, key = python27(), hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = INSTALLED / ".stamp"
    if not stamp.exists() or stamp.read_text() != key:
        shutil.rmtree(INSTALLED, ignore_errors=True)
        options = ["-q", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--target", str(INSTALLED)]
        done = subprocess.run(
            [python, "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CannotRunError(f"Autobahn's test suite could not be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        # Masks and UTF-8 in C: a great deal of the sections on performance and compression. Without a compiler it is left out
        subprocess.run([python, "-m", "pip", "install", *options, "-r", str(HERE / "fast.txt")], capture_output=True, check=False)
        stamp.write_text(key)
    return [python, "-W", "ignore", "-c", START, str(INSTALLED)]


async def suite(command: list[str], mode: str, folder: Path, spec: dict[str, object]) -> asyncio.subprocess.Process:
    """The suite, started with `spec`; its own output is of no use."""
    folder.mkdir(parents=True)  # noqa: ASYNC240  nothing else runs on this loop
    (folder / "spec.json").write_text(json.dumps({"outdir": str(folder / "out"), "exclude-cases": [], "exclude-agent-cases": {}, **spec}))
    arguments = ["-m", mode, "-s", str(folder / "spec.json"), "-u", "0"]
    environment = {**os.environ, "PYTHONNOUSERSITE": "1", "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}
    with (folder / "log").open("wb") as log:
        return await asyncio.create_subprocess_exec(*command, *arguments, cwd=folder, stdout=log, stderr=log, env=environment)


def verdicts(folder: Path, agent: str) -> dict[str, Verdict]:
    index = json.loads((folder / "out" / "index.json").read_text())
    return {case: (found["behavior"], found["behaviorClose"]) for case, found in index.get(agent, {}).items()}


async def echo() -> None:
    """An echo server of its own process: prints its port, serves until it is killed."""

    async def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(WebSocketException):
            async for message in connection:
                await connection.send(message)

    async with serve(talk, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--echo", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def end(process: asyncio.subprocess.Process) -> None:
    """End it, if Ctrl-C has not done so already."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def as_clients(command: list[str], folder: Path, cases: list[str], urls: dict[str, str]) -> dict[str, dict[str, Verdict]]:
    """The suite as the client of an echo server at each of `urls`."""

    async def one(agent: str, url: str) -> dict[str, Verdict]:
        process = await suite(command, "fuzzingclient", folder / agent, {"servers": [{"agent": agent, "url": url}], "cases": cases})
        try:
            assert await process.wait() == 0, (folder / agent / "log").read_text()[-2000:]
        finally:
            await end(process)
        return verdicts(folder / agent, agent)

    found = await asyncio.gather(*(one(agent, url) for agent, url in urls.items()))
    return dict(zip(urls, found, strict=True))


async def as_server(command: list[str], folder: Path, cases: list[str], port: int, urls: dict[str, str]) -> dict[str, dict[str, Verdict]]:
    """The suite as the server on `port`, which an echoing client reaches at each of `urls`."""
    process = await suite(command, "fuzzingserver", folder, {"url": f"ws://127.0.0.1:{port}", "cases": cases})
    try:
        await wait_for(
            lambda: "Ok, will run" in (folder / "log").read_text() or process.returncode is not None, 60
        )  # the suite is slow to begin
        count = int((await said(urls["direct"] + "/getCaseCount"))[0])
        await asyncio.gather(*(testee(url, agent, count) for agent, url in urls.items()))
        for agent in urls:
            await said(f"{urls['direct']}/updateReports?agent={agent}")
        return {agent: verdicts(folder, agent) for agent in urls}
    finally:
        await end(process)


async def said(url: str) -> list[str | bytes]:
    """All messages at `url`, tried until the suite listens."""
    for attempt in range(50):
        try:
            async with connect(url, max_size=None, ping_interval=None, proxy=None) as socket:
                return [message async for message in socket]
        except OSError:
            if attempt == 49:
                raise
            await asyncio.sleep(0.2)
    raise AssertionError


async def testee(url: str, agent: str, count: int) -> None:
    for case in range(1, count + 1):
        with contextlib.suppress(WebSocketException, InvalidHandshake, InvalidMessage, EOFError, ConnectionError):
            async with connect(f"{url}/runCase?case={case}&agent={agent}", max_size=None, ping_interval=None, proxy=None) as socket:
                async for message in socket:
                    await socket.send(message)


def worse(found: dict[str, dict[str, Verdict]]) -> dict[str, tuple[Verdict, Verdict]]:
    """Cases with a verdict that is a failure through the gateway and none directly."""
    direct, through = found["direct"], found["gateway"]
    assert direct
    assert direct.keys() == through.keys()
    return {
        case: (direct[case], through[case])
        for case in direct
        if any(b not in FINE and a in FINE for a, b in zip(direct[case], through[case], strict=True))
    }


def table(title: str, found: dict[str, dict[str, Verdict]]) -> str:
    """Per section how many cases got which verdicts, directly and through the gateway."""
    lines = [f"{title}", f"  {'section':<30}{'cases':>6}   {'direct':<58}through the gateway"]
    groups = sorted({case.partition(".")[0] for case in found["direct"]}, key=int)
    for group in groups:
        cells = []
        for agent in ("direct", "gateway"):
            counts = Counter(
                behaviour if close in FINE else f"{behaviour}, closed: {close}"
                for case, (behaviour, close) in found[agent].items()
                if case.partition(".")[0] == group
            )
            cells.append(", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))
        total = sum(case.partition(".")[0] == group for case in found["direct"])
        lines.append(f"  {group + ' ' + SECTIONS.get(group, ''):<30}{total:>6}   {cells[0]:<58}{cells[1]}")
    return "\n".join(lines)


async def run(cases: list[str]) -> int:
    command = await asyncio.to_thread(wstest)
    code = 0
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="verbatim-autobahn-") as name:
        folder = Path(name)
        async with (
            echoing() as echo_port,
            gateway(
                folder / "gateway", {"echo": f"http://127.0.0.1:{echo_port}", "suite": f"http://127.0.0.1:{port}"}, access_log=False
            ) as ours,
        ):
            base = f"ws://127.0.0.1:{ours.port}"
            clients = {"direct": f"ws://127.0.0.1:{echo_port}", "gateway": f"{base}/echo/"}
            servers = {"direct": f"ws://127.0.0.1:{port}", "gateway": f"{base}/suite"}
            for title in ("fuzzing client -> echo server", "echoing client -> fuzzing server"):
                left = cases
                for attempt in range(TRIES):
                    place = folder / f"{title.split()[0]}{attempt}"
                    if title.startswith("fuzzing"):
                        found = await as_clients(command, place, left, clients)
                    else:
                        found = await as_server(command, place, left, port, servers)
                    if not attempt:
                        print(table(title, found), flush=True)
                    bad = worse(found)
                    for case, (direct, through) in list(bad.items())[:SHOWN]:
                        print(f"  worse through the gateway (try {attempt + 1}): {case}: {through}, directly {direct}")
                    left = list(bad)
                    if not left:
                        break
                code |= bool(left)
                print("  no case is worse through the gateway" if not left else f"  WORSE: {', '.join(left)}", flush=True)
            code |= await recorded(ours)
    return code


async def recorded(ours: Gateway) -> int:
    """Whether recording it all went without a failure."""
    async with httpx.AsyncClient(trust_env=False) as client:
        health = (await client.get(f"{ours.url}/_verbatim/health")).json()
    print(f"{health['exchanges']['total']} websockets through the gateway, {health['capture_errors']} failures in recording them")
    return int(health["capture_errors"] > 0 or health["lost_exchanges"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="leave out what takes minutes: performance and compression")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help='such as "7.*" or 6.4.1')
    parser.add_argument("--install", action="store_true", help="only install the suite, where there is a Python for it")
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        asyncio.run(echo())
    sys.path.insert(0, str(ROOT))
    try:
        if arguments.install:
            wstest()
            return 0
        return asyncio.run(run(arguments.cases or (SHORT if arguments.short else ["*"])))
    except CannotRunError as error:
        print(error)
        return 0 if arguments.install else CANNOT


if __name__ == "__main__":
    sys.exit(main())
