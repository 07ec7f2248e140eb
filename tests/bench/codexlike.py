"""An archive writer made after codex-lb's (github.com/Soju06/codex-lb, app/core/conversation_archive.py) to measure beside ours.

Its ways are kept, not its words: each record is encoded once where it is handed over, to learn its size, and a second time by the writer's
thread; whoever hands over waits where the queue's bytes are used up; a batch is one gzip member at the default level (9), into which
`json.dump` writes piece by piece. Left out: redaction, file modes, recovery, pauses for a full disk.
"""

from __future__ import annotations

import gzip
import json
import queue
import threading
from pathlib import Path
from typing import Any


class CodexLike:
    """`put` on the event loop; a thread writes."""

    def __init__(self, path: Path, *, queue_bytes: int = 8 << 20) -> None:
        self.written = 0
        self._path = path
        self._queue: queue.Queue[tuple[dict[str, Any], int] | None] = queue.Queue(4096)
        self._room = threading.Condition()
        self._bytes = 0
        self._most = queue_bytes
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        size = len(json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()) + 1
        with self._room:
            while self._bytes and self._bytes + size > self._most:
                self._room.wait(0.1)
            self._bytes += size
        self._queue.put((record, size))

    def idle(self) -> bool:
        return not self._bytes

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while not last:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                else:
                    batch.append(item)
            self._write([record for record, _ in batch])
            with self._room:
                self._bytes -= sum(size for _, size in batch)
                self._room.notify_all()
            if last:
                return

    def _write(self, records: list[dict[str, Any]]) -> None:
        with self._path.open("ab") as file, gzip.open(file, "at", encoding="utf-8") as member:
            for record in records:
                json.dump(record, member, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
                member.write("\n")
                self.written += 1
