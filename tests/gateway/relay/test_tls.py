"""Upstreams over TLS: verified, and broken where they break."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, final, rig

from gateway.routes import Route

ASK = b"GET /up/x HTTP/1.1\r\nHost: a\r\n\r\n"


class TlsOrigin(Origin):
    """An origin behind TLS."""

    def __init__(self, certificate: Path, *scripts, keep: bool = True) -> None:
        super().__init__(*scripts, keep=keep)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        self._context.set_alpn_protocols(["h2", "http/1.1"])

    async def __aenter__(self) -> TlsOrigin:
        self._server = await asyncio.get_running_loop().create_server(self._accept, self.host, self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and localhost, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "test.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(signed.public_bytes(pem) + private)
    return path


def route(origin: Origin, ca_file: Path | str = "", host: str = "127.0.0.1") -> dict[str, Route]:
    return {"up": Route.parse("up", f"https://{host}:{origin.port}", ca_file=str(ca_file))}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_route_with_a_ca_file_trusts_what_it_signed(certificate: Path, host: str) -> None:
    body = b"x" * 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body
    async with TlsOrigin(certificate, answer) as origin, rig(route(origin, certificate, host)) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.body == body
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + body)
        assert (await final(client)).body == body
        await client.close()
        assert origin.requests[1].body == body
        assert origin.requests[0].values(b"host") == [f"{host}:{origin.port}".encode()]
        assert len(origin.connections) == 1


async def test_an_untrusted_certificate_is_a_502(certificate: Path) -> None:
    async with TlsOrigin(certificate) as origin, rig(route(origin)) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        assert message.values(b"x-verbatim-error") == [b"upstream_tls"]
        assert b"not trusted" in message.body
        await client.close()
        assert origin.requests == []


async def test_a_certificate_for_another_name_is_a_502(certificate: Path) -> None:
    async with TlsOrigin(certificate) as origin, rig(route(origin, certificate, "localhost.localdomain")) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        assert message.values(b"x-verbatim-error")[0] in {b"upstream_tls", b"upstream_dns"}
        await client.close()
        assert origin.requests == []


async def test_an_upstream_without_tls_where_it_is_expected_is_a_502() -> None:
    async def plain(connection: Connection, _) -> None:
        raise AssertionError

    async with Origin(plain) as origin:

        async def hello(connection: Connection) -> None:
            await wait_for(lambda: connection.received)
            await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        origin.handler = hello
        async with rig(route(origin)) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.status == 502
            assert message.values(b"x-verbatim-error") == [b"upstream_tls"]
            await client.close()


async def test_an_unreadable_ca_file_is_a_502_and_no_traceback(tmp_path: Path) -> None:
    nothing = tmp_path / "ca.pem"
    for content in (None, b"no certificate"):
        if content is not None:
            nothing.write_bytes(content)
        async with rig({"up": Route.parse("up", "https://127.0.0.1:1", ca_file=str(nothing))}) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.status == 502
            await client.close()


async def test_a_close_delimited_answer_needs_the_end_that_tls_says(certificate: Path) -> None:
    async def whole(connection: Connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await connection.close()  # says close_notify

    async def cut(connection: Connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await wait_for(lambda: b"all of it" in client.received)
        connection.transport.abort()  # says nothing

    async with TlsOrigin(certificate, whole, cut) as origin, rig(route(origin, certificate)) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).body == b"all of it"
        await client.close()
        client = await gateway.client()
        await client.send(ASK)
        received = await client.read_to_end()
        assert not received.endswith(b"0\r\n\r\n")
        await client.close()
    assert [kept.end.reason for kept in await gateway.ended(2) if kept.end] == ["complete", "upstream_closed"]


async def test_a_stream_over_tls_arrives_event_by_event_and_ends_with_its_client(certificate: Path) -> None:
    async def stream(connection: Connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            await connection.send(b"3\r\n%d\n\n\r\n" % number)
            await wait_for(lambda number=number: b"%d\n\n" % number in client.received)
        await connection.wait_ended()

    async with TlsOrigin(certificate, stream, OK) as origin, rig(route(origin, certificate)) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await client.read_until(b"4\n\n")
        await client.close()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof, deadline=1.0)
