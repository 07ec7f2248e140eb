"""The comparison behind every journey: what the client's cable carried, what the upstream's cable carried, and what the archive says.

Works on two taps (before and behind the gateway) and an archive folder, knows none of the product's code, and compares bytes.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brotli
from rawsockets import Crossing, Tap
from readback import Archived, Message, archive_lines, frames_in, slice_bytes, take

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
"""RFC 9110 section 7.6.1; those named in Connection come on top."""
CREDENTIALS = {b"authorization", b"x-api-key", b"x-goog-api-key", b"cookie", b"set-cookie", b"sec-websocket-protocol"}
MARK = "[redacted]"


@dataclass(slots=True)
class Pair:
    """A request and its response as they were on one cable; after a 101, what followed either way."""

    request: Message
    response: Message
    after: tuple[bytes, bytes] = (b"", b"")

    @property
    def id(self) -> str:
        (value,) = self.response.values(b"x-verbatim-id")
        return value.decode()


def pairs(crossing: Crossing) -> list[Pair]:
    """The exchanges of one connection, in order."""
    found: list[Pair] = []
    client, server = bytes(crossing.client), bytes(crossing.server)
    while client and (asked := take(client)):
        request, client = asked
        while (answered := take(server, method=request.method)) and answered[0].status < 200 and answered[0].status != 101:
            server = answered[1]
        if not answered:
            break
        response, server = answered
        found.append(Pair(request, response))
        if response.status == 101:
            found[-1].after = client, server
            break
    return found


def end_to_end(message: Message) -> tuple[tuple[bytes, bytes], ...]:
    """The fields that a relay must hand on as they are, in order; Host and our own id are looked at apart."""
    named = {token.strip().lower() for value in message.values(b"connection") for token in value.split(b",")}
    dropped = HOP_BY_HOP | named | {b"host", b"x-verbatim-id"}
    return tuple((name, value) for name, value in message.fields if name.lower() not in dropped)


def crossed(pair: Pair, prefixes: Iterable[bytes] = ()) -> tuple[Any, ...]:
    """What must be the same on both cables. `prefixes` are the route prefixes that the gateway takes off the target."""
    target = next((pair.request.target.removeprefix(p) for p in prefixes if pair.request.target.startswith(p)), pair.request.target)
    request = (pair.request.method, target, end_to_end(pair.request), pair.request.body, pair.request.complete)
    response = (pair.response.start, end_to_end(pair.response), pair.response.body, pair.response.complete)
    return request, response, pair.after


def undone(body: bytes, codings: list[bytes]) -> bytes:
    """`body` without its content coding; a broken off one as far as it goes."""
    match b",".join(codings):
        case b"":
            return body
        case b"gzip":
            return zlib.decompressobj(31).decompress(body)
        case b"br":
            return brotli.Decompressor().process(body)
        case b"zstd":
            return zstd.decompress(body)
        case other:
            raise AssertionError(f"no yardstick for {other!r}")


def audit(front: Tap, back: Tap, archive: Path, *, prefixes: Iterable[bytes], secret: str) -> list[Archived]:
    """Compare the two cables with one another and with the archive, byte by byte; return the archive's exchanges.

    The gateway must have stopped, so that everything is on disk.
    """
    before = [pair for crossing in front.crossings for pair in pairs(crossing)]
    behind = [pair for crossing in back.crossings for pair in pairs(crossing)]
    assert Counter(crossed(pair, prefixes) for pair in before) == Counter(crossed(pair) for pair in behind)
    for pair in behind:
        assert pair.request.values(b"host") == [f"127.0.0.1:{back.port}".encode()]
        assert pair.response.values(b"x-verbatim-id") == []

    archived = archive_lines(archive)
    by_id = {exchange.id: exchange for exchange in archived}
    assert len(by_id) == len(before)
    for pair in before:
        compare(by_id[pair.id], pair)
    assert not any(secret.encode() in line for line in _lines(archive))
    return archived


def _lines(archive: Path) -> Iterable[bytes]:
    for path in archive.iterdir():
        if path.suffix == ".gz":
            yield zlib_all(path.read_bytes())


def zlib_all(data: bytes) -> bytes:
    """Every gzip member of `data`, inflated."""
    found = b""
    while data:
        member = zlib.decompressobj(31)
        found += member.decompress(data)
        data = member.unused_data
    return found


def compare(exchange: Archived, pair: Pair) -> None:
    """One exchange in the archive is what was on the client's cable: heads field by field, bodies byte by byte, messages one by one."""
    said = exchange.request
    assert (said["method"].encode(), said["version"]) == (pair.request.method, pair.request.start[-3:].decode())
    assert said["target"].encode() == pair.request.target
    _compare_fields(exchange.fields("request"), pair.request.fields)
    answer = exchange.response
    assert answer is not None
    assert (answer["status"], answer["reason"].encode()) == (pair.response.status, pair.response.start.split(b" ", 2)[2])
    _compare_fields([f for f in exchange.fields("response") if _kept(f, pair)], [f for f in pair.response.fields if _kept(f, pair)])
    if pair.response.status == 101:
        _compare_messages(exchange, pair)
    else:
        _compare_body(exchange, "request", pair.request)
        _compare_body(exchange, "response", pair.response)


def _kept(field: tuple[bytes, bytes], pair: Pair) -> bool:
    # The archive has the upstream's head; hop-by-hop fields are each cable's own, and the id is ours.
    return field[0].lower() not in HOP_BY_HOP | {b"x-verbatim-id"}


def _compare_fields(archived: list[tuple[bytes, bytes]], wire: list[tuple[bytes, bytes]]) -> None:
    assert [name for name, _ in archived] == [name for name, _ in wire]
    for (name, kept), (_, sent) in zip(archived, wire, strict=True):
        if name.lower() in CREDENTIALS:
            assert MARK.encode() in kept
        else:
            assert kept == sent


def _compare_body(exchange: Archived, side: str, message: Message) -> None:
    slices = exchange.bodies(side)
    if not slices:
        assert message.body == b""
        return
    assert exchange.body(side) == undone(message.body, message.values(b"content-encoding"))
    assert sum(part["size"] for part in slices) == len(message.body)
    assert slices[-1]["complete"] == message.complete
    assert slices[-1]["sha256"] == hashlib.sha256(message.body).hexdigest()
    assert not any(part["truncated"] for part in slices)


def _compare_messages(exchange: Archived, pair: Pair) -> None:
    deflated = any(b"permessage-deflate" in value for value in pair.response.values(b"sec-websocket-extensions"))
    for side, stream in zip(("client", "upstream"), pair.after, strict=True):
        archived = [
            (message["type"], slice_bytes(message), message.get("code")) for message in exchange.messages if message["side"] == side
        ]
        assert archived == frames_in(stream, deflated=deflated), side
