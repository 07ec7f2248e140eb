"""The inbox: bounded in records and bytes, exact about what it drops, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from rig_archive import record, until

from archive import inbox as module
from archive.inbox import Inbox


def test_the_queue_is_bounded_in_records_and_in_bytes() -> None:
    by_records = Inbox(max_records=3, max_bytes=1000)
    assert all(by_records.put(record(weight=1)) for _ in range(5))
    assert (by_records.queued, by_records.dropped) == ((3, 3), (2, 2))
    by_bytes = Inbox(max_records=1000, max_bytes=100)
    assert all(by_bytes.put(record(weight=40)) for _ in range(5))
    assert (by_bytes.queued, by_bytes.dropped) == ((2, 80), (3, 120))
    assert by_bytes.put(record(weight=20))
    assert by_bytes.queued == (3, 100)


def test_a_record_being_written_still_counts() -> None:
    inbox = Inbox(max_records=2, max_bytes=1000)
    one, two, three = record(weight=1), record(weight=1), record(weight=1)
    assert inbox.put(one)
    assert inbox.put(two)
    assert inbox.take(10, 1000) == [one, two]
    assert inbox.put(three)
    assert inbox.dropped == (1, 1)
    inbox.done(one)
    assert inbox.put(three)
    assert (inbox.queued, inbox.dropped) == ((2, 2), (1, 1))


def test_a_record_heavier_than_the_bound_is_taken_when_nothing_else_is_held() -> None:
    inbox = Inbox(max_records=10, max_bytes=100)
    heavy = record(weight=1000)
    assert inbox.put(heavy)
    assert inbox.put(record(weight=1))
    assert (inbox.queued, inbox.dropped) == ((1, 1000), (1, 1))


def test_a_producer_is_asked_to_wait_only_while_room_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    inbox = Inbox(max_records=1, max_bytes=1000)
    first, second = record(), record()
    assert inbox.put(first, may_wait=True)
    assert not inbox.put(second, may_wait=True)  # full, and something was done a moment ago
    assert inbox.dropped == (0, 0)
    clock[0] += module._PROGRESS + 0.01
    assert inbox.put(second, may_wait=True)  # nothing was done for a while: dropped at once
    assert inbox.dropped[0] == 1
    inbox.alive()
    assert not inbox.put(second, may_wait=True)
    inbox.refuse("no space")
    assert inbox.put(second, may_wait=True)
    assert inbox.dropped[0] == 2
    gap = inbox.losses()
    assert gap is not None
    assert gap.why == "the queue is full; no space"
    inbox.refuse("")
    assert not inbox.put(second, may_wait=True)
    assert inbox.put(second)  # the last time without waiting
    assert inbox.dropped[0] == 3


def test_losses_are_told_once() -> None:
    inbox = Inbox(max_records=1, max_bytes=1000)
    one, two = record(weight=5), record(weight=7)
    inbox.put(one)
    inbox.put(two)
    inbox.put(replace(two, part=1))
    assert inbox.losing
    gap = inbox.losses()
    assert gap is not None
    assert (gap.records, gap.exchanges, gap.bytes, gap.why) == (2, 1, 14, "the queue is full")
    assert not inbox.losing
    assert inbox.losses() is None
    (taken,) = inbox.take(10, 1000)
    inbox.lost(taken, "a reason")
    gap = inbox.losses()
    assert gap is not None
    assert (gap.records, gap.why) == (1, "a reason")
    assert (inbox.queued, inbox.dropped) == ((0, 0), (3, 19))


def test_after_closing_everything_is_dropped_and_counted() -> None:
    inbox = Inbox(max_records=10, max_bytes=1000)
    inbox.put(record(weight=1))
    inbox.close()
    assert inbox.put(record(weight=2))
    assert inbox.put(record(weight=2), may_wait=True)
    assert (inbox.queued, inbox.dropped) == ((1, 1), (2, 4))
    assert not inbox.losing


def test_a_batch_ends_at_its_bounds() -> None:
    inbox = Inbox(max_records=100, max_bytes=10_000)
    for _ in range(10):
        inbox.put(record(weight=10))
    assert len(inbox.take(3, 1000)) == 3
    assert len(inbox.take(100, 25)) == 3  # goes over by the last one
    assert len(inbox.take(100, 1000)) == 4
    assert inbox.take(100, 1000) == []


def test_the_consumer_wakes_for_a_record_a_loss_and_the_end() -> None:
    for act in (Inbox.put, lambda inbox, _: inbox.close()):
        inbox = Inbox(max_records=10, max_bytes=10_000)
        woken = threading.Event()

        def consume(inbox: Inbox = inbox, woken: threading.Event = woken) -> None:
            inbox.wait(None)
            woken.set()

        thread = threading.Thread(target=consume)
        thread.start()
        while not inbox._asleep:
            time.sleep(0.001)
        assert not woken.is_set()
        act(inbox, record())
        assert woken.wait(10)
        thread.join()
    inbox = Inbox(max_records=10, max_bytes=10_000)
    began = time.monotonic()
    inbox.wait(0.02)
    assert time.monotonic() - began >= 0.02
    inbox.put(record())
    inbox.wait(None)  # something is there already


def test_many_producers_and_a_consumer_lose_and_double_nothing() -> None:
    inbox = Inbox(max_records=50, max_bytes=1 << 30)
    seen: list[bytes] = []
    finished = threading.Event()

    def produce() -> None:
        for _ in range(1000):
            inbox.put(record(weight=3))

    def consume() -> None:
        while not (finished.is_set() and not len(inbox)):
            inbox.wait(0.01)
            for each in inbox.take(7, 1 << 30):
                seen.append(each.id)
                inbox.done(each)

    consumer = threading.Thread(target=consume)
    producers = [threading.Thread(target=produce) for _ in range(4)]
    for thread in (consumer, *producers):
        thread.start()
    for thread in producers:
        thread.join()
    finished.set()
    consumer.join()
    assert len(seen) == len(set(seen))
    assert len(seen) + inbox.dropped[0] == 4000
    assert inbox.queued == (0, 0)
    gap = inbox.losses()
    assert (gap.records if gap else 0) == inbox.dropped[0]


def test_one_that_was_silent_for_long_is_waited_for_a_moment_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    inbox = Inbox(max_records=1, max_bytes=1000)
    assert inbox.put(record(), may_wait=True)
    clock[0] += 3600  # the whole process stood still, or its machine slept
    second = record()
    assert not inbox.put(second, may_wait=True)
    clock[0] += module._AWAKE - 0.01
    assert not inbox.put(second, may_wait=True)
    clock[0] += 0.02
    assert inbox.put(second, may_wait=True)
    assert inbox.put(record(), may_wait=True)  # and the next does not wait anew
    assert inbox.dropped[0] == 2


def test_a_small_record_that_finds_a_gap_makes_nobody_wait_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    inbox = Inbox(max_records=100, max_bytes=1000)
    assert inbox.put(record(weight=900), may_wait=True)
    clock[0] += 3600
    assert not inbox.put(record(weight=200), may_wait=True)
    clock[0] += module._AWAKE + 0.01
    for _ in range(3):
        assert inbox.put(record(weight=200), may_wait=True)
        assert inbox.put(record(weight=10), may_wait=True)
    assert inbox.dropped == (3, 600)
    inbox.alive()  # the consumer lives: from here on a wait makes sense again
    assert not inbox.put(record(weight=200), may_wait=True)
    clock[0] += module._PROGRESS + 0.01
    assert inbox.put(record(weight=200), may_wait=True)
    assert inbox.dropped == (4, 800)


def test_a_producer_that_stays_close_waits_until_what_was_taken_is_worked_on() -> None:
    inbox = Inbox(max_records=100, max_bytes=1000)
    assert inbox.stay_close(0, 0)
    for _ in range(3):
        inbox.put(record(weight=1))
    assert inbox.stay_close(3, 60)
    assert not inbox.stay_close(2, 0.001)
    assert len(inbox.take(2, 1000)) == 2
    assert (len(inbox), inbox.ahead) == (1, 3)
    waited: list[bool] = []
    producer = threading.Thread(target=lambda: waited.append(inbox.stay_close(2, 60)))
    producer.start()
    inbox.worked()
    producer.join(30)
    assert (waited, inbox.ahead) == ([True], 1)


def test_one_that_waits_in_vain_hears_whether_there_was_headway() -> None:
    inbox = Inbox(max_records=100, max_bytes=1000)
    for _ in range(5):
        inbox.put(record(weight=1))
    inbox.take(2, 1000)
    inbox._caught_up.set()
    waited: list[bool] = []
    producer = threading.Thread(target=lambda: waited.append(inbox.stay_close(0, 0.5)))
    producer.start()
    until(lambda: not inbox._caught_up.is_set())
    inbox.worked()
    producer.join(30)
    assert (waited, inbox.ahead) == ([True], 3)


@pytest.mark.parametrize("end", ["records", "closed"])
def test_gathering_ends_with_a_batch_or_with_the_inbox(end: str) -> None:
    inbox = Inbox(max_records=100, max_bytes=1000)
    inbox.put(record(weight=1))
    inbox.lose(b"x", 1, "for a reason")  # no reason to hurry
    gathered: list[int] = []

    def gather() -> None:
        inbox.gather(3, 60)
        gathered.append(len(inbox))

    consumer = threading.Thread(target=gather)
    consumer.start()
    until(lambda: inbox._asleep)
    inbox.put(record(weight=1))
    assert not gathered
    inbox.close() if end == "closed" else inbox.put(record(weight=1))
    consumer.join(30)
    assert gathered == [2 if end == "closed" else 3]
