"""The second path's surroundings, for tests: real proxies and a real HTTP/2 origin, in the test's own loop, on free ports.

`through` runs the gateway on one of `PATHS` to an ordinary scripted origin, so that one suite can ask the same of every path.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import datetime
import functools
import ipaddress
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.errors import ErrorCodes
from rawsockets import Connection, RawUpstream, _pump, connect
from readback import parse_head
from relayrig import Rig, rig

from gateway.routes import Route

__all__ = ["PATHS", "H2Origin", "HttpProxy", "Socks5Proxy", "certificate", "h2_route", "through"]

PATHS = ("wire", "http1", "socks5", "h2")
"""The wire; the second path to an upstream without TLS to agree on HTTP/2 in, and to one with; and the wire again, through a proxy."""


@functools.cache
def certificate() -> Path:
    """A self-signed certificate for 127.0.0.1 and localhost with its key, in one file; as `ca_file` it trusts itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with tempfile.NamedTemporaryFile(suffix=".pem", delete=False) as file:
        file.write(signed.public_bytes(pem) + private)
    path = Path(file.name)
    atexit.register(path.unlink)
    return path


def h2_route(port: int, **more: Any) -> Route:
    """The route "up" to an HTTP/2 origin of ours."""
    return Route.parse("up", f"https://127.0.0.1:{port}", http2=True, ca_file=str(certificate()), **more)


@contextlib.asynccontextmanager
async def through(path: str, origin: RawUpstream, **settings: Any) -> AsyncIterator[Rig]:
    """The gateway with the route "up" to `origin` on one of `PATHS`."""
    async with contextlib.AsyncExitStack() as stack:
        route = Route.parse("up", origin.url)
        if path == "http1":
            route = Route.parse("up", origin.url, http2=True)
        elif path == "socks5":
            proxy = await stack.enter_async_context(Socks5Proxy())
            route = Route.parse("up", origin.url, proxy=f"socks5://127.0.0.1:{proxy.port}")
        elif path == "h2":
            front = await stack.enter_async_context(H2Origin(origin.port))
            route = h2_route(front.port)
        yield await stack.enter_async_context(rig({"up": route}, **settings))


async def _pumped(client: Connection, server: Connection) -> None:
    """Pass bytes both ways, with ends and resets, until both are done."""
    pumps = [asyncio.create_task(_pump(a, b, bytearray())) for a, b in ((client, server), (server, client))]
    try:
        await asyncio.gather(*pumps)
    finally:
        for end in (server, client):  # before anything is awaited: this task may be cancelled once more
            end.transport.close()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class Socks5Proxy(RawUpstream):
    """SOCKS5 (RFC 1928), CONNECT only; with `login` it asks for name and password (RFC 1929). `asked` is what it was to reach."""

    def __init__(self, *, login: tuple[bytes, bytes] | None = None, refuse: int = 0) -> None:
        super().__init__(self._serve)
        self.asked: list[tuple[bytes, int]] = []
        self._login = login
        self._refuse = refuse

    async def _serve(self, client: Connection) -> None:
        _, count = await client.read_exactly(2)
        methods = await client.read_exactly(count)
        method = 2 if self._login else 0
        if method not in methods:
            await client.send(b"\x05\xff")
            return
        await client.send(bytes((5, method)))
        if self._login:
            _, size = await client.read_exactly(2)
            name = await client.read_exactly(size)
            password = await client.read_exactly((await client.read_exactly(1))[0])
            await client.send(b"\x01" + (b"\x00" if (name, password) == self._login else b"\x01"))
        _, _, _, kind = await client.read_exactly(4)
        if kind == 3:
            host = await client.read_exactly((await client.read_exactly(1))[0])
        else:
            host = str(ipaddress.ip_address(await client.read_exactly(4 if kind == 1 else 16))).encode()
        port = int.from_bytes(await client.read_exactly(2))
        self.asked.append((host, port))
        await client.send(bytes((5, self._refuse, 0, 1)) + bytes(6))
        if not self._refuse:
            await _pumped(client, await connect(port, host.decode()))


class HttpProxy(RawUpstream):
    """An HTTP proxy: tunnels for CONNECT, and one plain request in absolute form per connection. `heads`: as they came."""

    def __init__(self, *, refuse: bytes = b"") -> None:
        super().__init__(self._serve)
        self.heads: list[bytes] = []
        self._refuse = refuse

    async def _serve(self, client: Connection) -> None:
        head = await client.read_head()
        self.heads.append(head)
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        if self._refuse:
            await client.send(self._refuse)
            return
        if method == b"CONNECT":
            host, _, port = target.partition(b":")
            server = await connect(int(port), host.decode())
            await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            authority, _, rest = target.removeprefix(b"http://").partition(b"/")
            server = await connect(int(authority.partition(b":")[2] or 80))
            await server.send(head.replace(target, b"/" + rest, 1))
        await _pumped(client, server)


_H2 = h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)  # which joins cookies


class H2Origin(RawUpstream):
    """HTTP/2 over TLS (RFC 9113) in front of a scripted HTTP/1.1 origin: each stream becomes a connection to it, bytes as they come.

    An answer that breaks becomes RST_STREAM; a stream or connection that ends early breaks the connection to the origin.
    """

    def __init__(self, port: int, *, alpn: tuple[str, ...] = ("h2",)) -> None:
        super().__init__(self._serve)
        self.target = port
        self.streams: list[H2Stream] = []
        self.pseudo: list[dict[bytes, bytes]] = []
        """The pseudo-header fields of each request."""
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate())
        self._context.set_alpn_protocols(list(alpn))

    async def __aenter__(self) -> H2Origin:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, self.host, self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, client: Connection) -> None:
        state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
        )
        state.initiate_connection()
        await client.send(state.data_to_send())
        streams: dict[int, H2Stream] = {}
        try:
            while not (client.eof or client.lost):
                client._news.clear()
                for event in state.receive_data(client._consume(len(client.received) - client.position)):
                    number = getattr(event, "stream_id", 0) or 0
                    if isinstance(event, h2.events.RequestReceived):
                        streams[number] = stream = H2Stream(self, client, state, number, event.headers)
                        self.streams.append(stream)
                    elif isinstance(event, h2.events.DataReceived):
                        streams[number].uploaded(event.data, event.flow_controlled_length)
                    elif isinstance(event, h2.events.StreamEnded):
                        streams[number].uploaded(None, 0)
                    elif isinstance(event, h2.events.StreamReset) and number in streams:
                        streams[number].stop()
                    elif isinstance(event, h2.events.WindowUpdated):
                        for stream in streams.values():
                            stream.window.set()
                await client.send(state.data_to_send())
                if not (client.eof or client.lost) and client.position == len(client.received):
                    await client._news.wait()
        finally:
            for stream in streams.values():
                stream.stop()
            await asyncio.gather(*(stream.task for stream in streams.values()), return_exceptions=True)


class H2Stream:
    """One request over HTTP/2, passed on to the origin behind."""

    def __init__(
        self, front: H2Origin, client: Connection, state: h2.connection.H2Connection, number: int, fields: list[tuple[bytes, bytes]]
    ) -> None:
        self.window = asyncio.Event()
        self.sent = 0
        self.fields = [field for field in fields if not field[0].startswith(b":")]
        self._front = front
        self._client = client
        self._state = state
        self._number = number
        self._pseudo = {name: value for name, value in fields if name.startswith(b":")}
        front.pseudo.append(self._pseudo)
        self._body: asyncio.Queue[tuple[bytes | None, int]] = asyncio.Queue()
        self.task = asyncio.create_task(self._run())

    def uploaded(self, data: bytes | None, size: int) -> None:
        self._body.put_nowait((data, size))

    def stop(self) -> None:
        self.task.cancel()

    async def _run(self) -> None:
        origin = await connect(self._front.target)
        upload = asyncio.create_task(self._upload(origin))
        try:
            await self._answer(origin)
        except ConnectionError:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._state.reset_stream(self._number, ErrorCodes.INTERNAL_ERROR)
                await self._flush()
        finally:
            origin.transport.abort()
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self, origin: Connection) -> None:
        pseudo = self._pseudo
        lines = [b"%b %b HTTP/1.1" % (pseudo[b":method"], pseudo[b":path"]), b"host: " + pseudo[b":authority"]]
        lines += [name + b": " + value for name, value in self.fields]
        first = None
        chunked = False
        if not any(name == b"content-length" for name, _ in self.fields):
            first = await self._body.get()
            chunked = first[0] is not None
            if chunked:
                lines.append(b"transfer-encoding: chunked")
        await origin.send(b"\r\n".join([*lines, b"", b""]))
        while True:
            data, size = first or await self._body.get()
            first = None
            if data is None:
                break
            await origin.send(b"%x\r\n%b\r\n" % (len(data), data) if chunked and data else data)
            if size:
                self._state.acknowledge_received_data(size, self._number)
                await self._flush()
        if chunked:
            await origin.send(b"0\r\n\r\n")

    async def _answer(self, origin: Connection) -> None:
        head = b"HTTP/1.1 1"
        while head.startswith(b"HTTP/1.1 1"):  # interim answers stay here
            head = await origin.read_head()
        start, fields = parse_head(head)
        status = start.split(b" ")[1]
        lower = {name.lower(): value for name, value in fields}
        hops = (b"transfer-encoding", b"connection", b"keep-alive")
        cross = [(b":status", status), *[(name.lower(), value) for name, value in fields if name.lower() not in hops]]
        length = int(lower.get(b"content-length", -1))
        bodiless = self._pseudo[b":method"] == b"HEAD" or status in (b"204", b"304") or not length
        self._state.send_headers(self._number, cross, end_stream=bodiless)
        await self._flush()
        if bodiless:
            return
        if b"transfer-encoding" in lower:
            while size := int((await origin.read_until(b"\r\n"))[:-2], 16):
                await self._piece(await origin.read_exactly(size))
                await origin.read_until(b"\r\n")
        elif length > 0:
            for at in range(0, length, 50_000):
                await self._piece(await origin.read_exactly(min(50_000, length - at)))
        else:
            await self._piece(await origin.read_to_end())
            if origin.error is not None:
                raise ConnectionError
        self._state.end_stream(self._number)
        await self._flush()

    async def _piece(self, data: bytes) -> None:
        self._state.send_data(self._number, b"")  # allowed anywhere, and the end of nothing
        while data:
            room = min(self._state.local_flow_control_window(self._number), self._state.max_outbound_frame_size)
            if room <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            self._state.send_data(self._number, data[:room])
            self.sent += len(data[:room])
            data = data[room:]
            await self._flush()

    async def _flush(self) -> None:
        await self._client.send(self._state.data_to_send())
