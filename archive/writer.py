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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from archive import member
from archive.errors import Unwritable
from archive.inbox import Inbox
from archive.line import SERVICE_PART, close_line, gap_line, open_line, to_line
from archive.pressure import WARN_EVERY, Gap, Pressure
from archive.record import Record, id_text, new_id
from archive.segment import Appender, make_folder

__all__ = ["Sync", "Writer", "WriterStats"]

Sync = Literal["1s", "record", "never"]
"""What a written record survives. All three: the death of this process, kill -9 included. "1s": a power loss too, but for the last
second. "record": a power loss, before it counts as written. "never": a power loss only by luck (the kernel writes back within about
half a minute)."""

_BATCH_RECORDS: Final = 256
_BATCH_BYTES: Final = 4 << 20
"""One trip to the disk: many records share its few system calls, each of which gives the interpreter lock away."""
_GATHER: Final = 0.01
"""Seconds between two trips while less than a batch is there to take."""
_SYNC_EVERY: Final = 1.0
_GAP_EVERY: Final = 1.0
"""Seconds between two gap lines while records are being lost all the time."""
_SPACE_EVERY: Final = 0.2
"""Seconds between two looks at the free space: less than 200 MiB are written in that time."""


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


class _Packed(NamedTuple):
    member: bytes
    record: Record | None
    """None for the writer's own lines."""


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
    those records do not count as written, and later records go through a descriptor opened anew.
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
        log: logging.Logger | None = None,
        on_written: Callable[[Sequence[Record]], None] | None = None,
    ) -> None:
        """`on_written` is called in the writer's thread with records that are as safe as `sync` promises."""
        self.id = new_id(time.time_ns() // 1_000_000)
        self._name = id_text(self.id)
        self._folder = folder
        self._version = version
        self._rules_hash = rules_hash
        self._sync: Sync = sync
        self._min_free = min_free
        self._decode_limit = decode_limit
        self._log = log or logging.getLogger("verbatim.archive")
        self._on_written = on_written
        self._inbox = Inbox(max_records=queue_records, max_bytes=queue_bytes)
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._clean = False
        # Everything below is the thread's own; others only read it.
        self._appender = Appender(folder, durable=sync != "never")
        self._pressure = Pressure(cooldown=cooldown)
        self._held: list[_Packed] = []
        """Numbered and packed, and not yet in the segment."""
        self._seq = 0
        self._written = 0
        self._bytes_written = 0
        self._empty = 0
        self._last_error: str | None = None
        self._sync_failures = 0
        self._unsynced: list[Record] = []
        self._sync_at = float("inf")
        """Monotonic seconds at which to sync next; never while there is nothing to."""
        self._gap_at = 0.0
        self._space_at = 0.0
        self._warned: dict[str, float] = {}

    # For its owner, and for producers.

    def start(self) -> None:
        """Make the folder and begin to write. Raises Unwritable when there can be no archive at that place; blocks on the disk."""
        try:
            make_folder(self._folder)
        except OSError as error:
            raise Unwritable(error.errno or errno.EIO, f"cannot make the archive folder {self._folder}: {_words(error)}") from error
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise Unwritable(errno.EACCES, f"cannot write to the archive folder {self._folder}")
        self._thread.start()

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        """As `Recorder.put`: never blocks, never raises. With `may_wait` False is the answer only while room is being made."""
        return self._inbox.put(record, may_wait=may_wait)

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
            written=self._written,
            bytes_written=self._bytes_written,
            empty=self._empty,
            dropped=dropped,
            dropped_bytes=dropped_bytes,
            queued=queued,
            queued_bytes=queued_bytes,
            paused=self._pressure.paused,
            last_error=self._last_error,
            sync_failures=self._sync_failures,
            segment=self._appender.name,
        )

    # The thread: a trip is take, pack, append, sync.

    def _run(self) -> None:
        self._begin()
        while True:
            closing = self._closing.is_set()
            try:
                self._trip()
            except Exception as error:  # a bug of ours must not end the recording
                self._complain("bug", f"the writer stumbled: {type(error).__name__}")
                time.sleep(_GATHER)
            if closing and not (len(self._inbox) or self._held or self._inbox.losing):
                break
            if time.monotonic() >= self._deadline:
                self._abandon()
                break
            self._rest()
        self._end()

    def _begin(self) -> None:
        try:
            set_aside = self._appender.recover()
        except OSError as error:
            self._complain("recover", f"the newest segment could not be checked: {_words(error)}")
        else:
            self._tell_of(set_aside)
        host, pid = socket.gethostname(), os.getpid()
        self._hold(
            open_line(
                writer=self._name, seq=self._seq, at=time.time(), version=self._version, rules_hash=self._rules_hash, host=host, pid=pid
            )
        )

    def _trip(self) -> None:
        if not self._held:
            self._pack()
        if not self._pressure.paused:
            self._note_losses(None)
        if self._held:
            self._append()
        if time.monotonic() >= self._sync_at:
            self._sync_now()

    def _pack(self) -> None:
        for record in self._inbox.take(_BATCH_RECORDS, _BATCH_BYTES):
            self._inbox.alive()
            try:
                line = to_line(record, writer=self._name, seq=self._seq, decode_limit=self._decode_limit)
                packed = None if line is None else member.pack(line + b"\n", id=record.id, part=record.part, seq=self._seq)
            except Exception as error:  # whatever it is, it is this record's alone; its text might hold content
                self._complain("encode", f"a record could not be encoded: {type(error).__name__}")
                self._inbox.lost(record, f"a record could not be encoded ({type(error).__name__})")
                continue
            if packed is None:
                self._empty += 1
                self._inbox.done(record)
                continue
            self._held.append(_Packed(packed, record))
            self._seq += 1

    def _note_losses(self, pause: Gap | None) -> None:
        """Hold a gap line for what was lost, and for `pause`, which is over; at most one a second but for pauses and the end."""
        now = time.time()
        if pause is None and (not self._inbox.losing or (0 <= now - self._gap_at < _GAP_EVERY and not self._closing.is_set())):
            return
        losses = self._inbox.losses()
        gap = losses if pause is None else pause.joined(losses)
        if gap is None:
            return
        if gap.records:
            self._complain("loss", f"{gap.records} records of {gap.exchanges} exchanges were lost: {gap.why}")
        self._gap_at = now
        self._seq += gap.records
        self._hold(
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

    def _hold(self, line: bytes) -> None:
        """Number a line of the writer's own and put it behind those held."""
        self._held.append(_Packed(member.pack(line + b"\n", id=self.id, part=SERVICE_PART, seq=self._seq), None))
        self._seq += 1

    def _append(self) -> None:
        now = time.time()
        if not (self._pressure.may_try(now) or self._closing.is_set()):
            return
        if (low := self._low_on_space()) is not None:
            self._refused(now, low)
            return
        appended = self._appender.append([it.member for it in self._held], now)
        self._tell_of(appended.set_aside)
        written, self._held = self._held[: appended.count], self._held[appended.count :]
        self._settle(written)
        if appended.error is not None:
            self._refused(now, _words(appended.error))
        elif (pause := self._pressure.took(now)) is not None:
            self._inbox.refuse("")
            self._note_losses(pause)

    def _settle(self, written: Sequence[_Packed]) -> None:
        if not written:
            return
        records = [it.record for it in written if it.record is not None]
        self._bytes_written += sum(len(it.member) for it in written)
        self._written += len(records)
        for record in records:
            self._inbox.done(record)
        self._inbox.alive()
        if self._sync == "record":
            self._unsynced = records
            self._sync_now()
            return
        if self._sync == "1s":
            self._sync_at = min(self._sync_at, time.monotonic() + _SYNC_EVERY)
        self._acknowledge(records)

    def _sync_now(self) -> None:
        records, self._unsynced = self._unsynced, []
        self._sync_at = float("inf")
        try:
            self._appender.sync()
        except OSError as error:
            self._sync_failures += 1
            self._last_error = f"sync: {_words(error)}"
            self._complain("sync", f"what was written last may not survive a power loss: {_words(error)}")
        else:
            self._acknowledge(records)

    def _acknowledge(self, records: Sequence[Record]) -> None:
        if self._on_written is not None and records:
            self._on_written(records)

    def _low_on_space(self) -> str | None:
        """Why not to write, when less than `min_free` is left. Looks now and then; a folder that is gone is for `append` to find."""
        now = time.monotonic()
        if not self._min_free or (not self._pressure.paused and 0 <= now - self._space_at < _SPACE_EVERY):
            return None
        self._space_at = now
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return None
        free = found.f_bavail * found.f_frsize
        return None if free >= self._min_free else f"only {free >> 20} MiB are free, and {self._min_free >> 20} are to stay so"

    def _refused(self, now: float, why: str) -> None:
        self._last_error = why
        self._inbox.refuse(why)
        if self._pressure.refused(now, why):
            self._log.warning("writing to %s is paused: %s; records wait in memory, and what does not fit is dropped", self._folder, why)

    def _rest(self) -> None:
        """Until the next trip. The closing bell ends every wait but the short one between two tries of a disk that refuses."""
        if self._pressure.paused:
            if self._closing.wait(min(self._pressure.wait(time.time()), self._until_sync())):
                time.sleep(_GATHER)
        elif len(self._inbox) >= _BATCH_RECORDS or self._held or self._closing.is_set():
            return
        else:
            if not (len(self._inbox) or self._inbox.losing):
                self._inbox.wait(self._until_sync())
            self._closing.wait(_GATHER)  # what comes meanwhile shares the trip

    def _until_sync(self) -> float:
        return min(max(0.0, self._sync_at - time.monotonic()), threading.TIMEOUT_MAX)

    def _end(self) -> None:
        """The last line, when nothing is left over; then everything on the disk."""
        if not (self._held or len(self._inbox)):
            dropped, _ = self._inbox.dropped
            self._hold(close_line(writer=self._name, seq=self._seq, at=time.time(), written=self._written, dropped=dropped))
            self._append()
            failures = self._sync_failures
            if self._sync != "never":
                self._sync_now()
            self._clean = not self._held and self._sync_failures == failures
        self._appender.close()

    def _abandon(self) -> None:
        """Out of time: what is left is lost, and nobody is there to write down a gap; without a `close` line a reader sees as much."""
        why = "the writer was stopped before they were written"
        for packed in self._held:
            if packed.record is not None:
                self._inbox.lost(packed.record, why)
        self._held = []
        while rest := self._inbox.take(_BATCH_RECORDS, _BATCH_BYTES):
            for record in rest:
                self._inbox.lost(record, why)
        dropped, _ = self._inbox.dropped
        if dropped:
            self._complain("abandon", f"stopped with {dropped} records lost: {why}")

    # Words for the operator.

    def _tell_of(self, set_aside: Path | None) -> None:
        if set_aside is not None:
            self._log.warning("the torn end of a segment was set aside in %s", set_aside)

    def _complain(self, about: str, words: str) -> None:
        """One warning a minute for each kind of trouble, and never a traceback: it might show what was recorded."""
        now = time.monotonic()
        self._last_error = words
        if about not in self._warned or now - self._warned[about] >= WARN_EVERY:
            self._warned[about] = now
            self._log.warning("%s", words)


def _words(error: OSError) -> str:
    """What the system says, without paths."""
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{error.strerror or type(error).__name__} ({name})" if name else error.strerror or type(error).__name__
