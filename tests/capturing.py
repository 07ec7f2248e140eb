"""Exchanges for the capture's tests: heads without a socket, a recorder that remembers, one exchange told to anyone who records."""

from __future__ import annotations

from typing import Any

from archive.record import Client, EndReason, Kept, Record, Transparency, Upstream, new_id
from gateway.capture import Recording, Told
from gateway.wire import Head, Limits, request_reader, response_reader

KEY = "sk-canary-7f3a9c51e2d84b60"
REQUEST = (
    b"POST /openai/v1/chat?key=%b&a=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nX-Dup: 1\r\nx-dup: 2\r\n"
    b"Content-Length: 5\r\n\r\n" % (KEY.encode(), KEY.encode())
)
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: up\r\nSet-Cookie: a=%b\r\nTransfer-Encoding: chunked\r\n\r\n" % KEY.encode()
CLIENT, UPSTREAM = Client("127.0.0.1:5", "s1", "path"), Upstream("openai", "https://api.example")


class Remembering:
    """A Recorder with room for `room` records; what is dropped is counted."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.records: list[Record] = []
        self.dropped = 0

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        if len(self.records) < self.room:
            self.records.append(record)
        elif may_wait:
            return False
        else:
            self.dropped += 1
        return True


def request(raw: bytes = REQUEST) -> Head:
    head = request_reader(Limits()).receive(raw)[0]
    assert isinstance(head, Head)
    return head


def response(raw: bytes = RESPONSE) -> Head:
    head = response_reader(Limits()).receive(raw)[0]
    assert isinstance(head, Head)
    return head


def opened(
    recording: Recording,
    *,
    at: float = 1_795_082_400.25,
    id: bytes | None = None,
    head: Head | None = None,
    kept: Kept = "full",
) -> Told | None:
    return recording.open(id or new_id(1), at, 100.0, CLIENT, UPSTREAM, head or request(), kept)


def tell(
    recording: Recording,
    *,
    id: bytes | None = None,
    body: bytes = b"hello",
    answer: tuple[bytes, ...] = (b"one ", b"two"),
    head: Head | None = None,
    kept: Kept = "full",
) -> None:
    """One whole exchange."""
    told = opened(recording, id=id, head=head, kept=kept)
    assert told is not None
    told.request_data([body], 100.001)
    told.request_end()
    told.response_head(response(), 100.01)
    for number, piece in enumerate(answer):
        told.response_data([piece], 100.02 + number / 1000)
    told.response_end()
    told.end(EndReason.COMPLETE, "", 100.05)


def crossed(proof: Transparency | None) -> Any:
    """What a record says of both sides, as comparable values."""
    if proof is None:
        return None
    sides = [one and (one.names, tuple(one.differ), one.size, one.same, one.differences) for one in (proof.request, proof.response)]
    return proof.retried, *sides


def plain(record: Record) -> dict[str, Any]:
    """A record as comparable values: shared decoder state and laziness removed."""
    messages = record.messages() if callable(record.messages) else record.messages

    def body(it: Any) -> Any:
        return None if it is None else (b"".join(it.chunks), b"".join(it.unkept), it.offset, it.encoding, it.ended)

    return {
        "id": record.id,
        "part": record.part,
        "at": record.at,
        "client": record.client,
        "upstream": record.upstream,
        "request": record.request,
        "request_body": body(record.request_body),
        "response": record.response,
        "response_body": body(record.response_body),
        "messages": list(messages),
        "timing": record.timing,
        "end": record.end,
        "redactions": record.redactions,
        "weight": record.weight,
        "transparency": crossed(record.transparency),
        "kept": record.kept,
    }
