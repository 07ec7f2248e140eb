"""The tape: what is told here is what a capture hears there; and who waits when nobody reads."""

from __future__ import annotations

from capturing import CLIENT, REQUEST, UPSTREAM, Remembering, opened, plain, request, response, tell
from hypothesis import given
from hypothesis import strategies as st

from archive.record import Client, EndReason, new_id
from gateway.capture import CaptureLimits, InProcess
from gateway.tape import LARGE, SMALL, STALLED, Player, Tape


class Rig:
    """A tape and a player with nothing between; flushes are the test's."""

    def __init__(self, limit: int = 1 << 20, limits: CaptureLimits | None = None) -> None:
        self.now = 100.0
        self.flushes = 0
        self.wakes = 0
        self.recorder = Remembering()
        self.lost: list[tuple[bytes, int, str]] = []
        self.times: list[float | None] = []
        self.declined: list[int] = []
        self.tape = Tape(limit, flush=self._flush, wake=self._wake, clock=lambda: self.now)
        self.tape.started(self.now)
        self.player = Player(self.recorder, limits or CaptureLimits(), {"openai": UPSTREAM}, self._lose, self.declined.append)

    def _lose(self, exchange: bytes, size: int, why: str, when: float | None) -> None:
        self.times.append(when)
        self.lost.append((exchange, size, why))

    def _flush(self) -> None:
        self.flushes += 1

    def _wake(self) -> None:
        self.wakes += 1

    def pass_on(self, *, acknowledge: bool = True) -> None:
        size = self.tape.size
        data = b"".join(self.tape.take())
        if data:
            self.player.play(data)
        if acknowledge:
            self.tape.acknowledged(size, self.now)


@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(max_size=2000), st.integers(100, 3000), st.data())
def test_a_replayed_exchange_is_recorded_as_if_told_directly(
    pieces: list[bytes], body: bytes, part_bytes: int, data: st.DataObject
) -> None:
    limits, name = CaptureLimits(part_bytes=part_bytes), new_id(7)
    direct = Remembering()
    tell(InProcess(direct, limits), id=name, body=body, answer=tuple(pieces))
    rig = Rig(limits=limits)
    tell(rig.tape, id=name, body=body, answer=tuple(pieces))
    rig.pass_on()
    assert [plain(record) for record in rig.recorder.records] == [plain(record) for record in direct.records]
    assert rig.tape.unread == 0


def test_what_the_client_said_of_itself_is_replayed() -> None:
    named = request(REQUEST.replace(b"X-Dup: 1", b'X-Verbatim-User: u\r\nx-verbatim-tags: a, b\r\nx-verbatim-metadata: {"n": 1}'))
    direct, rig = Remembering(), Rig()
    for recording in (InProcess(direct, CaptureLimits()), rig.tape):
        tell(recording, id=bytes(16), head=named, kept="metadata")
    rig.pass_on()
    assert [plain(record) for record in rig.recorder.records] == [plain(record) for record in direct.records]
    said = Client("127.0.0.1:5", "s1", "path", None, "u", "x-verbatim-user", ("a", "b"), {"n": 1})
    assert (rig.recorder.records[0].client, rig.recorder.records[0].kept) == (said, "metadata")


def test_those_declined_are_counted_on_the_other_side_too() -> None:
    rig = Rig()
    rig.tape.decline()
    assert rig.wakes == 1
    rig.tape.decline()
    rig.pass_on()
    assert (rig.declined, rig.recorder.records, rig.lost) == ([2], [], [])
    rig.tape.stopped()
    rig.tape.decline()  # nobody hears of it now
    assert rig.tape.take() != b""
    rig.tape.decline()
    rig.tape.started(rig.now)
    rig.pass_on()
    assert rig.declined == [2, 1]


def test_websocket_bytes_are_replayed() -> None:
    upgrade = request(REQUEST.replace(b"Content-Length: 5\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    switched = response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    rig = Rig()
    told = opened(rig.tape, head=upgrade)
    assert told is not None
    told.response_head(switched, 100.1)
    told.frames("upstream", b"\x81\x05hello", 100.2)
    told.frames("client", b"\x81\x82\x00\x00\x00\x00hi", 100.3)
    told.end(EndReason.CLIENT_CLOSED, "", 100.4)
    rig.pass_on()
    (record,) = rig.recorder.records
    assert [(m.side, m.type, m.data) for m in plain(record)["messages"]] == [("upstream", "text", b"hello"), ("client", "text", b"hi")]


def test_events_wake_once_and_flush_when_a_batch_is_full() -> None:
    rig = Rig()
    told = opened(rig.tape)
    assert told is not None
    told.request_data([b"x"], 100.0)
    assert (rig.wakes, rig.flushes) == (1, 0)
    told.request_data([b"x" * 70_000], 100.0)
    assert rig.flushes == 1
    rig.pass_on()
    told.request_end()
    assert rig.wakes == 2


def test_an_event_that_cannot_be_replayed_costs_only_its_exchange() -> None:
    rig = Rig()
    name = new_id(3)
    broken = opened(rig.tape, id=name)
    assert broken is not None
    broken.response_data([b"no head came before"], 100.0)
    tell(rig.tape)
    rig.pass_on()
    assert [(lost[0], lost[2]) for lost in rig.lost] == [(name, "recording failed (AssertionError)")]
    assert len(rig.recorder.records) == 1


def test_who_tells_too_much_is_held_until_there_is_room() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    full: list[bool] = []
    told.on_full = lambda: full.append(True)
    told.request_data([b"x" * 20_000], 100.0)
    assert full
    assert not told.offer(last=False)
    rig.pass_on()
    assert told.offer(last=False)
    assert rig.tape.lost == 0


def test_who_told_little_goes_on_while_who_told_much_is_held() -> None:
    rig = Rig(limit=4 * SMALL)
    large, small = opened(rig.tape, id=new_id(1)), opened(rig.tape, id=new_id(2))
    assert large is not None
    assert small is not None
    held: list[str] = []
    large.on_full = lambda: held.append("large")
    small.on_full = lambda: held.append("small")
    large.request_data([b"x" * 4 * SMALL], 100.0)
    small.request_data([b"x" * 100], 100.0)
    assert held == ["large"]
    assert not large.offer(last=False)
    many = [told for number in range(3) if (told := opened(rig.tape, id=new_id(number + 3))) is not None]
    for told in many:
        told.on_full = lambda: None
        told.request_data([b"x" * (SMALL - 10_000)], 100.0)
    small.response_head(response(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"), 100.0)
    assert held == ["large", "small"]  # half as much again is on the tape: now everybody waits
    assert not small.offer(last=False)
    rig.pass_on()
    assert large.offer(last=False)
    assert small.offer(last=False)
    assert rig.tape.lost == 0


def test_who_finds_no_room_in_time_loses_the_record_and_it_is_told_so() -> None:
    rig = Rig(limit=10_000)
    name = new_id(5)
    told = opened(rig.tape, id=name)
    assert told is not None
    told.on_full = lambda: None
    told.request_data([b"x" * 20_000], 100.0)
    assert told.offer(last=True)
    assert rig.tape.lost == 1
    told.response_data([b"never"], 101.0)
    told.end(EndReason.COMPLETE, "", 101.0)
    rig.pass_on()
    rig.pass_on()
    assert [(lost[0], lost[1] >= 20_000) for lost in rig.lost] == [(name, True)]
    assert rig.recorder.records == []


def test_an_exchange_that_has_told_all_is_not_lost_for_want_of_room() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    told.request_data([b"x" * 8_000], 100.0)
    held: list[bool] = []
    told.on_full = lambda: held.append(True)
    told.end(EndReason.COMPLETE, "x" * 10, 101.0)
    big = opened(rig.tape)
    assert big is not None
    big.request_data([b"x" * 9_000], 100.0)
    assert told.offer(last=True)
    rig.pass_on()
    assert rig.recorder.records[0].end is not None


def test_nobody_waits_for_a_recorder_that_stands_still() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    told.request_data([b"x" * 9_500], 100.0)
    rig.pass_on(acknowledge=False)
    rig.now += STALLED + 0.1
    told.on_full = lambda: (_ for _ in ()).throw(AssertionError("held back"))  # type: ignore[assignment]
    told.response_data([b"x" * 5_000], rig.now)
    assert rig.tape.lost == 1
    assert rig.tape.open(new_id(9), 0.0, rig.now, CLIENT, UPSTREAM, request()) is None
    assert rig.tape.lost == 2


def test_a_keeper_that_was_idle_is_not_taken_for_stuck() -> None:
    rig = Rig(limit=10_000)
    rig.now += 3600
    told = opened(rig.tape)
    assert told is not None
    full: list[bool] = []
    told.on_full = lambda: full.append(True)
    told.request_data([b"x" * 4_000], rig.now)
    rig.pass_on(acknowledge=False)
    told.request_data([b"x" * 20_000], rig.now)
    assert full
    assert rig.tape.lost == 0


def test_a_dead_keeper_costs_the_exchanges_under_way() -> None:
    rig = Rig()
    told = opened(rig.tape)
    assert told is not None
    rig.tape.stopped()
    told.end(EndReason.COMPLETE, "", 101.0)
    assert rig.tape.lost == 1
    assert opened(rig.tape) is None
    rig.tape.started(rig.now)
    tell(rig.tape)
    rig.pass_on()
    assert len(rig.recorder.records) == 1
    assert len(rig.lost) == 2


def test_what_was_told_of_unfinished_exchanges_is_kept_when_the_teller_is_gone() -> None:
    rig = Rig()
    told = opened(rig.tape)
    assert told is not None
    told.request_data([b"hello"], 100.0)
    rig.pass_on()
    rig.player.cut(101.0)
    (record,) = rig.recorder.records
    assert record.end is None
    assert plain(record)["request_body"][0] == b"hello"


def test_thousands_who_were_not_yet_asked_to_wait_fill_no_memory() -> None:
    rig = Rig(limit=10_000)
    tellers = [told for _ in range(12) if (told := opened(rig.tape)) is not None]
    for told in tellers:
        told.on_full = lambda: None
        told.request_data([b"x" * 5_000], 100.0)
    assert rig.tape.unread < 2 * 10_000 + 6_000
    assert rig.tape.lost > 0
    assert opened(rig.tape) is None


def test_losses_say_why_and_when() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    told.on_full = lambda: None
    told.request_data([b"x" * 20_000], 100.0)
    rig.now = 101.0
    assert told.offer(last=True)
    under_way = opened(rig.tape, id=new_id(8))
    assert under_way is None  # twice the limit is told already
    rig.now = 102.0
    rig.tape.stopped()
    rig.tape.open(new_id(9), 0.0, rig.now, CLIENT, UPSTREAM, request())
    rig.tape.started(rig.now)
    rig.pass_on()
    assert [why for _, _, why in rig.lost] == ["the recording queue was full"] * 2 + ["the recording process had died"]
    assert rig.times == [101.0, 100.0, 102.0]


def test_a_loss_wakes_when_there_is_room_to_tell_of_it() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    told.on_full = lambda: None
    told.request_data([b"x" * 20_000], 100.0)
    told.offer(last=True)
    size = rig.tape.size
    rig.player.play(b"".join(rig.tape.take()))
    assert not rig.lost
    wakes = rig.wakes
    rig.tape.acknowledged(size, rig.now)
    assert rig.wakes == wakes + 1
    rig.pass_on()
    assert len(rig.lost) == 1


def test_the_last_flush_tells_of_losses_even_without_room() -> None:
    rig = Rig(limit=10_000)
    told = opened(rig.tape)
    assert told is not None
    told.on_full = lambda: None
    told.request_data([b"x" * 20_000], 100.0)
    told.offer(last=True)
    rig.player.play(b"".join(rig.tape.take(last=True)))
    assert len(rig.lost) == 1


def test_parts_of_many_exchanges_together_are_bounded() -> None:
    rig = Rig()
    rig.player = Player(rig.recorder, CaptureLimits(), {"openai": UPSTREAM}, rig._lose, rig.declined.append, most=100_000)
    tellers = [told for number in range(20) if (told := opened(rig.tape, id=new_id(number))) is not None]
    for told in tellers:
        told.request_data([b"x" * 9_000], 100.0)
        rig.pass_on()
        rig.player.relieve(100.0)
        assert sum(capture.weight for capture in rig.player._captures.values()) <= 100_000 + 100_000 // 8
    assert rig.recorder.records
    for told in tellers:
        told.request_data([b"y"], 101.0)
        told.end(EndReason.COMPLETE, "", 102.0)
    rig.pass_on()
    bodies: dict[bytes, bytes] = {}
    for record in rig.recorder.records:
        chunks = record.request_body.chunks if record.request_body else []
        bodies[record.id] = bodies.get(record.id, b"") + b"".join(chunks)
    assert set(bodies.values()) == {b"x" * 9_000 + b"y"}
    assert rig.lost == []


def test_a_tape_that_cannot_be_read_is_counted() -> None:
    rig = Rig()
    rig.player.play(b"no tape")
    assert [(size, why) for _, size, why in rig.lost] == [(7, "what the relay told could not be read")]


def test_an_exchange_whose_recording_failed_is_told_lost_once() -> None:
    rig = Rig()
    told = opened(rig.tape)
    assert told is not None
    told.give_up()
    told.give_up()
    told.end(EndReason.COMPLETE, "", 101.0)
    rig.tape.stopped()
    rig.tape.started(rig.now)
    rig.pass_on()
    assert [why for _, _, why in rig.lost] == ["recording failed"]
    assert rig.tape.lost == 1


def test_what_is_written_as_it_was_received_is_told_once() -> None:
    rig = Rig()
    body = bytes(range(256)) * 100
    told = opened(rig.tape)
    assert told is not None
    told.handed("upstream", [b"POST / HTTP/1.1\r\nContent-Length: 25600\r\n\r\n"])
    told.request_data([body[:10]], 100.0)  # nothing of it was handed on yet
    told.handed("upstream", [body[:10], body])
    told.request_data([body], 100.0)
    tape = b"".join(rig.tape.take())
    assert tape.count(body) == 1
    assert len(tape) < len(body) + 2000


@given(st.lists(st.sampled_from([b"", b"small", b"x" * (LARGE - 1), b"y" * LARGE, b"z" * 3 * LARGE]), max_size=5), st.booleans())
def test_large_pieces_cross_beside_the_events_and_are_the_same_there(pieces: list[bytes], chunked: bool) -> None:
    head = request(REQUEST.replace(b"X-Dup: 1", b"X-Dup: " + b"1" * 2 * LARGE))
    records, name = [], new_id(9)
    for recording in (direct := InProcess(Remembering(), CaptureLimits(max_body=1 << 30)), rig := Rig(limit=1 << 30)):
        told = opened(recording if recording is direct else rig.tape, id=name, head=head)
        assert told is not None
        told.handed("upstream", [b"POST / HTTP/1.1\r\n\r\n"])
        for number, piece in enumerate(pieces):
            told.handed("upstream", [b"%x\r\n" % len(piece) + piece + b"\r\n"] if chunked else [piece])
            told.request_data([piece], 100.0 + number)
        told.handed("upstream", pieces)
        told.end(EndReason.COMPLETE, "", 110.0)
        if recording is not direct:
            rig.pass_on()
        records.append(plain((rig.recorder if recording is not direct else direct._recorder).records[-1]))  # type: ignore[attr-defined]
    assert records[0] == records[1]
