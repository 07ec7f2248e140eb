"""Reading an archive: what a list shows, what an exchange holds, while it grows, and around whatever is damaged or hostile."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import subprocess
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import HOUR, Shelf, in_parts, parsed, whole

from archive import member
from archive.catalog.follow import Follower
from archive.errors import BadName, NotFound
from archive.reader import Reader
from archive.record import Body, Client, End, EndReason, Message, Record, Redaction, Request, Upstream, id_text, new_id
from archive.writer import Writer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def ids(reader: Reader, **query: object) -> list[str]:
    """All pages of a list, as ids."""
    found: list[str] = []
    before = None
    while True:
        page = reader.page(before=before, limit=7, **query)  # type: ignore[arg-type]
        found += [entry.id for entry in page.entries]
        if page.next is None:
            return found
        assert before is None or page.next < before
        before = page.next


def named(records: list[Record]) -> list[str]:
    return [id_text(record.id) for record in records]


class Clock:
    """A clock that goes on by `step` seconds with every look at it."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


# What a reader gives back.


@pytest.mark.parametrize("indexed", [False, True])
def test_a_search_that_takes_long_is_handed_back_to_be_gone_on_with(shelf: Shelf, indexed: bool) -> None:
    words = [b"one two", b"two one"]
    records = [whole(HOUR + at, body=words[at % 2 == 0]) for at in range(1, 41)]
    shelf.put(records)
    if indexed:
        with closing(Follower(shelf.folder, spare=0)) as follower:
            while follower.step():
                pass
    said = list(reversed(named(records[0::2])))
    slow = Reader(shelf.folder, clock=Clock(0.09))
    page = slow.page(text='"one two"', limit=20)
    assert [entry.id for entry in page.entries] == said[: len(page.entries)]
    assert 0 < len(page.entries) < 20
    assert page.next is not None
    stuck = Reader(shelf.folder, clock=Clock(3600.0))
    assert ids(stuck, text='"one two"') == ids(slow, text='"one two"') == ids(Reader(shelf.folder), text='"one two"') == said
    assert len(stuck.page(limit=40).entries) == 40  # a list without a filter is never cut short


def test_an_exchange_is_read_back_exactly(shelf: Shelf) -> None:
    record = whole(body=b'{"a":"\xc3\xb6\\u0000"}', answer=b"\xff\x00")
    record.redactions = [Redaction("request.target.key", "query", 2)]
    shelf.put(record)
    exchange = Reader(shelf.folder).get(id_text(record.id))
    assert exchange.lines == shelf.lines[id_text(record.id)]
    assert exchange.request is not None
    assert (exchange.request.method, exchange.request.target, exchange.request.version) == ("POST", "/openai/v1/x?a=b", "1.1")
    assert exchange.request.headers == [("Host", "x"), ("User-Agent", "tester/1"), ("X-Dup", "1"), ("x-dup", "2")]
    assert exchange.response is not None
    assert (exchange.response.status, exchange.response.reason, exchange.response.origin) == (200, "OK", "upstream")
    assert exchange.request_body is not None
    assert (exchange.request_body.data, exchange.request_body.text) == (b'{"a":"\xc3\xb6\\u0000"}', '{"a":"ö\\u0000"}')
    assert exchange.response_body is not None
    assert (exchange.response_body.data, exchange.response_body.text, exchange.response_body.complete) == (b"\xff\x00", None, True)
    assert exchange.client["session"] == "run-1"
    assert exchange.upstream == {"name": "openai", "url": "http://127.0.0.1:9"}
    assert exchange.timing == {"ttfb_ms": 12.5, "duration_ms": 20.25, "marks": [[0, 12.5]]}
    assert exchange.end == {"reason": "complete", "detail": ""}
    assert exchange.redactions == [{"where": "request.target.key", "rule": "query", "count": 2}]
    assert exchange.unread == []


def test_a_place_says_where_the_line_lies(shelf: Shelf) -> None:
    shelf.open()
    path = shelf.put(whole())
    record = whole()
    shelf.put(record)
    (place,) = Reader(shelf.folder).get(id_text(record.id)).places
    assert place.segment == path.name
    data = path.read_bytes()[place.offset : place.offset + place.length]
    assert member.unpack(data, limit=1 << 20).removesuffix(b"\n") == shelf.lines[id_text(record.id)][0]


def test_a_list_entry_sums_an_exchange_up(shelf: Shelf) -> None:
    record = whole(answer=b"x" * 10, status=429)
    record.redactions = [Redaction("a", "b", 2), Redaction("c", "d")]
    shelf.put(record)
    (entry,) = Reader(shelf.folder).page().entries
    assert (entry.id, entry.kind, entry.client, entry.session, entry.route) == (
        *(id_text(record.id), "http", "127.0.0.1:50000"),
        *("run-1", "openai"),
    )
    assert entry.at.timestamp() == HOUR + 1
    assert entry.at.utcoffset() is not None
    assert (entry.method, entry.target, entry.status, entry.origin) == ("POST", "/openai/v1/x?a=b", 429, "upstream")
    assert (entry.request_bytes, entry.response_bytes, entry.messages, entry.streamed) == (7, 10, 0, False)
    assert (entry.ttfb_ms, entry.duration_ms, entry.end, entry.parts, entry.redactions) == (12.5, 20.25, "complete", 1, 3)


def test_events_streams_and_websockets_are_told_apart(shelf: Shelf) -> None:
    events, socketed, refused = whole(HOUR + 1), whole(HOUR + 2), whole(HOUR + 3)
    assert events.response
    events.response.headers = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
    socketed.messages = [Message("client", 1.0, "text", b"hi"), Message("upstream", 2.0, "text", b"ho")]
    assert refused.request
    refused.request.headers = [(b"Upgrade", b"websocket")]
    shelf.put([events, socketed, refused])
    entries = Reader(shelf.folder).page().entries
    assert [(it.kind, it.streamed, it.messages) for it in entries] == [("websocket", False, 0), ("websocket", True, 2), ("http", True, 0)]


@settings(max_examples=25, deadline=None)
@given(chunks=st.lists(st.binary(max_size=40), min_size=1, max_size=6), encoding=st.sampled_from(["", "gzip", "aws-chunked"]))
def test_any_body_in_any_parts_is_read_back(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], encoding: str) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("any") / "archive")
    records = in_parts(chunks, encoding=encoding)
    shelf.put(records)
    exchange = Reader(shelf.folder).get(id_text(records[0].id))
    assert exchange.lines == shelf.lines[exchange.entry.id]
    assert exchange.entry.response_bytes == sum(map(len, chunks))
    wire = b"".join(chunks)
    if exchange.response_body is None:
        assert wire == b""
    elif encoding != "gzip":  # random bytes are hardly ever gzip: then parts are decoded up to where that is found out
        assert exchange.response_body.data == wire


def test_parts_in_different_hours_and_between_others_are_joined(shelf: Shelf) -> None:
    hours = [HOUR, HOUR + 3600, HOUR + 7200]
    first, second = in_parts([b"a", b"b", b"c"], at=HOUR + 3590), in_parts([b"1", b"2", b"3"], at=HOUR + 3595)
    for hour, one, other in zip(hours, first, second, strict=True):
        shelf.put([one, other, whole(hour + 10)], at=hour + 10)
    reader = Reader(shelf.folder)
    found = ids(reader)
    assert len(found) == 5
    assert found == sorted(found, reverse=True)
    exchange = reader.get(id_text(first[0].id))
    assert exchange.response_body is not None
    assert (exchange.response_body.data, exchange.entry.parts, exchange.entry.end) == (b"abc", 3, "complete")
    assert [place.segment[:13] for place in exchange.places] == ["2026-11-19T10", "2026-11-19T11", "2026-11-19T12"]


def test_parts_that_were_written_out_of_order_are_put_in_order(shelf: Shelf) -> None:
    one, two, three = in_parts([b"a", b"b", b"c"])
    members = [shelf.pack(each) for each in (one, two, three)]
    shelf.raw(members[0] + members[2] + members[1])
    exchange = Reader(shelf.folder).get(id_text(one.id))
    assert exchange.response_body is not None
    assert exchange.response_body.data == b"abc"


# Lists.


def test_lists_are_newest_first_page_by_page_over_hours(shelf: Shelf) -> None:
    records = [whole(HOUR + number * 700) for number in range(40)]
    shelf.put(records)
    reader = Reader(shelf.folder)
    assert ids(reader) == sorted(named(records), reverse=True)
    assert reader.page(limit=3).next == sorted(named(records), reverse=True)[2]
    assert len(reader.page(limit=0).entries) == 1


def test_memory_for_places_is_bounded_and_old_pages_are_still_there(shelf: Shelf) -> None:
    records = [whole(HOUR + number * 600) for number in range(60)]
    shelf.put(records)
    reader = Reader(shelf.folder, held=10)
    assert ids(reader) == sorted(named(records), reverse=True)
    for record in records[::7]:
        assert reader.get(id_text(record.id)).entry.id == id_text(record.id)
    assert reader._index.held() <= 20


def test_filters_choose_by_route_status_and_text(shelf: Shelf) -> None:
    records = [
        whole(HOUR + 1, route="openai", status=200, body="grün".encode()),
        whole(HOUR + 2, route="openai", status=429, body=b'{"say":"Needle"}'),
        whole(HOUR + 3, route="gemini", status=404, body=b"hay " * 100_000 + b"NEEDLE " + b"hay " * 1_000_000),
    ]
    records.append(Record(new_id(int((HOUR + 4) * 1000)), 0, HOUR + 4, Client("a:1"), Upstream("x", ""), end=End(EndReason.TIMEOUT)))
    shelf.put(records)
    names, reader = named(records), Reader(shelf.folder)
    assert ids(reader, route="openai") == [names[1], names[0]]
    assert ids(reader, status="4xx") == [names[2], names[1]]
    assert ids(reader, status=404) == [names[2]]
    assert ids(reader, status="none") == [names[3]]
    assert ids(reader, text="needle") == [names[2], names[1]]
    assert ids(reader, text="needle hay") == [names[2]]
    assert ids(reader, text='"needle hay hay"') == [names[2]]
    assert ids(reader, text="need*") == [names[2], names[1]]
    assert ids(reader, text="need") == []
    assert ids(reader, text="GRUN") == [names[0]]
    assert ids(reader, text="grün", route="openai", status=200) == [names[0]]
    with pytest.raises(BadName):
        reader.page(text=".*")


def test_a_filtered_page_looks_at_a_bounded_number(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archive.reader._SEARCHED", 5)
    records = [whole(HOUR + number, status=404 if number == 0 else 200) for number in range(12)]
    shelf.put(records)
    reader = Reader(shelf.folder)
    page = reader.page(status=404)
    assert page.entries == []
    assert page.next == named(records)[7]
    assert ids(reader, status=404) == [named(records)[0]]


# While it grows.


def test_the_list_is_live(shelf: Shelf) -> None:
    reader = Reader(shelf.folder)
    assert reader.page().entries == []
    nothing = reader.refresh()
    assert reader.refresh() == nothing
    first = whole()
    shelf.put(first)
    one = reader.refresh()
    assert one != nothing
    assert ids(reader) == named([first])
    second = whole(HOUR + 5000)
    shelf.put(second)
    assert reader.refresh() != one
    assert ids(reader) == named([second, first])


def test_a_half_written_last_member_is_not_yet(shelf: Shelf) -> None:
    first, second = whole(HOUR + 1), whole(HOUR + 2)
    shelf.put(first)
    rest = shelf.pack(second)
    reader = Reader(shelf.folder)
    for byte in range(len(rest) - 1):
        shelf.raw(rest[byte : byte + 1])
        if byte % 20 == 0 or byte < 60:
            assert ids(reader) == named([first])
            assert reader.events() == []
    shelf.raw(rest[-1:])
    assert ids(reader) == named([second, first])


def test_a_segment_that_is_cut_back_or_replaced_is_read_anew(shelf: Shelf) -> None:
    first, second = whole(HOUR + 1), whole(HOUR + 2)
    path = shelf.put(first)
    size = path.stat().st_size
    shelf.put(second)
    reader = Reader(shelf.folder)
    assert ids(reader) == named([second, first])
    os.truncate(path, size)
    assert ids(reader) == named([first])
    path.unlink()
    assert ids(reader) == []
    third = whole(HOUR + 3)
    shelf.put(third)
    assert ids(reader) == named([third])


def test_a_long_segment_is_taken_in_in_steps(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(30)]
    shelf.put(records)
    reader = Reader(shelf.folder)
    counts = [reader._index.refresh(step=10) for _ in range(5)]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > counts[0]
    assert len(ids(reader)) == 30


def test_a_page_is_whole_however_little_was_taken_in_before(shelf: Shelf) -> None:
    shelf.put([whole(HOUR + number) for number in range(30)])
    reader = Reader(shelf.folder)
    reader._index.refresh(step=3)
    assert len(ids(reader)) == 30


def test_readers_and_a_writer_at_work_agree(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    writer = Writer(folder, version="1", min_free=0)
    writer.start()
    reader, failures, stop = Reader(folder), [], threading.Event()

    def poll() -> None:
        while not stop.is_set():
            try:
                for entry in reader.page(limit=20).entries:
                    assert reader.get(entry.id).entry.end == "complete"
                assert [it for it in reader.events() if it.kind == "damage"] == []
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    records = [whole(HOUR + number, answer=b"x" * number * 10) for number in range(300)]
    for record in records:
        assert writer.put(record)
    assert writer.close(20)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(ids(reader)) == sorted(named(records))
    assert [event.kind for event in reader.events()] == ["open", "close"]


# How it ended.


def unended(shelf: Shelf) -> str:
    records = in_parts([b"a", b"b"], end=None)
    shelf.put(records)
    return id_text(records[0].id)


@pytest.fixture
def dead() -> int:
    """The pid of a process that is no more."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def end_of(shelf: Shelf, name: str) -> str | None:
    reader = Reader(shelf.folder)
    (entry,) = [entry for entry in reader.page().entries if entry.id == name]
    assert reader.get(name).entry == entry
    return entry.end


def test_an_exchange_of_a_running_writer_is_still_running(shelf: Shelf) -> None:
    shelf.host, shelf.pid = socket.gethostname(), os.getpid()
    shelf.open()
    name = unended(shelf)
    Shelf(shelf.folder, writer=new_id(int(HOUR * 1000) + 5), host=shelf.host, pid=os.getppid()).open()
    assert end_of(shelf, name) is None


def test_parts_that_stop_without_an_end_have_crashed_when_their_writer_closed(shelf: Shelf) -> None:
    shelf.open()
    name = unended(shelf)
    assert end_of(shelf, name) is None
    shelf.close()
    assert end_of(shelf, name) == "crashed"


def test_parts_have_crashed_when_their_writers_process_is_gone(shelf: Shelf, dead: int) -> None:
    shelf.host, shelf.pid = socket.gethostname(), dead
    shelf.open()
    assert end_of(shelf, unended(shelf)) == "crashed"


def test_parts_have_crashed_when_the_same_process_opened_again(shelf: Shelf) -> None:
    """A container that starts anew has the host and pid it had before."""
    shelf.host, shelf.pid = socket.gethostname(), os.getpid()
    shelf.open()
    name = unended(shelf)
    Shelf(shelf.folder, writer=new_id(int(HOUR * 1000) + 5), host=shelf.host, pid=shelf.pid).open(HOUR + 3600)
    assert end_of(shelf, name) == "crashed"


@pytest.mark.parametrize("own_open_line", [True, False])
def test_parts_from_another_machine_have_crashed_when_another_writer_opened_after_them(shelf: Shelf, own_open_line: bool) -> None:
    if own_open_line:
        shelf.open()
    name = unended(shelf)
    assert end_of(shelf, name) is None
    Shelf(shelf.folder, writer=new_id(int(HOUR * 1000) + 5), host="elsewhere", pid=77).open(HOUR + 3600)
    assert end_of(shelf, name) == "crashed"


def test_an_end_that_comes_late_is_taken_in(shelf: Shelf) -> None:
    shelf.open()
    records = in_parts([b"a", b"b", b"c"])
    shelf.put(records[:2])
    reader = Reader(shelf.folder)
    assert reader.page().entries[0].end is None
    shelf.put(records[2])
    (entry,) = reader.page().entries
    assert (entry.end, entry.parts, entry.response_bytes, entry.duration_ms) == ("complete", 3, 3, 20.0)


# Damage.


def test_damage_in_the_middle_hides_only_itself(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(5)]
    members = [shelf.pack(each) for each in records]
    broken = bytearray(members[2])
    broken[5] ^= 0xFF
    path = shelf.raw(b"".join([*members[:2], bytes(broken), *members[3:]]))
    before = path.read_bytes()
    reader = Reader(shelf.folder)
    assert ids(reader) == named([records[4], records[3], records[1], records[0]])
    (event,) = reader.events()
    start = len(members[0]) + len(members[1])
    assert (event.kind, event.place.offset, event.place.length) == ("damage", start, len(broken))
    assert path.read_bytes() == before


def test_a_flipped_bit_in_the_data_is_found_on_reading(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(3)]
    members = [shelf.pack(each) for each in records]
    broken = bytearray(members[1])
    broken[member.HEADER_LENGTH + 30] ^= 0x10
    shelf.raw(members[0] + bytes(broken) + members[2])
    reader = Reader(shelf.folder)
    assert ids(reader) == named([records[2], records[0]])
    (event,) = reader.events()
    assert (event.kind, event.place.offset) == ("damage", len(members[0]))
    with pytest.raises(NotFound):
        reader.get(id_text(records[1].id))


def test_an_exchange_with_a_damaged_part_is_shown_with_what_is_left(shelf: Shelf) -> None:
    records = in_parts([b"one ", b"two ", b"three"])
    members = [shelf.pack(each) for each in records]
    broken = bytearray(members[1])
    broken[member.HEADER_LENGTH + 30] ^= 0x10
    shelf.raw(members[0] + bytes(broken) + members[2])
    reader = Reader(shelf.folder)
    exchange = reader.get(id_text(records[0].id))
    assert exchange.response_body is not None
    assert exchange.response_body.data == b"one three"
    assert exchange.response_body.error == "unread"
    assert [(place.offset, place.length) for place, _ in exchange.unread] == [(len(members[0]), len(members[1]))]
    assert len(exchange.lines) == len(exchange.places) == 2


def test_a_torn_end_of_an_hour_gone_by_is_damage(shelf: Shelf) -> None:
    shelf.put(whole())
    shelf.raw(shelf.pack(whole())[:-5])
    reader = Reader(shelf.folder)
    assert reader.events() == []
    shelf.put(whole(HOUR + 4000))
    assert [event.kind for event in reader.events()] == ["damage"]


@pytest.mark.parametrize(
    "tail", ["nothing", "one byte", "header", "no trailer", "zeros", "garbage", "text", "a plain gzip", "flipped header"]
)
def test_whatever_a_crash_leaves_at_the_end_the_rest_is_read(shelf: Shelf, tail: str) -> None:
    records = [whole(HOUR + 1), whole(HOUR + 2)]
    path = shelf.put(records)
    more = shelf.pack(whole(HOUR + 3))
    flipped = bytearray(more)
    flipped[3] ^= 0x40
    shelf.raw(
        {
            "nothing": b"",
            "one byte": more[:1],
            "header": more[: member.HEADER_LENGTH],
            "no trailer": more[: -member.TRAILER_LENGTH],
            "zeros": bytes(4096),
            "garbage": os.urandom(3000),
            "text": b"Traceback (most recent call last):\n",
            "a plain gzip": gzip.compress(b"{}\n"),
            "flipped header": bytes(flipped),
        }[tail]
    )
    before = path.read_bytes()
    reader = Reader(shelf.folder)
    assert ids(reader) == sorted(named(records), reverse=True)
    assert reader.events() == []
    later = whole(HOUR + 4)
    shelf.put(later)
    assert ids(reader) == [id_text(later.id), *sorted(named(records), reverse=True)]
    assert [event.kind for event in reader.events()] == ([] if tail == "nothing" else ["damage"])
    assert path.read_bytes().startswith(before)


def test_an_empty_or_huge_segment_is_no_trouble(shelf: Shelf) -> None:
    record = whole()
    path = shelf.put(record)
    (shelf.folder / "2026-11-19T09.jsonl.gz").touch()
    os.truncate(path, 1 << 30)
    tracemalloc.start()
    try:
        assert ids(Reader(shelf.folder)) == named([record])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_out_of_descriptors_is_no_damage_and_no_empty_list(shelf: Shelf) -> None:
    record = whole()
    shelf.put(record)
    reader = Reader(shelf.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            reader.page()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ids(reader) == named([record])
    assert reader.events() == []


@pytest.mark.parametrize(
    "line",
    [
        *(b"not json", b"[]", b"{}", b'{"kind":"exchange"}', b'"text"', b"null", b"[" * 100_000, b"\xff"),
        *(b'{"kind":"exchange","writer":5,"at":7,"client":[],"upstream":null,"request":1,"response":"x","messages":3}',),
        *(b'{"kind":"open","open":3}', b'{"v":1,"kind":"close","close":{}}'),
    ],
    ids=lambda line: line[:20].decode("latin-1"),
)
@pytest.mark.parametrize("part", [0, 0xFFFF_FFFF])
def test_lines_of_no_schema_are_damage(shelf: Shelf, line: bytes, part: int) -> None:
    good = whole()
    shelf.put(good)
    odd = new_id(int(HOUR * 1000))
    shelf.raw(member.pack(line + b"\n", id=odd, part=part, seq=9))
    reader = Reader(shelf.folder)
    assert ids(reader) == named([good])
    assert [event.kind for event in reader.events()] == ["damage"]
    with pytest.raises(NotFound):
        reader.get(id_text(odd))


def test_a_line_with_a_body_that_is_no_base64_is_damage(shelf: Shelf) -> None:
    record = whole(answer=b"\xff")
    shelf.put(record)
    line = shelf.lines[id_text(record.id)][0].replace(b'"base64":"/w=="', b'"base64":"/w"')
    odd = new_id(int(HOUR * 1000))
    shelf.raw(member.pack(line + b"\n", id=odd, part=0, seq=9))
    reader = Reader(shelf.folder)
    with pytest.raises(NotFound):
        reader.get(id_text(odd))
    assert len(reader.page().entries) == 2


# Bounds and bad intentions.


def bomb(length: int, id: bytes) -> bytes:
    """A member whose line is `length` bytes of one long text in an otherwise good line."""
    line = json.dumps(parsed(whole()) | {"id": id_text(id)}).encode()
    head, tail = line.split(b'"done"')
    return member.pack(head + b'"' + bytes(length).replace(b"\0", b"0") + b'"' + tail + b"\n", id=id, part=0, seq=1)


def test_opening_a_bomb_takes_bounded_memory(shelf: Shelf) -> None:
    name = new_id(int(HOUR * 1000))
    shelf.raw(bomb(128 << 20, name))
    reader = Reader(shelf.folder, limit=16 << 20)
    tracemalloc.start()
    try:
        (entry,) = reader.page().entries
        exchange = reader.get(entry.id)
        assert reader.page(text="nowhere in it").entries == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert exchange.response is not None
    assert exchange.response.status == 200
    assert exchange.response_body is not None
    assert (exchange.response_body.text, exchange.response_body.error) == ("", "unread")
    assert exchange.lines == [b""]
    assert "too large" in exchange.unread[0][1]


def test_a_member_that_lies_about_its_size_is_damage(shelf: Shelf) -> None:
    name = new_id(int(HOUR * 1000))
    packed = bytearray(bomb(64 << 20, name))
    packed[-4:] = (1000).to_bytes(4, "little")
    shelf.raw(bytes(packed))
    tracemalloc.start()
    try:
        reader = Reader(shelf.folder)
        assert reader.page().entries == []
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert [event.kind for event in reader.events()] == ["damage"]


@pytest.mark.parametrize(
    "id",
    [
        *("", "..", "../../etc/passwd", "%2e%2e%2f", "/etc/passwd", "2026-11-19T10.jsonl.gz/../x", "a\0b", "*", ".*", "[0-9a-f]*"),
        *(
            "0" * 7,
            "0" * 33,
            "g" * 32,
            "00000000-0000-0000-0000-00000000000",
            "0000-0000",
            "00000000--0",
            "٠" * 8,
            "0" * 8 + "\n",
            " " + "0" * 8,
        ),
    ],
)
def test_no_id_means_a_path_or_a_pattern(shelf: Shelf, id: str) -> None:
    shelf.put(whole())
    reader = Reader(shelf.folder)
    with pytest.raises((BadName, NotFound)):
        reader.get(id)
    with pytest.raises(BadName):
        reader.page(before=id)


@pytest.mark.parametrize("status", ["", "6xx", "2x", "20", "2xx|4xx", ".*", 7])
def test_a_status_is_a_number_a_class_or_none(shelf: Shelf, status: str | int) -> None:
    with pytest.raises(BadName):
        Reader(shelf.folder).page(status=status)


def test_an_unambiguous_prefix_finds_its_exchange(shelf: Shelf) -> None:
    records = [whole(HOUR + number * 120) for number in range(3)]
    twins = [whole(HOUR + 1000), whole(HOUR + 1000)]
    long_running = in_parts([b"a"], at=HOUR + 3000)
    shelf.put([*records, *twins])
    shelf.put(long_running, at=HOUR + 4000)
    reader = Reader(shelf.folder)
    for record in [*records, *long_running]:
        text = id_text(record.id)
        for prefix in (text, text.upper(), text[:8], text[:9], text[:20], text.replace("-", ""), text.replace("-", "")[:13]):
            assert reader.get(prefix).entry.id == text
    with pytest.raises(NotFound, match="several"):
        reader.get(named(twins)[0][:8])
    assert reader.get(named(twins)[0]).entry.id == named(twins)[0]
    with pytest.raises(NotFound):
        reader.get("ffffffff")
    with pytest.raises(NotFound):
        reader.get("ffffffff-ffff-ffff-ffff-ffffffffffff")


def test_ids_of_another_time_than_their_segments_are_found(shelf: Shelf) -> None:
    """Ids that are no UUIDv7, from an archive that somebody else's tool wrote."""
    for text in ("00000000000040008000000000000001", "ffffffffffff4fff8fffffffffffffff", "7fffffffffff4fff8fffffffffffffff"):
        record = whole()
        record.id = bytes.fromhex(text)
        shelf.put(record, at=HOUR)
    reader = Reader(shelf.folder)
    assert len(ids(reader)) == 3
    for text in ids(reader):
        assert reader.get(text).entry.id == text
        assert reader.get(text[:12]).entry.id == text


def test_only_segments_are_read(shelf: Shelf, tmp_path: Path) -> None:
    good = whole()
    path = shelf.put(good)
    secret = Shelf(tmp_path / "secret")
    secret.put(whole())
    (outside,) = secret.folder.iterdir()
    (shelf.folder / "2026-11-19T11.jsonl.gz").symlink_to(outside)
    (shelf.folder / "2026-11-19T12.jsonl.gz").mkdir()
    os.mkfifo(shelf.folder / "2026-11-19T13.jsonl.gz")
    for name in (
        "2026-11-19T10.jsonl.gz.bak",
        "x2026-11-19T10.jsonl.gz",
        "2026-11-19T24.jsonl.gz",
        ".jsonl.gz",
        "2026-11-19T10.jsonl.gz\n",
    ):
        (shelf.folder / name).write_bytes(outside.read_bytes())
    reader = Reader(shelf.folder)
    assert ids(reader) == named([good])
    assert reader.events() == []
    path.unlink()
    path.symlink_to(outside)
    assert ids(reader) == []


def test_a_folder_that_is_not_there_is_an_empty_archive(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "nowhere")
    assert reader.page().entries == []
    assert reader.events() == []
    with pytest.raises(NotFound):
        reader.get("00000000")


def test_a_request_that_got_no_answer_is_shown(shelf: Shelf) -> None:
    record = Record(new_id(int(HOUR * 1000)), 0, HOUR, Client("a:1"), Upstream("x", "http://x"))
    record.request = Request(b"GET", b"/\xff", [(b"x", b"\xff")])
    record.end = End(EndReason.UPSTREAM_REFUSED, "no route")
    record.request_body = Body([], ended=True)
    shelf.put(record)
    reader = Reader(shelf.folder)
    (entry,) = reader.page().entries
    assert (entry.status, entry.origin, entry.target, entry.end) == (None, None, "/\\xff", "upstream_refused")
    exchange = reader.get(entry.id)
    assert exchange.response is None
    assert exchange.response_body is None
    assert exchange.request is not None
    assert exchange.request.headers == [("x", "\\xff")]
    assert exchange.request_body is not None
    assert (exchange.request_body.data, exchange.request_body.complete) == (b"", True)
