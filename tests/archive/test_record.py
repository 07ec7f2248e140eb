"""The words of the archive: ids that sort by time, and sizes that count what crossed."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from archive.record import Body, BodyStream, EndReason, Kind, id_text, new_id


@given(st.integers(0, 2**48 - 1))
def test_an_id_is_a_uuid_of_its_time(unix_ms: int) -> None:
    made = uuid.UUID(bytes=new_id(unix_ms))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert int.from_bytes(made.bytes[:6], "big") == unix_ms
    assert str(made) == id_text(made.bytes)


def test_ids_sort_by_time_and_are_unique() -> None:
    made = [new_id(1_700_000_000_000 + number // 10) for number in range(10_000)]
    assert len(set(made)) == len(made)
    assert [each[:6] for each in sorted(made)] == [each[:6] for each in made]


def test_a_bodys_size_counts_what_was_let_go() -> None:
    assert Body([b"ab", b"c"], [b"defg"]).size == 7
    assert Body().size == 0


def test_bodies_do_not_share_what_they_gather() -> None:
    one, other = Body(), Body()
    one.chunks.append(b"x")
    one.stream.state = 1
    assert other.chunks == []
    assert other.stream.state is None
    assert not hasattr(BodyStream(), "__dict__")


def test_the_words_in_the_line_are_these() -> None:
    """Readers of archives rely on them: a change is a new schema version."""
    assert [kind.value for kind in Kind] == ["exchange", "open", "close", "gap", "declined", "forget", "prune"]
    assert [reason.value for reason in EndReason] == [
        *("complete", "client_closed", "upstream_closed", "upstream_refused", "timeout", "shutdown", "crashed"),
    ]
