"""Only the configuration says where a request goes."""

from __future__ import annotations

import pytest
from relayrig import OK, Origin, final, rig

from gateway.relay import Relay
from gateway.routes import Route

TARGETS = [
    b"http://EVIL/up/x",
    b"https://EVIL:443/up/x?y",
    b"http://[::1]:1/up/x",
    b"http://2130706433/up/x",
    b"HTTP://EVIL/up/x",
    b"/up/@EVIL/x",
    b"/up/\\EVIL/x",
    b"/up//EVIL/x",
    b"/up/http://EVIL/x",
    b"/up/..//EVIL",
    b"/up/%00@EVIL",
    b"/up/x?api_base=http://EVIL&base_url=http://EVIL",
    b"/up?http://EVIL",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_no_target_chooses_another_upstream(target: bytes) -> None:
    """Acceptance H99, C34."""
    async with Origin() as evil, Origin() as origin, rig(origin) as gateway:
        target = target.replace(b"EVIL", b"127.0.0.1:%d" % evil.port)
        message, client = await gateway.ask(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert message.status == 200
        await client.close()
        assert evil.connections == []
        (request,) = origin.requests
        assert request.target.startswith((b"/", b"?"))
        assert request.values(b"host") == [b"127.0.0.1:%d" % origin.port]


@pytest.mark.parametrize(
    "target",
    [
        b"EVIL",
        b"http://user:pass@EVIL/up/x",  # user information names nobody to us (RFC 9110 section 4.2.4)
        b"http://EVIL@EVIL/up/x",
        b"@EVIL",
        b"\\EVIL",
        b"up/x",
        b"/%2f%2fEVIL/up",
        b"/up%00@EVIL/x",
        b"/up%40EVIL/x",
        b"/up:80@EVIL/",
        b"/[::ffff:127.0.0.1]/up",
        b"/0x7f000001/up",
        b"/2130706433/up",
        b"/~/up/x",
        b"/~~/~/EVIL",
        b"/./up/x",
        b"/up;@EVIL/x",
        b"ftp://EVIL/evil/x",
        b"ws://EVIL/../up/x",
        b"http:\\\\EVIL/up",
        b"///EVIL/up",
        b"http:/EVIL/up",
        b"//EVIL/up/x",
        b"/EVIL/up",
        b"/up%2fx",
        b"/UP/x",
        b"/up\\@EVIL",
        b"/up@EVIL",
        b"http://EVIL",
        b"?",
        b"/..",
    ],
)
async def test_what_names_no_route_reaches_no_upstream(target: bytes) -> None:
    """Acceptance H99."""
    async with Origin() as evil, Origin() as origin, rig(origin) as gateway:
        target = target.replace(b"EVIL", b"127.0.0.1:%d" % evil.port)
        message, client = await gateway.ask(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert message.status in {400, 404} or target.startswith(b"http://")  # the authority alone is the gateway's own front page
        await client.wait_ended()
        await client.close()
        assert evil.connections == origin.connections == []


async def test_no_header_or_body_chooses_another_upstream() -> None:
    """Acceptance H99."""
    async with Origin() as evil, Origin() as origin, rig(origin) as gateway:
        place = b"http://127.0.0.1:%d" % evil.port
        names = (
            b"X-Upstream",
            b"X-Forwarded-Host",
            b"Forwarded",
            b"X-Original-URL",
            b"X-Rewrite-URL",
            b"X-Target-Url",
            b"Helicone-Target-Url",
            b"api_base",
        )
        fields = b"".join(name + b": " + place + b"\r\n" for name in names)
        body = b'{"api_base": "%b", "base_url": "%b"}' % (place, place)
        message, client = await gateway.ask(
            b"POST /up/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%bContent-Length: %d\r\n\r\n%b" % (evil.port, fields, len(body), body)
        )
        assert message.status == 200
        await client.close()
        assert evil.connections == []
        assert origin.requests[0].body == body


async def test_an_absolute_form_never_goes_upstream() -> None:
    """Acceptance C34."""
    async with Origin(OK) as origin, rig(origin) as gateway:
        for target in (b"http://gateway/up/a//b?c=%20", b"http://gateway:8787/up", b"http://gateway/up?x"):
            _, client = await gateway.ask(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
            await client.close()
        assert [request.target for request in origin.requests] == [b"/a//b?c=%20", b"/", b"/?x"]


TOKEN = "a-relay-token-of-32-characters--"
PLAIN = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n"


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (b"/~~TOKEN/up/v1/models?x=1", b""),
        (b"/~~TOKEN/~mine/up/v1/models?x=1", b""),
        (b"/up/v1/models?x=1", b"X-Verbatim-TOKEN: TOKEN\r\n"),
        (b"http://a/~~TOKEN/up/v1/models?x=1", b"x-verbatim-token: TOKEN\r\n"),
    ],
)
async def test_the_token_opens_the_relay_and_reaches_no_one(target: bytes, fields: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Acceptance H105."""
    lines: list[str] = []

    class Lines:
        def line(self, *fields: object) -> None:
            lines.append(repr(fields))

    def logged(relay: Relay) -> None:
        relay._access_log = Lines()  # type: ignore[assignment]

    asked = PLAIN % (target, fields)
    async with Origin() as origin, rig(origin, relay_token=TOKEN, wrap=logged) as gateway:
        message, client = await gateway.ask(asked.replace(b"TOKEN: ", b"Token: ").replace(b"TOKEN", TOKEN.encode()))
        assert message.status == 200
        await client.close()
        assert origin.requests[0].target == b"/v1/models?x=1"
        assert TOKEN.encode() not in bytes(origin.connections[0].received)
        assert b"token" not in bytes(origin.connections[0].received).lower()
        assert TOKEN.encode() not in client.received
    kept = await gateway.only()
    assert kept.request.target == target.removeprefix(b"http://a").replace(b"/~~TOKEN", b"") or target.startswith(b"http://")
    assert TOKEN not in repr([(part.request, part.response, part.redactions, part.client) for part in kept.parts])
    assert lines
    assert TOKEN not in "".join(lines) + caplog.text


@pytest.mark.parametrize(
    ("shape", "kind"), [("openai", "invalid_request_error"), ("anthropic", "authentication_error"), ("gemini", "UNAUTHENTICATED")]
)
async def test_without_the_token_nobody_is_asked(shape: str, kind: str) -> None:
    """Acceptance H105."""
    async with Origin() as origin, rig({"up": Route.parse("up", origin.url, shape=shape)}, relay_token=TOKEN) as gateway:
        body = b"x" * 100
        for asked, code in (
            (PLAIN % (b"/up/v1", b""), b"token_missing"),
            (PLAIN % (b"/up/v1", b"X-Verbatim-Token: a-guess\r\n"), b"token_wrong"),
            (PLAIN % (b"/~~a-guess/up/v1", b""), b"token_wrong"),
            (b"POST /up/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + body, b"token_missing"),
            (b"POST /up/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + body, b"token_missing"),
            (PLAIN % (b"/up/v1", HANDSHAKE), b"token_missing"),
        ):
            message, client = await gateway.ask(asked)
            assert message.status == 401
            assert message.values(b"x-verbatim-error") == [code]
            assert len(message.values(b"www-authenticate")) == 1
            assert message.values(b"content-length") == [b"%d" % len(message.body)]
            assert kind in message.body.decode()
            assert "x-verbatim-token" in message.body.decode()
            assert "a-guess" not in message.body.decode()
            await client.close()
        message, client = await gateway.ask(PLAIN % (b"/", b""))  # the own page names upstreams
        assert message.status == 401
        await client.close()
        message, client = await gateway.ask(PLAIN % (b"/_verbatim/health", b""))
        assert message.status == 200
        await client.wait_ended()
        await client.close()
        assert origin.connections == []
        assert gateway.relay.counters.refused == 7
    assert gateway.recording.exchanges == []


async def test_a_refused_client_s_connection_stays_usable_when_its_request_is_whole() -> None:
    async with Origin() as origin, rig(origin, relay_token=TOKEN) as gateway:
        client = await gateway.client()
        good = PLAIN % (b"/up/v1", b"X-Verbatim-Token: %b\r\n" % TOKEN.encode())
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" + good + PLAIN % (b"/up/v1", b"") + good)
        assert [(await final(client)).status for _ in range(4)] == [401, 200, 401, 200]
        await client.close()
        assert len(origin.requests) == 2


async def test_a_client_set_up_for_a_token_may_use_a_gateway_without() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(PLAIN % (b"/~~some-token/up/v1", b""))
        assert message.status == 200
        await client.close()
        assert origin.requests[0].target == b"/v1"
    assert (await gateway.only()).request.target == b"/up/v1"


HANDSHAKE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Origin: https://evil.example\r\n",
        b"Origin: null\r\n",
        b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
        b"Origin: https://evil.example\r\n" + HANDSHAKE,
        b"Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n",
    ],
)
async def test_a_web_page_reaches_no_upstream(fields: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Acceptance H106: requests, images, websockets, and the question before."""
    async with Origin() as origin, rig(origin) as gateway:
        for start in (b"GET", b"OPTIONS"):
            message, client = await gateway.ask(start + b" /up/api/tags HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
            assert message.status == 403
            assert message.values(b"x-verbatim-error") == [b"origin_refused"]
            assert not [name for name, _ in message.fields if name.lower().startswith(b"access-control")]
            await client.close()
        body = b"POST /up/api/chat HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n" + fields.replace(
            HANDSHAKE, b""
        )
        message, client = await gateway.ask(body + b"\r\nhi")
        assert message.status == 403
        await client.close()
        assert origin.connections == []
        assert "allow_origins" in caplog.text
    assert gateway.recording.exchanges == []


async def test_pages_that_are_allowed_and_programs_with_odd_origins_pass_untouched() -> None:
    """Acceptance H106."""
    async with Origin() as origin, rig(origin, allow_origins="https://chat.example") as gateway:
        for value in (b"https://chat.example", b"vscode-file://vscode-app", b"app://obsidian.md", b"http://localhost:3000"):
            message, client = await gateway.ask(PLAIN % (b"/up/v1", b"Origin: %b\r\nSec-Fetch-Site: cross-site\r\n" % value))
            assert message.status == 200
            await client.close()
            assert origin.requests[-1].values(b"origin") == [value]
            assert origin.requests[-1].values(b"sec-fetch-site") == [b"cross-site"]
