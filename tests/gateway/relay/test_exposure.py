"""Only the configuration says where a request goes."""

from __future__ import annotations

import pytest
from relayrig import OK, Origin, rig

TARGETS = [
    b"http://EVIL/up/x",
    b"http://user:pass@EVIL/up/x",
    b"https://EVIL:443/up/x?y",
    b"http://EVIL@EVIL/up/x",
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
        b"@EVIL",
        b"\\EVIL",
        b"up/x",
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
    async with Origin() as evil, Origin() as origin, rig(origin) as gateway:
        target = target.replace(b"EVIL", b"127.0.0.1:%d" % evil.port)
        message, client = await gateway.ask(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert message.status in {400, 404} or target.startswith(b"http://")  # the authority alone is the gateway's own front page
        await client.wait_ended()
        await client.close()
        assert evil.connections == origin.connections == []


async def test_no_header_or_body_chooses_another_upstream() -> None:
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
    async with Origin(OK) as origin, rig(origin) as gateway:
        for target in (b"http://gateway/up/a//b?c=%20", b"http://gateway:8787/up", b"http://gateway/up?x"):
            _, client = await gateway.ask(b"GET " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
            await client.close()
        assert [request.target for request in origin.requests] == [b"/a//b?c=%20", b"/", b"/?x"]
