"""Where a websocket stands between two frames, for any frames and any split of their bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from gateway.boundary import GOODBYE, MOST_FRAMES, Boundary

OPCODES = [Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG]


def frames() -> st.SearchStrategy[list[bytes]]:
    """Frames of all three forms of length, some masked, as a server never should but may."""
    size = st.sampled_from([0, 1, 125, 126, 300, 65_535, 65_536])
    one = st.builds(
        lambda opcode, size, mask: Frame(opcode, b"x" * (size if opcode < 8 else min(size, 125))).serialize(mask=mask),
        st.sampled_from(OPCODES), size, st.booleans(),
    )  # fmt: skip
    return st.lists(one, max_size=6)


@given(frames(), st.data())
def test_it_is_free_exactly_between_frames(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    ends = {0}
    for frame in sent:
        ends.add(max(ends) + len(frame))
    near = [cut for end in ends for cut in range(max(0, end - 12), min(len(stream), end + 12) + 1)]
    cuts = sorted(data.draw(st.sets(st.sampled_from(near), max_size=20)) | {len(stream)})
    boundary, before = Boundary(), 0
    for cut in cuts:
        boundary.feed(stream[before:cut])
        before = cut
        assert boundary.free is (cut in ends)


def test_after_a_close_frame_it_is_never_free() -> None:
    boundary = Boundary()
    boundary.feed(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
    assert not boundary.free
    boundary.feed(b"\x81\x00")
    assert not boundary.free


def test_a_flood_of_tiny_frames_is_not_followed() -> None:
    boundary = Boundary()
    boundary.feed(b"\x81\x00" * (MOST_FRAMES - 1))
    assert boundary.free
    boundary.feed(b"\x81\x00" * (MOST_FRAMES + 1))
    assert not boundary.free


def test_the_goodbye_is_a_whole_close_frame() -> None:
    close = Close.parse(GOODBYE[2:])
    assert (GOODBYE[0], GOODBYE[1], close.code, close.reason) == (0x88, len(GOODBYE) - 2, 1012, "Verbatim was stopped")
