"""Reading back what crossed: raw HTTP/1.1 bytes into messages, and an archive folder into exchanges.

Deliberately naive and free of the product's own code: `gzip` and `json` for the archive, `bytes.split` for heads. It is the
yardstick, so it must not share a bug with what it measures.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Message:
    """One HTTP message taken off a recorded stream."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    """Transfer coding removed, content coding untouched."""
    complete: bool
    """The framing came to its end (for a close-delimited body: always)."""
    chunked: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])


def parse_head(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Start line and fields of a head that ends in an empty line; values without the optional white space around them."""
    start, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return start, [(name, value.strip(b" \t")) for name, _, value in pairs]


def unchunk(data: bytes) -> tuple[bytes, int | None]:
    """A chunked body (RFC 9112 section 7.1) without its coding, and where it ended in `data`; None when it did not."""
    body, at = bytearray(), 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].split(b";")[0], 16)
        if not size:
            trailer_end = data.find(b"\r\n\r\n", line_end)
            return bytes(body), None if trailer_end < 0 else trailer_end + 4
        chunk = data[line_end + 2 : line_end + 2 + size]
        body += chunk
        at = line_end + 2 + size + 2
        if len(chunk) < size or at > len(data):
            break
    return bytes(body), None


def take(data: bytes, *, method: bytes | None = None) -> tuple[Message, bytes] | None:
    """The first message in `data` and the bytes after it; None when not even its head is whole.

    For a response, `method` is the method it answers; for a request it is None. After a 101 the rest is another protocol's.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    start, fields = parse_head(data[: head_end + 4])
    message = Message(start, fields, b"", complete=True)
    rest = data[head_end + 4 :]
    if method is not None and (method == b"HEAD" or message.status in {101, 204, 304} or 100 <= message.status < 200):
        return message, rest
    if any(b"chunked" in value.lower() for value in message.values(b"transfer-encoding")):
        message.chunked = True
        message.body, end = unchunk(rest)
        message.complete = end is not None
        return message, rest[end:] if end is not None else b""
    lengths = message.values(b"content-length")
    if lengths:
        length = int(lengths[0])
        message.body, message.complete = rest[:length], len(rest) >= length
        return message, rest[length:]
    if method is None:
        return message, rest
    message.body = rest
    return message, b""


def requests_in(stream: bytes) -> list[Message]:
    """Every request on a recorded client-to-server stream; bytes after an upgrade are left out."""
    found: list[Message] = []
    while stream and (taken := take(stream)):
        message, stream = taken
        found.append(message)
        if message.values(b"upgrade"):
            break
    return found


def responses_in(stream: bytes, methods: list[bytes]) -> list[Message]:
    """Every final response on a recorded server-to-client stream that answered `methods`; interim ones (1xx) are skipped."""
    found: list[Message] = []
    while stream and len(found) < len(methods) and (taken := take(stream, method=methods[len(found)])):
        message, stream = taken
        if message.status == 101 or message.status >= 200:
            found.append(message)
    return found


def archive_records(folder: Path) -> list[dict[str, Any]]:
    """Every line of every segment in `folder`, in order, read as `zcat FILE | jq .` would."""
    records: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path) as file:
            records.extend(json.loads(line) for line in file)
    return records


@dataclass(slots=True)
class Archived:
    """One exchange, its parts put together."""

    id: str
    parts: list[dict[str, Any]] = field(default_factory=list)

    def first(self, key: str) -> Any:
        """The first part's value of `key` that is not null; None when every part lacks it."""
        return next((part[key] for part in self.parts if part.get(key) is not None), None)

    @property
    def request(self) -> dict[str, Any]:
        return next(part["request"] for part in self.parts if (part["request"] or {}).get("method"))

    @property
    def response(self) -> dict[str, Any] | None:
        return next((part["response"] for part in self.parts if (part["response"] or {}).get("status")), None)

    @property
    def upstream(self) -> str:
        return str(self.first("upstream")["name"])

    @property
    def end(self) -> dict[str, Any] | None:
        return self.parts[-1]["end"]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [message for part in self.parts for message in part["messages"] or ()]

    def bodies(self, side: str) -> list[dict[str, Any]]:
        """The slices of "request" or "response" body, in order."""
        return [part[side]["body"] for part in self.parts if part[side] and part[side].get("body")]

    def body(self, side: str) -> bytes:
        """The archived bytes of "request" or "response" body: decoded where the archive says so, else as they crossed."""
        return b"".join(map(slice_bytes, self.bodies(side)))

    def fields(self, side: str) -> list[tuple[bytes, bytes]]:
        """The head's fields as raw bytes."""
        head = self.request if side == "request" else self.response
        assert head is not None
        return [(name.encode(), base64.b64decode(value[1]) if value[0] is None else value[0].encode()) for name, *value in head["headers"]]


def slice_bytes(body: dict[str, Any]) -> bytes:
    """The bytes of one archived body slice, or of one websocket message."""
    if body.get("base64") is not None:
        return base64.b64decode(body["base64"])
    stray = {end: base64.b64decode(body.get(end) or "") for end in ("head", "tail")}
    # "surrogatepass": a lone surrogate inside JSON text is an escape there; here it would be the archive's own damage made visible.
    return stray["head"] + (body.get("text") or "").encode("utf-8", "surrogatepass") + stray["tail"]


def archive_lines(folder: Path) -> list[Archived]:
    """The exchanges of an archive folder in order of their first line, parts joined by id and sorted by number."""
    found: dict[str, Archived] = {}
    for record in archive_records(folder):
        if record["kind"] == "exchange":
            found.setdefault(record["id"], Archived(record["id"])).parts.append(record)
    for exchange in found.values():
        exchange.parts.sort(key=lambda part: part["part"])
    return list(found.values())


OPCODES = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


def frames_in(stream: bytes, *, deflated: bool = False) -> list[tuple[str, bytes, int | None]]:
    """(type, payload, close code) of every whole websocket message in `stream` (RFC 6455 section 5.2): fragments joined, masks and
    deflate undone.

    A close frame's payload is its reason; the code is 1005 where it carries none, and None for every other type.
    """
    inflate = zlib.decompressobj(-15)
    found: list[tuple[str, bytes, int | None]] = []
    kind, compressed, message = "", False, b""
    while len(stream) >= 2:
        first, second = stream[0], stream[1]
        wide = {126: 2, 127: 8}.get(second & 0x7F, 0)
        length = int.from_bytes(stream[2 : 2 + wide]) if wide else second & 0x7F
        mask_end = 2 + wide + (4 if second & 0x80 else 0)
        mask, payload, stream = stream[2 + wide : mask_end], stream[mask_end : mask_end + length], stream[mask_end + length :]
        if mask:
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        opcode = first & 0x0F
        if opcode >= 8:
            code = (int.from_bytes(payload[:2]) or 1005) if opcode == 8 else None
            found.append((OPCODES[opcode], payload[2:] if opcode == 8 else payload, code))
            continue
        if opcode:
            kind, compressed, message = OPCODES[opcode], deflated and bool(first & 0x40), b""
        message += payload
        if first & 0x80:
            # RFC 7692 section 7.2.2: the four bytes every sender leaves out. One decompressor for all: context takeover is the default.
            found.append((kind, inflate.decompress(message + b"\x00\x00\xff\xff") if compressed else message, None))
    return found
