"""Inbox: the queue between those who produce records and the one thread that writes them. Bounded in records and in bytes.

What does not fit is counted here, exactly. Knows no files and no lines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

from archive.pressure import Gap, Ledger
from archive.record import Record

__all__ = ["Inbox"]

_PROGRESS: Final = 0.5
"""Seconds without a sign of life from the consumer after which a producer is no longer asked to wait for room. Long enough for a thread
that the machine, or a busy loop with the interpreter lock, keeps from running (0.3 s were seen on two crowded cores); a disk that hangs
is noticed by then, since it takes longer to fill the queue."""
_AWAKE: Final = 0.1
"""Seconds for which a consumer long silent is waited for all the same, once: a process that was stopped goes on with all its threads."""


class Inbox:
    """Any thread may `put`; one thread, the consumer, calls the rest. `put` takes about a microsecond and waits for nothing but other puts.

    Producers and consumer share no lock on the way of a record: a lock that the consumer holds when the interpreter takes it off its
    core would stop the relay's loop for as long. So each side counts for itself (what was taken; what is done) and reads the other's
    count, and the consumer takes the producers' lock only to write down a loss.
    """

    __slots__ = (
        "_asleep",
        "_bell",
        "_caught_up",
        "_closed",
        "_done",
        "_done_bytes",
        "_dropped",
        "_dropped_bytes",
        "_full_since",
        "_gate",
        "_in_hand",
        "_ledger",
        "_max_bytes",
        "_max_records",
        "_progress",
        "_records",
        "_refusing",
        "_stirred",
        "_taken",
        "_taken_bytes",
        "_wanted",
    )

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: deque[Record] = deque()
        self._gate = threading.Lock()
        self._bell = threading.Event()
        self._caught_up = threading.Event()
        self._in_hand = 0
        self._asleep = False
        self._wanted = 1
        self._stirred = False
        self._closed = False
        self._refusing = ""
        self._taken = 0
        self._taken_bytes = 0
        self._done = 0
        self._done_bytes = 0
        self._dropped = 0
        self._dropped_bytes = 0
        self._ledger = Ledger()
        self._progress = time.monotonic()
        self._full_since = float("inf")
        """Since when somebody waits for room, with no sign of life since then."""

    # Producers.

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        """As `Recorder.put`. A record heavier than the whole bound is taken only into an empty inbox."""
        weight = record.weight
        with self._gate:
            queued = self._taken - self._done
            # One that is done between these two lines only makes room.
            if not self._closed and (
                not queued or (queued < self._max_records and self._taken_bytes - self._done_bytes + weight <= self._max_bytes)
            ):
                self._records.append(record)
                self._taken += 1
                self._taken_bytes += weight
            elif may_wait and not self._closed and not self._refusing and self._progresses():
                return False
            elif self._closed:
                self._dropped += 1  # and no gap: nobody is there to write it down
                self._dropped_bytes += weight
            else:
                self._lose(record, self._refusing or "the queue is full")
        if self._asleep and len(self._records) >= self._wanted:
            self._asleep = False
            self._progress = time.monotonic()  # it was idle, not stuck
            self._bell.set()
        return True

    def lose(self, id: bytes, weight: int, why: str, ago: float = 0.0) -> None:
        """Count a record that never came this far; it was lost `ago` seconds before now."""
        with self._gate:
            self._lost(id, weight, why, ago)
        if self._asleep:
            self._bell.set()

    def stir(self) -> None:
        """Wake the consumer: it has something to do that is not here."""
        self._stirred = True
        if self._asleep:
            self._bell.set()

    def stay_close(self, records: int, seconds: float) -> bool:
        """Wait, so many seconds at most, until at most so many records are ahead of the consumer. False: they are more, and it has come
        no further meanwhile. For one producer at a time.
        """
        before = self.ahead
        deadline = time.monotonic() + seconds
        while self.ahead > records:
            self._caught_up.clear()
            # In this order: what the consumer did before is seen here, what it does after ends the wait.
            if self.ahead > records and not self._caught_up.wait(max(0.0, deadline - time.monotonic())):
                return self.ahead < before
        return True

    def close(self) -> None:
        """From now on records are dropped and counted; the consumer is woken."""
        with self._gate:
            self._closed = True
        self._bell.set()

    # The consumer.

    def take(self, records: int, bytes: int) -> list[Record]:
        """The oldest records: at most that many, and no more of them once they weigh `bytes`. They stay counted until `done`."""
        batch: list[Record] = []
        weight = 0
        while self._records and len(batch) < records and weight < bytes:
            record = self._records.popleft()
            batch.append(record)
            weight += record.weight
        self._in_hand = len(batch)
        return batch

    def worked(self) -> None:
        """The consumer has done with what it took whatever it could for now."""
        self._in_hand = 0
        self._caught_up.set()

    def alive(self) -> None:
        """Say that work goes on, so producers may wait for room."""
        self._progress = time.monotonic()

    def done(self, record: Record) -> None:
        """A record that was taken is where it belongs: its room is free."""
        self._done += 1
        self._done_bytes += record.weight

    def lost(self, record: Record, why: str) -> None:
        """A record that was taken could not be kept."""
        with self._gate:
            self._lose(record, why)
        self.done(record)

    def refuse(self, why: str) -> None:
        """While `why` is not empty no room is being made: producers are not asked to wait, and what they lose is lost for that reason."""
        self._refusing = why

    def losses(self) -> Gap | None:
        """What was lost since the last call, or None."""
        if not self._ledger:
            return None
        with self._gate:
            ledger, self._ledger = self._ledger, Ledger()
        return ledger.gap()

    def gather(self, records: int, seconds: float) -> None:
        """Until there are so many records, the inbox is closed, or the time is over."""
        self._bell.clear()
        self._wanted = records
        self._asleep = True
        if len(self._records) < records and not self._closed:
            self._bell.wait(seconds)
        self._asleep = False

    def wait(self, seconds: float | None) -> None:
        """Until there is a record, the inbox is closed, something is lost, somebody stirs, or the time is over (None: it is never over)."""
        self._bell.clear()
        self._wanted = 1
        self._asleep = True
        # In this order: a put that came before `_asleep` is seen here, one that comes after rings the bell.
        if not (self._records or self._ledger or self._closed or self._stirred):
            self._bell.wait(seconds)
        self._asleep = self._stirred = False

    # Counts, for anyone; each is exact, together they are a moment apart.

    def __len__(self) -> int:
        """Records that wait to be taken by the consumer."""
        return len(self._records)

    @property
    def ahead(self) -> int:
        """Records that wait for the consumer or are being worked on."""
        return len(self._records) + self._in_hand

    @property
    def losing(self) -> bool:
        """Something was lost that `losses` has not told of yet."""
        return bool(self._ledger)

    @property
    def queued(self) -> tuple[int, int]:
        """Records and bytes taken and not yet done."""
        return self._taken - self._done, self._taken_bytes - self._done_bytes

    @property
    def dropped(self) -> tuple[int, int]:
        """Records and bytes lost since the beginning."""
        return self._dropped, self._dropped_bytes

    def _progresses(self) -> bool:
        """Whether there was a sign of life lately, or may be any moment: the whole process may have stood still until now."""
        now = time.monotonic()
        if self._progress > self._full_since:
            self._full_since = float("inf")  # not a small record that found a gap, only the consumer ends a wait
        self._full_since = min(self._full_since, now)
        return now - self._progress < _PROGRESS or now - self._full_since < _AWAKE

    def _lose(self, record: Record, why: str) -> None:
        self._lost(record.id, record.weight, why)

    def _lost(self, id: bytes, weight: int, why: str, ago: float = 0.0) -> None:
        self._dropped += 1
        self._dropped_bytes += weight
        self._ledger.lost(time.time() - ago, id, weight, why)
