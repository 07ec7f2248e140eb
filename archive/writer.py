"""Writer: the Recorder that keeps what it is given. One thread takes records from a bounded queue and appends them as members.

It never holds back the relay: a record is taken, or it is dropped and counted. What a line says is `archive.line`'s business; how
bytes get into a file whole or not at all is `archive.segment`'s.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from archive import member
from archive.effort import Effort
from archive.errors import Unwritable
from archive.folder import make_folder
from archive.inbox import Inbox
from archive.line import SERVICE_PART, close_line, declined_line, gap_line, open_line, to_line
from archive.outbox import Outbox, Sync, words
from archive.pressure import Declined, Gap
from archive.record import Record, id_text, new_id

__all__ = ["Sync", "Writer", "WriterStats"]

_BATCH_RECORDS: Final = 64
_BATCH_BYTES: Final = 4 << 20
"""One trip to the disk: many records share its few system calls, each of which gives the interpreter lock away. No more small ones than are
still in the processor's cache when they are written: 60 take 68 us each from the tape to the file, 250 take 88."""
_BATCH_SYNCED: Final = 256
"""Records in a trip that ends with a sync, which takes milliseconds."""
_GATHER: Final = 0.01
"""Seconds between two trips while less than a batch is there to take."""
_LARGE: Final = 32 << 10
"""Bytes of a line from which handing its compression to another thread costs less than it gains: 40 KB take about 0.1 ms."""
_WARN_EVERY: Final = 60.0
_GAP_EVERY: Final = 1.0
"""Seconds between two gap lines while records are being lost all the time."""
_DECLINED_EVERY: Final = 60.0
"""Seconds between two lines that tell of exchanges declined: nothing is lost, so there is no hurry."""


@dataclass(frozen=True, slots=True)
class WriterStats:
    """One look at the counters. At rest every record offered is in exactly one of written, empty, dropped and queued."""

    written: int
    """Records in the archive."""
    bytes_written: int
    """Bytes of members in the archive, the writer's own lines included."""
    empty: int
    """Records that held nothing to keep: they were hashed and let go."""
    dropped: int
    dropped_bytes: int
    """Bytes of memory that the dropped records held (`Record.weight`)."""
    queued: int
    """Records taken and not yet in the archive, those being written included."""
    queued_bytes: int
    paused: bool
    """The disk refuses: records wait in the queue, and are dropped once it is full."""
    last_error: str | None
    sync_failures: int
    """Times the disk said that what it took may not be there after a power loss."""
    segment: str
    """The file last written to; empty before the first."""


class Writer:
    """Keeps records in `folder`. Any thread may `put`; `start` and `close` are for the one who owns the writer, once each.

    **Nothing goes missing in silence.** The writer numbers its lines in the order of the file, from 0 (its `open` line) to its `close`
    line. Lost records get their numbers when their loss is written down: a `gap` line with number `s` that tells of `n` records stands
    for the numbers `s - n` to `s - 1`, and no others are left out. So an archive is complete, up to a writer's last line, when every
    number is there or belongs to a gap; a writer that has no `close` line and does not run was killed, and what it had queued is lost.

    **Bounds.** At most `queue_records` records and `queue_bytes` bytes by their weight are held, the batch being written included; a
    record heavier than the whole bound is taken only when nothing else is held.

    **Pressure.** When the disk refuses, for whatever reason, or has less than `min_free` bytes left, writing pauses for `cooldown`
    seconds at a time. Records wait in the queue; what no longer fits is dropped and counted. One warning a minute. When the disk
    takes records again, a gap line says from when to when, how many were lost (perhaps none), and why.

    **Safety.** See `Sync`. A failed sync is never retried as if nothing were the matter: it is counted and warned of, with "record"
    those records are not acknowledged, and later records go through a descriptor opened anew, to the end of the same segment.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str,
        rules_hash: str = "",
        queue_records: int = 8192,
        queue_bytes: int = 64 << 20,
        sync: Sync = "1s",
        min_free: int = 256 << 20,
        decode_limit: int = 64 << 20,
        cooldown: float = 2.0,
        adaptive: bool = True,
        log: logging.Logger | None = None,
        on_written: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        """`adaptive`: what the writer would fall behind with is stored uncompressed (`archive.effort`). `on_written` is called in the
        writer's thread with records that are as safe as `sync` promises.
        """
        self.id = new_id(time.time_ns() // 1_000_000)
        self._name = id_text(self.id)
        self._folder = folder
        self._version = version
        self._rules_hash = rules_hash
        self._decode_limit = decode_limit
        self._log = log or logging.getLogger("verbatim.archive")
        self._inbox = Inbox(max_records=queue_records, max_bytes=queue_bytes)
        self._outbox = Outbox(
            folder, self._inbox, sync=sync, min_free=min_free, cooldown=cooldown, complain=self._complain, on_written=on_written
        )
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._clean = False
        # The thread's own from here on; others only read.
        self._seq = 0
        self._empty = 0
        self._last_error: str | None = None
        self._packer: ThreadPoolExecutor | None = None
        self._one_core = _cores() == 1
        self._effort = Effort(adaptive=adaptive)
        self._hurried = False
        self._batch = _BATCH_SYNCED if sync == "record" else _BATCH_RECORDS
        self._gap_at = 0.0
        self._declined = Declined()
        self._warned: dict[str, float] = {}

    # For its owner, and for producers.

    def start(self) -> None:
        """Make the folder and begin to write. Raises Unwritable when there can be no archive at that place; blocks on the disk."""
        try:
            make_folder(self._folder)
        except OSError as error:
            raise Unwritable(error.errno or errno.EIO, f"cannot make the archive folder {self._folder}: {words(error)}") from error
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise Unwritable(errno.EACCES, f"cannot write to the archive folder {self._folder}")
        self._thread.start()

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        """As `Recorder.put`: never blocks, never raises. With `may_wait` False is the answer only while room is being made."""
        return self._inbox.put(record, may_wait=may_wait)

    def lose(self, id: bytes, weight: int, why: str, ago: float = 0.0) -> None:
        """Count a record of the exchange `id` that its producer had to give up `ago` seconds before now, about `weight` bytes; a gap
        line will tell of it.
        """
        self._inbox.lose(id, weight, why, ago)

    def decline(self, exchanges: int) -> None:
        """So many more exchanges are not recorded, at their clients' wish; a line will tell of them."""
        self._declined.add(exchanges, time.time())
        self._inbox.stir()

    def hurry(self, hurried: bool) -> None:
        """Whether what feeds this writer lacks processor time just now: then none is spent on compressing. Any thread; does not block."""
        self._hurried = hurried

    def stay_close(self, records: int, seconds: float) -> bool:
        """For one who feeds it from another thread, and would rather not run ahead: as `Inbox.stay_close`."""
        return self._inbox.stay_close(records, seconds)

    @property
    def ahead(self) -> int:
        """Records that wait or are on their way to the disk. Any thread; does not block."""
        return self._inbox.ahead

    def close(self, timeout: float) -> bool:
        """Write what is queued, then the `close` line; blocks for at most about `timeout` seconds.

        True: every record taken is on the disk. False: time ran out, and what is left is dropped and counted. A disk that hangs keeps
        the (daemon) thread beyond this call.
        """
        self._deadline = min(self._deadline, time.monotonic() + timeout)
        self._inbox.close()
        self._closing.set()
        if self._thread.ident is None:
            self._abandon()
            return not self._inbox.dropped[0]
        self._thread.join(max(0.0, self._deadline - time.monotonic()) + _GATHER * 5)
        return self._clean and not self._thread.is_alive()

    def stats(self) -> WriterStats:
        """The counters now. Any thread; does not block."""
        queued, queued_bytes = self._inbox.queued
        dropped, dropped_bytes = self._inbox.dropped
        return WriterStats(
            written=self._outbox.written,
            bytes_written=self._outbox.bytes_written,
            empty=self._empty,
            dropped=dropped,
            dropped_bytes=dropped_bytes,
            queued=queued,
            queued_bytes=queued_bytes,
            paused=self._outbox.paused,
            last_error=self._last_error,
            sync_failures=self._outbox.sync_failures,
            segment=self._outbox.segment,
        )

    # The thread: a trip is take, number, pack, append.

    def _run(self) -> None:
        self._outbox.recover()
        self._open()
        try:
            self._work()
        finally:
            if self._packer is not None:
                self._packer.shutdown()

    def _work(self) -> None:
        while True:
            closing = self._closing.is_set()
            try:
                self._trip()
            except Exception as error:  # a bug of ours must not end the recording
                self._complain("bug", f"the writer stumbled: {type(error).__name__}")
                time.sleep(_GATHER)
            if closing and self._empty_handed():
                self._close()
                return
            if time.monotonic() >= self._deadline:
                self._abandon()
                self._outbox.finish()
                return
            self._rest()

    def _trip(self) -> None:
        began = time.perf_counter()
        if not self._outbox:
            self._pack()
        if not self._outbox.paused:
            self._note(None)
            self._note_declined()
        packed = time.perf_counter()
        pause = self._outbox.send(insist=self._closing.is_set())
        if pause is not None:
            self._note(pause)
        self._inbox.worked()  # not before: two threads at once would only take the interpreter's lock from each other
        self._outbox.sync_if_due()
        ended = time.perf_counter()
        self._effort.spent(ended - began, ended - packed)

    def _pack(self) -> None:
        """Encode and pack a batch. Where there are cores, large lines are compressed by two more threads, which releases the lock."""
        packing: list[tuple[Record, bytes | Future[bytes]]] = []
        batch = self._inbox.take(self._batch, _BATCH_BYTES)
        waiting = self._inbox.queued[1] - sum(record.weight for record in batch)
        stores = self._effort.stores(len(self._inbox), waiting, hurried=self._hurried)
        for record in batch:
            self._inbox.alive()
            try:
                line = to_line(record, writer=self._name, seq=self._seq, decode_limit=self._decode_limit)
                packed = None if line is None else self._member(line, record, stores)
            except Exception as error:  # this record's alone; what the exception says might be content
                self._could_not_encode(record, error)
                continue
            if packed is None:
                self._empty += 1
                self._inbox.done(record)
                continue
            packing.append((record, packed))
            self._seq += 1
        for record, packed in packing:
            try:
                self._outbox.add(packed if isinstance(packed, bytes) else packed.result(), record)
            except Exception as error:  # no memory, say; its number stays a hole, which is what `verify` then reports
                self._could_not_encode(record, error)

    def _member(self, line: bytes, record: Record, stores: bool) -> bytes | Future[bytes]:
        if stores:
            return member.store(line + b"\n", id=record.id, part=record.part, seq=self._seq)
        if len(line) < _LARGE or self._one_core:
            return member.pack(line + b"\n", id=record.id, part=record.part, seq=self._seq)
        if self._packer is None:
            self._packer = ThreadPoolExecutor(2, thread_name_prefix="archive-packer")
        return self._packer.submit(member.pack, line + b"\n", id=record.id, part=record.part, seq=self._seq)

    def _could_not_encode(self, record: Record, error: Exception) -> None:
        why = f"a record could not be encoded ({type(error).__name__})"
        self._complain("encoding", why)
        self._inbox.lost(record, why)

    def _note(self, pause: Gap | None) -> None:
        """A gap line for what was lost, and for `pause`, which is over; for losses alone at most one a second until the end."""
        now = time.time()
        if pause is None and 0 <= now - self._gap_at < _GAP_EVERY and not self._closing.is_set():
            return
        losses = self._inbox.losses()
        gap = losses if pause is None else pause.joined(losses)
        if gap is None:
            return
        if gap.records:
            self._complain("loss", f"{gap.records} records of {gap.exchanges} exchanges were lost: {gap.why}")
        self._gap_at = now
        self._seq += gap.records
        self._add_own(
            gap_line(
                writer=self._name,
                seq=self._seq,
                at=now,
                since=gap.since,
                until=gap.until,
                records=gap.records,
                exchanges=gap.exchanges,
                size=gap.bytes,
                why=gap.why,
            )
        )

    def _note_declined(self) -> None:
        """A line for those declined since the last: at most one a minute, and one at the end."""
        now = time.time()
        told = self._declined.take(now, every=0.0 if self._closing.is_set() else _DECLINED_EVERY)
        if told is not None:
            since, until, exchanges = told
            line = declined_line(writer=self._name, seq=self._seq, at=now, since=since, until=until, exchanges=exchanges)
            self._add_own(line)

    def _open(self) -> None:
        self._add_own(
            open_line(
                writer=self._name,
                seq=self._seq,
                at=time.time(),
                version=self._version,
                rules_hash=self._rules_hash,
                host=socket.gethostname(),
                pid=os.getpid(),
            )
        )

    def _close(self) -> None:
        """The last line; then everything on the disk."""
        dropped, _ = self._inbox.dropped
        self._add_own(close_line(writer=self._name, seq=self._seq, at=time.time(), written=self._outbox.written, dropped=dropped))
        failures = self._outbox.sync_failures
        self._outbox.send(insist=True)
        while len(self._outbox) and time.monotonic() < self._deadline:
            time.sleep(_GATHER)
            self._outbox.send(insist=True)
        self._clean = self._outbox.finish() and self._outbox.sync_failures == failures

    def _add_own(self, line: bytes) -> None:
        """Send a line of the writer's own after those held; it has the next number."""
        self._outbox.add(member.pack(line + b"\n", id=self.id, part=SERVICE_PART, seq=self._seq), None)
        self._seq += 1

    def _empty_handed(self) -> bool:
        return not (len(self._inbox) or self._inbox.losing or self._declined or len(self._outbox))

    def _rest(self) -> None:
        """Until the next trip. `close` ends every wait; a disk that refuses while closing is tried a hundred times a second."""
        if self._outbox.paused:
            if self._closing.wait(min(self._outbox.patience(), threading.TIMEOUT_MAX)):
                time.sleep(_GATHER)
        elif len(self._inbox) < self._batch and self._inbox.queued[1] < _BATCH_BYTES and not len(self._outbox):
            if not (len(self._inbox) or self._inbox.losing):
                patience = min(self._outbox.patience(), self._declined.patience(time.time(), every=_DECLINED_EVERY))
                self._inbox.wait(None if patience > threading.TIMEOUT_MAX else patience)
            self._inbox.gather(self._batch, _GATHER)  # what comes meanwhile shares the trip

    def _abandon(self) -> None:
        """Out of time: what is left is lost. Nobody writes that down; a reader sees that the `close` line is missing."""
        why = "the writer was stopped before they were written"
        rest = self._outbox.abandon()
        while batch := self._inbox.take(_BATCH_RECORDS, _BATCH_BYTES):
            rest += batch
        for record in rest:
            self._inbox.lost(record, why)
        if rest:
            self._complain("abandoned", f"{len(rest)} records were lost: {why}")

    def _complain(self, about: str, words: str) -> None:
        """One warning a minute for each kind of trouble, and never a traceback: it might show what was recorded."""
        now = time.monotonic()
        self._last_error = words
        if now - self._warned.get(about, -_WARN_EVERY) >= _WARN_EVERY:
            self._warned[about] = now
            self._log.warning("%s", words)


def _cores() -> int:
    """Cores this process may use: on one alone, handing work to another thread only costs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
