"""Upstreams over TLS: verified, and broken where they break."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import trustme
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
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        self.names: list[str | None] = []
        """What was asked for by SNI."""

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

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
    """Acceptance D46."""
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
    """Acceptance D43: a TLS connection cut short."""

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


# Who we are, whom we ask for, and sessions


def secure_route(origin: Origin, certificate: Path, host: str = "127.0.0.1", **more: Any) -> dict[str, Route]:
    return {"up": Route.parse("up", f"https://{host}:{origin.port}", ca_file=str(certificate), **more)}


async def test_an_upstream_is_asked_for_by_its_name_in_http_1_1(certificate: Path) -> None:
    async with TlsOrigin(certificate) as origin:
        for host in ("localhost", "127.0.0.1"):
            async with rig(secure_route(origin, certificate, host)) as gateway:
                message, client = await gateway.ask(ASK)
                assert message.body == b"ok"
                await client.close()
        assert origin.names == ["localhost", None]  # an address is no name (RFC 6066 section 3)
        agreed = [connection.transport.get_extra_info("ssl_object") for connection in origin.connections]
        assert [one.selected_alpn_protocol() for one in agreed] == ["http/1.1", "http/1.1"]
        assert {one.version() for one in agreed} == {"TLSv1.3"}


async def test_an_upstream_older_than_tls_1_2_is_a_502(certificate: Path) -> None:
    async with TlsOrigin(certificate) as origin:
        with warnings.catch_warnings(action="ignore"):  # Python's own, of versions this old
            origin.context.minimum_version = ssl.TLSVersion.TLSv1
            origin.context.maximum_version = ssl.TLSVersion.TLSv1_1
        origin.context.set_ciphers("DEFAULT@SECLEVEL=0")
        async with rig(secure_route(origin, certificate)) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.status == 502
            assert message.values(b"x-verbatim-error") == [b"upstream_tls"]
            await client.close()


@pytest.mark.parametrize("http2", [False, True])
async def test_a_client_certificate_is_shown_to_the_upstream_that_wants_one(certificate: Path, tmp_path: Path, http2: bool) -> None:
    authority = trustme.CA()
    ours = authority.issue_cert("client@example.org")
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    async with TlsOrigin(certificate) as origin:
        origin.context.set_alpn_protocols(["http/1.1"])
        authority.configure_trust(origin.context)
        origin.context.verify_mode = ssl.CERT_REQUIRED
        shown = {"client_cert": str(tmp_path / "cert.pem"), "client_key": str(tmp_path / "key.pem")}
        async with rig(secure_route(origin, certificate, http2=http2, **shown)) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.body == b"ok"
            await client.close()
        async with rig(secure_route(origin, certificate, http2=http2)) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.status == 502
            await client.close()
        assert len(origin.requests) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("how", ["the upstream closes", "the client leaves", "idle"])
async def test_a_session_is_resumed_at_the_next_dial(certificate: Path, version: ssl.TLSVersion, how: str) -> None:
    async def think(connection: Connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await connection.wait_ended()

    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    script = {"the upstream closes": closing, "the client leaves": think, "idle": OK}[how]
    async with TlsOrigin(certificate, script) as origin:
        origin.context.maximum_version = version
        async with rig(secure_route(origin, certificate)) as gateway:
            for _ in range(3):
                client = await gateway.client()
                await client.send(ASK)
                await wait_for(lambda client=client: b"ok" in client.received)
                await client.close()
                await wait_for(lambda: not gateway.relay.exchanges)
                gateway.relay.pool.close()
        stats = origin.context.session_stats()
        assert (stats["accept_good"], stats["hits"]) == (3, 2)


async def test_a_session_the_upstream_has_forgotten_costs_a_handshake_and_no_more(certificate: Path) -> None:
    async with TlsOrigin(certificate) as origin, rig(secure_route(origin, certificate)) as gateway:
        port = origin.port
        message, client = await gateway.ask(ASK)
        await client.close()
        await wait_for(lambda: not gateway.relay.exchanges)
        gateway.relay.pool.close()
        await origin.__aexit__(None, None, None)
        restarted = TlsOrigin(certificate)
        restarted.port = port
        async with restarted:
            message, client = await gateway.ask(ASK)
            assert message.body == b"ok"
            await client.close()
            stats = restarted.context.session_stats()
            assert (stats["accept_good"], stats["hits"]) == (1, 0)


async def test_a_session_with_one_certificate_is_not_resumed_with_another(certificate: Path, tmp_path: Path) -> None:
    """A session stands for the certificates shown when it began: routes share it only where theirs are the same."""
    trustme.CA().issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    async with TlsOrigin(certificate) as origin:
        url = f"https://127.0.0.1:{origin.port}"
        plain = {name: Route.parse(name, url, ca_file=str(certificate)) for name in ("up", "same")}
        other = Route.parse("other", url, ca_file=str(certificate), client_cert=str(tmp_path / "both.pem"))
        async with rig({**plain, "other": other}) as gateway:
            for name, hits in ((b"up", 0), (b"same", 1), (b"other", 1)):
                message, client = await gateway.ask(ASK.replace(b"/up/", b"/" + name + b"/"))
                assert message.body == b"ok"
                await client.close()
                await wait_for(lambda: not gateway.relay.exchanges)
                assert origin.context.session_stats()["hits"] == hits
