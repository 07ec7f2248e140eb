"""Peers that vanish without a word: a closed laptop, a pulled cable, a machine that is gone. In a network of its own, as root."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from rawsockets import Connection, wait_for
from relayrig import Origin, Rig, rig
from uvicorn.server import ServerState

from gateway import dialing, presence
from gateway.serving import listen

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"

UPSTREAM = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
peer.recv(65536)
peer.sendall({head!r} if sys.argv[2] == "answers" else b"")
print("ready", flush=True)
sys.stdin.read()
"""
"""Takes one request, begins to answer it or not, reads no more."""

CLIENT = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
peer.sendall(b"GET /up/x HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
while b"ok" not in peer.recv(65536): pass
print("ready", flush=True)
sys.stdin.read()
"""


numbers = itertools.count()


class Network:
    """Another machine, as far as TCP can tell, on a wire that can be cut."""

    def __init__(self, number: int) -> None:
        self.name = f"vb{os.getpid() % 100_000}-{number}"
        self.here, self.there = f"10.231.{number}.1", f"10.231.{number}.2"
        self._peers: list[subprocess.Popen[str]] = []

    def make(self) -> None:
        link = self.name[-15:]
        ip("netns", "add", self.name)
        ip("link", "add", link, "type", "veth", "peer", "name", "far", "netns", self.name)
        ip("addr", "add", f"{self.here}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", self.name, "addr", "add", f"{self.there}/30", "dev", "far")
        ip("-n", self.name, "link", "set", "far", "up")

    def run(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", script, *arguments]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._peers.append(peer)
        return peer

    def cut(self) -> None:
        """From now on nothing comes back from there: no answer, no acknowledgement, no reset."""
        ip("-n", self.name, "route", "add", "blackhole", f"{self.here}/32")

    def remove(self) -> None:
        for peer in self._peers:
            peer.kill()
            peer.communicate()
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root and iproute2")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    made = Network(100 + 20 * int(worker.removeprefix("gw")) % 140 + next(numbers))  # a removed network's link lives a moment longer
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"no network of its own here: {error.stderr.decode().strip()}")
    yield made
    made.remove()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes seconds."""
    for name in ("KEEPALIVE_IDLE", "KEEPALIVE_EVERY", "KEEPALIVE_COUNT"):
        monkeypatch.setattr(dialing, name, 1)
    monkeypatch.setattr(presence, "PATIENCE", 1.5)
    monkeypatch.setattr(presence, "LOOK_EVERY", 0.1)
    monkeypatch.setattr("gateway.relay.TICK", 0.05)


async def line(peer: subprocess.Popen[str]) -> str:
    assert peer.stdout is not None
    return (await asyncio.to_thread(peer.stdout.readline)).strip()


@contextlib.asynccontextmanager
async def reachable(gateway: Rig, host: str) -> AsyncIterator[int]:
    """The gateway on this address too, on a listener such as `verbatim serve` makes."""
    listener = await asyncio.to_thread(listen, host, 0, "port")
    config = uvicorn.Config("x:y", log_config=None)
    protocol = functools.partial(gateway.relay.protocol, config, ServerState(), {})
    server = await asyncio.get_running_loop().create_server(protocol, sock=listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("begun", ["answers", "is silent"])
async def test_an_upstream_that_vanishes_while_it_is_awaited_is_noticed(network: Network, begun: str) -> None:
    """Nothing is owed: keep-alive asks."""
    peer = network.run(UPSTREAM.format(head=HEAD), network.there, begun)
    async with rig(f"http://{network.there}:{await line(peer)}") as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await line(peer) == "ready"
        await wait_for(lambda: begun != "answers" or b"ok" in client.received)
        await asyncio.to_thread(network.cut)
        if begun == "answers":
            assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
        else:
            assert (await client.read_message(answers=b"GET")).status == 502
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"
    assert "vanished" in kept.end.detail


async def test_an_upstream_that_vanishes_during_an_upload_is_noticed(network: Network) -> None:
    """Bytes are owed an acknowledgement: the relay looks how long for."""
    peer = network.run(UPSTREAM.format(head=HEAD), network.there, "is silent")
    async with rig(f"http://{network.there}:{await line(peer)}") as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        assert await line(peer) == "ready"
        await asyncio.to_thread(network.cut)
        await client.send(bytes(1000))
        assert (await client.read_message(answers=b"POST")).status == 502
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"


@pytest.mark.parametrize("while_", ["idle", "streaming"])
async def test_a_client_that_vanishes_frees_its_upstream(network: Network, while_: str) -> None:
    async def stream(connection: Connection, _: object) -> None:
        await connection.send(HEAD)
        if while_ == "streaming":
            with contextlib.suppress(ConnectionError):
                while True:
                    await connection.send(b"2\r\nok\r\n")
                    await asyncio.sleep(0.05)
        await connection.wait_ended()

    async with Origin(stream) as origin, rig(origin) as gateway, reachable(gateway, network.here) as port:
        peer = network.run(CLIENT, network.here, str(port))
        assert await line(peer) == "ready"
        await asyncio.to_thread(network.cut)
        await wait_for(lambda: origin.connections[0].eof or origin.connections[0].lost)
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"


async def test_a_client_that_is_there_and_does_not_read_is_waited_for() -> None:
    """As a cable would: it acknowledges that its window is closed."""

    async def flood(connection: Connection, _: object) -> None:
        with contextlib.suppress(ConnectionError):
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n" + bytes(40_000_000))
        await connection.wait_ended()

    async with Origin(flood) as origin, rig(origin) as gateway:
        client = await gateway.client()
        client.pause()
        await client.send(b"GET /up/x HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_for(lambda: gateway.relay.presence._doubted)  # the window is closed, and TCP asks whether it is open
        loop = asyncio.get_running_loop()
        until = loop.time() + 3.0  # twice the patience
        await wait_for(lambda: loop.time() > until or not gateway.relay.exchanges)
        assert gateway.relay.exchanges
        client.resume()
        assert len((await client.read_message(answers=b"GET")).body) == 40_000_000
        await client.close()
