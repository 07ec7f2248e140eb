"""Frames read on a copy of what passed, without sockets. The sender is the `websockets` package's own sans-I/O protocol."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import protocol as sansio
from websockets.extensions.permessage_deflate import PerMessageDeflate

from archive.line import to_line
from archive.record import Client, End, EndReason, Message, Record, Upstream, new_id
from gateway.frames import FrameReader, Piece, Side

DEFLATE = "permessage-deflate; client_max_window_bits=12"
LIMIT = 64 << 20


class Sender:
    """One side of a websocket that only sends; `sent()` is what it put on the wire since the last look."""

    def __init__(self, side: Side, *, deflate: bool = False) -> None:
        role = sansio.Side.CLIENT if side == "client" else sansio.Side.SERVER
        self.protocol = sansio.Protocol(role, max_size=None)
        if deflate:
            self.protocol.extensions = [PerMessageDeflate(False, False, 12, 12)]

    def sent(self) -> bytes:
        return b"".join(self.protocol.data_to_send())

    def text(self, text: str) -> bytes:
        self.protocol.send_text(text.encode())
        return self.sent()

    def binary(self, data: bytes) -> bytes:
        self.protocol.send_binary(data)
        return self.sent()

    def fragments(self, pieces: Sequence[bytes]) -> list[bytes]:
        """One text message in as many frames as pieces."""
        frames = []
        for number, piece in enumerate(pieces):
            send = self.protocol.send_continuation if number else self.protocol.send_text
            send(piece, fin=number == len(pieces) - 1)
            frames.append(self.sent())
        return frames


def told(messages: Sequence[Message]) -> list[tuple[str, str, bytes]]:
    return [(message.side, message.type, message.data) for message in messages]


@pytest.mark.parametrize("deflate", [False, True])
def test_websocket_messages_are_kept_in_order_with_side_and_time(deflate: bool) -> None:
    client, upstream = Sender("client", deflate=deflate), Sender("upstream", deflate=deflate)
    reader = FrameReader(DEFLATE if deflate else "", LIMIT)
    first, second, third = client.fragments([b"frag", b"", b"ments \xf0\x9f\x98\x80"])
    client.protocol.send_ping(b"still there?")
    ping = client.sent()
    upstream.protocol.send_pong(b"still there?")
    pong = upstream.sent()
    messages = reader.read(
        0,
        [
            ("client", 1.0, client.text("ol\u00e1 " * 100)),
            ("upstream", 2.0, upstream.binary(bytes(range(256)))),
            ("client", 3.0, first),
            ("client", 4.0, ping),  # control frames may come between fragments (RFC 6455 section 5.4)
            ("upstream", 5.0, pong),
            ("client", 6.0, second + third),
        ],
    )
    client.protocol.send_close(4001, "enough")
    upstream.protocol.send_close()
    messages += reader.read(1, [("client", 7.0, client.sent()), ("upstream", 8.0, upstream.sent())], last=True)
    assert [(m.side, m.at_ms, m.type, m.data, m.code) for m in messages] == [
        ("client", 1.0, "text", ("ol\u00e1 " * 100).encode(), None),
        ("upstream", 2.0, "binary", bytes(range(256)), None),
        ("client", 4.0, "ping", b"still there?", None),
        ("upstream", 5.0, "pong", b"still there?", None),
        ("client", 6.0, "text", b"fragments \xf0\x9f\x98\x80", None),
        ("client", 7.0, "close", b"enough", 4001),
        ("upstream", 8.0, "close", b"", 1005),
    ]
    assert reader.closed


@pytest.mark.parametrize("case", ["lost part", "unmasked client", "reserved bits", "unknown opcode", "bad deflate", "too long"])
def test_what_is_no_frame_is_kept_raw(case: str) -> None:
    client = Sender("client")
    whole = client.text("whole")
    reader = FrameReader(DEFLATE if case == "bad deflate" else "", 100 if case == "too long" else LIMIT)
    bad = {
        "lost part": client.text("after the hole"),
        "unmasked client": Sender("upstream").text("servers do not mask"),
        "reserved bits": b"\xb1\x80mask",
        "unknown opcode": b"\x83\x80mask",
        "bad deflate": b"\xc1\x84\x00\x00\x00\x00\xff\xff\xff\xff",
        "too long": client.binary(b"x" * 101),
    }[case]
    messages = reader.read(0, [("client", 1.0, whole)])
    assert told(messages) == [("client", "text", b"whole")]
    messages = reader.read(2 if case == "lost part" else 1, [("client", 2.0, bad)])
    assert told(messages) == [("client", "raw", bad)]
    # from here on nobody knows where a frame begins, but the other direction is as good as before unless a part was lost
    later = client.text("later")
    answer = Sender("upstream").text("heard")
    messages = reader.read(3 if case == "lost part" else 2, [("client", 3.0, later), ("upstream", 3.0, answer)], last=True)
    if case == "lost part":
        assert told(messages) == [("client", "raw", later), ("upstream", "raw", answer)]
    else:
        assert told(messages) == [("client", "raw", later), ("upstream", "text", b"heard")]


def test_a_frame_without_an_end_is_kept_raw() -> None:
    cut = Sender("client").text("never finished")[:-3]
    assert told(FrameReader("", LIMIT).read(0, [("client", 1.0, cut)], last=True)) == [("client", "raw", cut)]


def test_fragments_without_an_end_are_kept_raw() -> None:
    first, second, _ = Sender("client").fragments([b"one", b"two", b"three"])
    reader = FrameReader("", LIMIT)
    assert reader.read(0, [("client", 1.0, first + second)]) == []
    assert told(reader.read(1, [], last=True)) == [("client", "raw", b"one"), ("client", "raw", b"two")]
    assert not reader.closed


@pytest.mark.parametrize("deflate", [False, True])
def test_seventeen_mebibytes_are_one_message(deflate: bool) -> None:
    data = bytes(range(256)) * (17 << 12)
    sender = Sender("upstream", deflate=deflate)
    wire = sender.binary(data)
    reader = FrameReader(DEFLATE if deflate else "", LIMIT)
    messages = reader.read(0, [("upstream", float(at), wire[at : at + 70_000]) for at in range(0, len(wire), 70_000)])
    assert [(m.type, len(m.data), m.data == data) for m in messages] == [("binary", 17 << 20, True)]


def test_a_compressed_bomb_is_kept_raw() -> None:
    wire = Sender("upstream", deflate=True).binary(bytes(1 << 20))
    assert len(wire) < 2000
    messages = FrameReader(DEFLATE, 1 << 16).read(0, [("upstream", 1.0, wire)])
    assert told(messages) == [("upstream", "raw", wire)]


def test_an_answer_nobody_can_read_leaves_compressed_frames_raw() -> None:
    wire = Sender("upstream", deflate=True).text("squeezed " * 10)
    for extensions in ("permessage-deflate; =", "x-other"):
        assert told(FrameReader(extensions, LIMIT).read(0, [("upstream", 1.0, wire)])) == [("upstream", "raw", wire)]


MESSAGE = st.tuples(st.sampled_from(("text", "binary", "ping")), st.lists(st.text(max_size=30), min_size=1, max_size=3))


@given(st.data(), st.lists(MESSAGE, max_size=8), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_messages(data: st.DataObject, sent: list[tuple[str, list[str]]], deflate: bool) -> None:
    sender = Sender("client", deflate=deflate)
    wire, expected = b"", []
    for kind, parts in sent:
        whole = "".join(parts).encode()
        if kind == "text":
            wire += b"".join(sender.fragments([part.encode() for part in parts]))
        elif kind == "binary":
            wire += sender.binary(whole)
        else:
            whole = whole[:100]
            sender.protocol.send_ping(whole)
            wire += sender.sent()
        expected.append(("client", kind, whole))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    reader = FrameReader(DEFLATE if deflate else "", LIMIT)
    messages: list[Message] = []
    for part, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(wire)], strict=True)):
        messages += reader.read(part, [("client", float(part), wire[start:end])])
    messages += reader.read(len(cuts) + 1, [], last=True)
    assert told(messages) == expected


def joined(messages: Sequence[Message]) -> tuple[list[tuple[str, bytes]], bytes]:
    """What was understood, and all raw bytes together."""
    understood = [(message.type, message.data) for message in messages if message.type != "raw"]
    return understood, b"".join(message.data for message in messages if message.type == "raw")


@given(st.binary(max_size=300), st.integers(0, 300), st.booleans())
def test_noise_is_read_the_same_however_it_is_cut(noise: bytes, cut: int, deflate: bool) -> None:
    extensions = DEFLATE if deflate else ""
    whole = FrameReader(extensions, 1 << 16).read(0, [("upstream", 1.0, noise)], last=True)
    parts = FrameReader(extensions, 1 << 16).read(0, [("upstream", 1.0, noise[:cut]), ("upstream", 2.0, noise[cut:])], last=True)
    assert joined(whole) == joined(parts)


def test_many_small_frames_that_inflate_to_much_are_kept_raw() -> None:
    upstream, reader = Sender("upstream", deflate=True), FrameReader(DEFLATE, 1_000_000)
    bombs = [upstream.text("x" * 300_000) for _ in range(8)]
    messages = reader.read(0, [("upstream", 1.0, bomb) for bomb in bombs])
    assert sum(len(message.data) for message in messages) < 1_010_000
    whole = [message for message in messages if message.type == "text"]
    assert [message.data for message in whole] == [b"x" * 300_000] * 3
    assert b"".join(message.data for message in messages if message.type == "raw") == b"".join(bombs[3:])


def test_each_batch_may_inflate_to_the_limit() -> None:
    upstream, reader = Sender("upstream", deflate=True), FrameReader(DEFLATE, 1_000_000)
    for batch in range(5):
        messages = reader.read(batch, [("upstream", 1.0, upstream.text("x" * 600_000))])
        assert [(message.type, len(message.data)) for message in messages] == [("text", 600_000)]


def settle(reader: FrameReader, pieces: list[Piece], record: Record) -> list[Message]:
    return reader.read(0, pieces, last=record.end is not None)


def test_a_websocket_that_is_over_is_freed_without_the_collector() -> None:
    """A leak in all but name: its messages stayed in memory until many thousand others had come."""
    client = Sender("client")
    reader = FrameReader("", LIMIT)
    record = Record(new_id(0), 0, 0.0, Client(""), Upstream("up", ""), end=End(EndReason.COMPLETE))
    pieces: list[Piece] = [("client", 1.0, client.text("x" * 1000)), ("upstream", 2.0, b"\x81")]
    record.messages = partial(settle, reader, pieces, record)
    freed = [weakref.ref(each) for each in (reader, *reader._sides.values())]
    gc.disable()
    try:
        line = to_line(record, writer="w", seq=0)
        assert line is not None
        assert line.count(b'"type"') == 2
        del record, reader
        assert [ref() for ref in freed] == [None, None, None]
    finally:
        gc.enable()
