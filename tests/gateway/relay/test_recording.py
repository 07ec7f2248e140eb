"""Recording never shows on the wire: not when it fails, not when it is full."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from rawsockets import Connection, wait_for
from relayrig import Origin, RawUpstream, Recording, final, rig

from archive.record import Record
from gateway import exchange
from gateway.capture import Capture
from gateway.client import ClientConnection
from gateway.relay import Relay
from gateway.upstream import Connection as Upstream

POST = b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
FAILING = ["request_head", "request_data", "request_end", "response_head", "response_data", "response_end", "end", "cut", "tick"]


@pytest.mark.parametrize("method", FAILING)
async def test_a_failure_in_recording_changes_nothing_for_the_client(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Acceptance D58."""

    def fail(*args: object, **more: object) -> None:
        raise ValueError("canary")

    monkeypatch.setattr(Capture, method, fail)
    monkeypatch.setattr("gateway.relay.TICK", 0.01)

    async def slowly(connection: Connection, _) -> None:
        await connection.send(ANSWER[:-5])
        await asyncio.sleep(0.05)
        await connection.send(ANSWER[-5:])

    async with Origin(slowly) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(3):
            await client.send(POST)
            assert (await final(client)).body == b"ok"
        await client.close()
        assert len(origin.connections) == 1
        assert gateway.relay.counters.capture_errors == 3
        expected = [problem for problem in gateway.problems if "recording failed" in problem]
        assert len(expected) == 1  # once, not for each
        gateway.problems.clear()
    assert "canary" not in caplog.text


@pytest.mark.parametrize("name", ["redact_headers", "redact_target"])
async def test_a_failure_in_redaction_records_nothing_rather_than_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance D58, G95."""

    def fail(*args: object) -> None:
        raise ValueError("canary")

    monkeypatch.setattr(f"gateway.capture.{name}", fail)
    async with Origin(ANSWER) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(POST)
        assert message.body == b"ok"
        await client.close()
        gateway.problems.clear()
    assert gateway.recording.records == []


async def test_a_recorder_that_raises_changes_nothing_for_the_client() -> None:
    """Acceptance D58."""

    class Broken:
        exchanges = ()

        def put(self, record: Record, *, may_wait: bool = False) -> bool:
            raise OSError("disk")

    async with Origin(ANSWER) as origin, rig(origin, recording=Broken()) as gateway:
        message, client = await gateway.ask(POST)
        assert message.body == b"ok"
        await client.close()
        assert gateway.relay.counters.capture_errors == 1
        gateway.problems.clear()


class Full(Recording):
    """Has no room while `full`; records that may not wait any longer are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.dropped = 0

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        if not self.full:
            return super().put(record)
        if may_wait:
            return False
        self.dropped += 1
        return True


async def test_a_full_queue_holds_only_the_exchange_that_fills_it_and_not_for_long() -> None:
    recording = Full()
    async with Origin(ANSWER) as origin, rig(origin, recording=recording) as gateway:
        client = await gateway.client()
        started = time.monotonic()
        await client.send(POST)
        assert (await final(client)).body == b"ok"  # what there is goes out first
        assert recording.dropped == 0
        await client.send(POST)
        assert (await final(client)).body == b"ok"  # only the next waits
        assert recording.dropped == 1
        assert time.monotonic() - started >= 0.2
        recording.full = False
        await gateway.ended(1)
        await client.send(POST)
        assert (await final(client)).body == b"ok"
        await client.close()
    assert recording.dropped == 1
    assert len(recording.exchanges) == 2


async def test_a_failure_while_a_record_waits_lets_its_exchange_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> bool:
        raise ValueError("canary")

    monkeypatch.setattr(Capture, "offer", fail)
    async with Origin(ANSWER) as origin, rig(origin, recording=Full()) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(POST)
            assert (await final(client)).body == b"ok"
        await client.close()
        await wait_for(lambda: not gateway.relay.exchanges)
        assert gateway.relay.counters.capture_errors == 2
        gateway.problems.clear()


async def test_a_client_that_leaves_while_its_record_waits_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HOLD_AT_MOST", 1.5)  # time enough to leave while it waits, on a slow machine too
    recording = Full()
    async with Origin(ANSWER) as origin, rig(origin, recording=recording) as gateway:
        client = await gateway.client()
        await client.send(POST + POST)
        assert (await final(client)).body == b"ok"
        await client.reset()
        await wait_for(lambda: recording.dropped == 1)
        assert len(origin.requests) == 1


async def test_a_record_that_waits_at_the_end_is_offered_a_last_time() -> None:
    recording = Full()
    async with Origin(ANSWER) as origin, rig(origin, recording=recording) as gateway:
        message, client = await gateway.ask(POST)
        assert message.body == b"ok"
        await gateway.relay.stop()
        assert recording.dropped == 1
        await client.close()


async def test_without_recording_all_is_as_with_it() -> None:
    def off(relay: Relay) -> None:
        relay.recording = None

    async def refuse(connection: Connection) -> None:
        await connection.read_head()

    async with Origin(ANSWER) as origin, RawUpstream(refuse) as broken, rig({"up": origin.url, "no": broken.url}, wrap=off) as gateway:
        message, client = await gateway.ask(POST)
        assert message.body == b"ok"
        assert len(message.values(b"x-verbatim-id")[0]) == 36
        await client.send(POST.replace(b"/up", b"/no"))
        assert (await final(client)).status == 502
        await client.close()
    assert gateway.recording.records == []


class Spy:
    """A transport that says when it is written to."""

    def __init__(self, transport: asyncio.BaseTransport, order: list[str], word: str) -> None:
        self._transport, self._order, self._word = transport, order, word

    def write(self, data: bytes) -> None:
        self._order.append(self._word)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_every_chunk_goes_out_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for made, word in ((ClientConnection, "to the client"), (Upstream, "to the upstream")):
        real = made.connection_made
        monkeypatch.setattr(made, "connection_made", lambda self, transport, real=real, word=word: real(self, Spy(transport, order, word)))
    for name in ("request_data", "response_data"):
        told = getattr(Capture, name)
        monkeypatch.setattr(Capture, name, lambda *args, told=told, name=name: (order.append(name), told(*args)))
    async with Origin(ANSWER) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(POST)
            assert (await final(client)).body == b"ok"
        await client.close()
    assert order[-4:] == ["to the upstream", "request_data", "to the client", "response_data"]
