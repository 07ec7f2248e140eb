"""A disk that fails when told to: a file system in memory that speaks the kernel's FUSE protocol itself. Run as a program, by `disk.py`.

It remembers every change in order, so that what a power loss would have left can be worked out afterwards. It knows nothing of archives.
No library is needed, and no helper program: root, `mount` and /dev/fuse are.

`python fusedisk.py MOUNTPOINT`, commands as lines of JSON on standard input, one line of JSON back on standard output for each.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import select
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

# include/uapi/linux/fuse.h
IN_HEADER: Final = struct.Struct("<IIQQIIII")
OUT_HEADER: Final = struct.Struct("<IiQ")
INIT: Final = struct.Struct("<IIIIHHIIHHI7I")
ATTR: Final = struct.Struct("<6Q10I")
ENTRY: Final = struct.Struct("<4QII")
ATTR_OUT: Final = struct.Struct("<QII")
OPEN_OUT: Final = struct.Struct("<QII")
READ_IN: Final = struct.Struct("<QQIIQII")
SETATTR_IN: Final = struct.Struct("<IIQQ4Q8I")
STATFS: Final = struct.Struct("<5Q4I24x")
DIRENT: Final = struct.Struct("<QQII")
DIRECT_IO: Final = 1
"""FOPEN_DIRECT_IO: every read and write comes here; no page cache stands between."""
BIG_WRITES: Final = 1 << 5
MAX_WRITE: Final = 128 << 10
ROOT: Final = 1

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, OPEN, READ, WRITE = 1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16
STATFS_OP, RELEASE, FSYNC, INIT_OP, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE = 17, 18, 20, 26, 27, 28, 29, 30, 35
INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 36, 38, 42, 45


class Change(NamedTuple):
    """One thing that was done to the disk, in the order in which it was done. What failed is there too, with its error."""

    at: float
    what: str
    """write, truncate, fsync: of the file `node`; make, remove, rename, fsyncdir: in the folder `node`."""
    node: int
    handle: int = 0
    offset: int = 0
    """Where it was written; the new size; the folder that it was moved to."""
    data: bytes = b""
    """What was written; the new name."""
    name: str = ""
    child: int = 0
    folder: bool = False
    error: int = 0


@dataclass(slots=True)
class Node:
    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)
    path: str = ""


@dataclass(slots=True)
class Fault:
    """The `at`-th of the calls `what` on paths that hold `where` fails, or takes only `short` of its bytes; once, or from then on."""

    what: tuple[str, ...]
    at: int
    error: int
    lasting: bool = False
    short: bool = False
    where: str = ""
    seen: int = 0
    hits: int = 0


class Disk:
    """The tree, the log of changes, the faults; one method for each thing the kernel asks."""

    def __init__(self, *, size: int = 1 << 30) -> None:
        self.nodes = {ROOT: Node(ROOT, stat.S_IFDIR | 0o755)}
        self.log: list[Change] = []
        self.fault: Fault | None = None
        self._size = size
        self._handles = 0
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            LOOKUP: self.lookup,
            GETATTR: lambda node, _: self._attr_out(node),
            SETATTR: self.setattr,
            MKDIR: self.mkdir,
            UNLINK: self.remove,
            RMDIR: self.remove,
            RENAME: lambda node, body: self.rename(node, body, 8),
            RENAME2: lambda node, body: self.rename(node, body, 16),
            OPEN: self.open,
            OPENDIR: self.open,
            CREATE: self.create,
            READ: self.read,
            WRITE: self.write,
            STATFS_OP: self.statfs,
            RELEASE: lambda *_: b"",
            RELEASEDIR: lambda *_: b"",
            DESTROY: lambda *_: b"",
            FSYNC: lambda node, body: self.sync("fsync", node, body),
            FSYNCDIR: lambda node, body: self.sync("fsyncdir", node, body),
            READDIR: self.readdir,
            INIT_OP: lambda *_: INIT.pack(7, 31, 1 << 17, BIG_WRITES, 16, 12, MAX_WRITE, 1, 0, 0, 0, *[0] * 7),
        }

    def answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        """(0, what is answered) or (the errno, nothing)."""
        call = self._calls.get(opcode)
        if call is None:
            return errno.ENOSYS, b""
        try:
            return 0, call(node, body)
        except OSError as error:
            return error.errno or errno.EIO, b""

    # Faults.

    def _fails(self, what: str, node: int) -> Fault | None:
        fault = self.fault
        if fault is None or what not in fault.what or fault.where not in self.nodes[node].path:
            return None
        fault.seen += 1
        if fault.seen == fault.at or (fault.lasting and fault.seen > fault.at):
            fault.hits += 1
            return fault
        return None

    def _note(self, what: str, node: int, **rest: Any) -> None:
        self.log.append(Change(time.time(), what, node, **rest))

    # Names.

    def _entry(self, number: int) -> bytes:
        return ENTRY.pack(number, 0, 0, 0, 0, 0) + self._attr(number)

    def _attr(self, number: int) -> bytes:
        node = self.nodes[number]
        size = len(node.data)
        return ATTR.pack(number, size, -(-size // 512), 0, 0, 0, 0, 0, 0, node.mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)

    def _attr_out(self, number: int) -> bytes:
        return ATTR_OUT.pack(0, 0, 0) + self._attr(number)

    def _child(self, node: int, name: str) -> int:
        found = self.nodes[node].names.get(name)
        if found is None:
            raise OSError(errno.ENOENT, name)
        return found

    def lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, _text(body)))

    def _make(self, node: int, name: str, mode: int) -> int:
        if self._fails("make", node) and self.fault is not None:
            raise OSError(self.fault.error, name)
        if name in self.nodes[node].names:
            raise OSError(errno.EEXIST, name)
        number = len(self.nodes) + ROOT
        self.nodes[number] = Node(number, mode, path=f"{self.nodes[node].path}/{name}")
        self.nodes[node].names[name] = number
        self._note("make", node, name=name, child=number, folder=stat.S_ISDIR(mode))
        return number

    def mkdir(self, node: int, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        return self._entry(self._make(node, _text(body[8:]), stat.S_IFDIR | (mode & ~umask)))

    def create(self, node: int, body: bytes) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", body)
        number = self._make(node, _text(body[16:]), stat.S_IFREG | (mode & ~umask & 0o7777))
        return self._entry(number) + self.open(number, b"")

    def remove(self, node: int, body: bytes) -> bytes:
        name = _text(body)
        if self.nodes[self._child(node, name)].names:
            raise OSError(errno.ENOTEMPTY, name)
        del self.nodes[node].names[name]
        self._note("remove", node, name=name)
        return b""

    def rename(self, node: int, body: bytes, skip: int) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        old, new = (each.decode() for each in body[skip:].split(b"\0")[:2])
        number = self._child(node, old)
        del self.nodes[node].names[old]
        self.nodes[target].names[new] = number
        self.nodes[number].path = f"{self.nodes[target].path}/{new}"
        self._note("rename", node, name=old, child=number, offset=target, data=new.encode(), folder=stat.S_ISDIR(self.nodes[number].mode))
        return b""

    def readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = READ_IN.unpack_from(body)
        out = b""
        for at, (name, number) in enumerate(list(self.nodes[node].names.items())[offset:], offset + 1):
            raw = name.encode()
            each = DIRENT.pack(number, at, len(raw), stat.S_IFMT(self.nodes[number].mode) >> 12) + raw
            each += bytes(-len(each) % 8)
            if len(out) + len(each) > size:
                break
            out += each
        return out

    # Bytes.

    def open(self, node: int, body: bytes) -> bytes:
        self._handles += 1
        return OPEN_OUT.pack(self._handles, 0 if self.nodes[node].names else DIRECT_IO, 0)

    def setattr(self, node: int, body: bytes) -> bytes:
        valid, _, handle, size, *_, mode, _, _, _, _ = SETATTR_IN.unpack_from(body)
        if valid & 1:
            self.nodes[node].mode = stat.S_IFMT(self.nodes[node].mode) | (mode & 0o7777)
        if valid & 8:
            fault = self._fails("truncate", node)
            self._note("truncate", node, handle=handle, offset=size, error=fault.error if fault else 0)
            if fault:
                raise OSError(fault.error, "told to")
            data = self.nodes[node].data
            del data[size:]
            data += bytes(size - len(data))
        return self._attr_out(node)

    def read(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = READ_IN.unpack_from(body)
        return bytes(self.nodes[node].data[offset : offset + size])

    def write(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = READ_IN.unpack_from(body)
        data = body[READ_IN.size : READ_IN.size + size]
        fault = self._fails("write", node)
        if fault and fault.short:
            data = data[: size * 2 // 3]
            fault.short = False  # a short write gives no reason; the next one does
            fault.at = fault.seen + 1
        elif fault:
            self._note("write", node, handle=handle, error=fault.error)
            raise OSError(fault.error, "told to")
        kept = self.nodes[node].data
        kept += bytes(max(0, offset - len(kept)))
        kept[offset : offset + len(data)] = data
        self._note("write", node, handle=handle, offset=offset, data=data)
        return struct.pack("<II", len(data), 0)

    def sync(self, what: str, node: int, body: bytes) -> bytes:
        handle = struct.unpack_from("<Q", body)[0]
        fault = self._fails(what, node)
        self._note(what, node, handle=handle, error=fault.error if fault else 0)
        if fault:
            raise OSError(fault.error, "told to")
        return b""

    def statfs(self, node: int, body: bytes) -> bytes:
        used = sum(-(-len(each.data) // 4096) for each in self.nodes.values())
        free = max(0, self._size // 4096 - used)
        return STATFS.pack(self._size // 4096, free, free, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    # What the test asks.

    def command(self, order: dict[str, Any]) -> Any:
        if "fault" in order:
            fault = order["fault"]
            self.fault = None if fault is None else Fault(**{**fault, "what": tuple(fault["what"])})
            return None
        if "log" in order:
            with open(order["log"], "wb") as file:
                # Plain tuples: here this module has another name than where they are read.
                pickle.dump(([tuple(each) for each in self.log], {number: node.path for number, node in self.nodes.items()}), file)
            return None
        if "forget" in order:
            self.log.clear()
            return None
        return {"seen": self.fault.seen, "hits": self.fault.hits} if self.fault else None


def _text(body: bytes) -> str:
    return body.split(b"\0", 1)[0].decode()


def serve(place: str) -> None:
    """Mount at `place` and serve until standard input is closed."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_WRITE}"
    # -i: no helper program; -n: nothing in /etc/mtab. The descriptor is how the kernel knows us.
    subprocess.run(["mount", "-i", "-n", "-t", "fuse", "-o", options, "faulty", place], check=True, pass_fds=[device])
    disk = Disk()
    try:
        print(json.dumps("mounted"), flush=True)
        orders = b""
        while True:
            ready, _, _ = select.select([device, 0], [], [])
            if 0 in ready:
                more = os.read(0, 1 << 16)
                if not more:
                    return
                *lines, orders = (orders + more).split(b"\n")
                for line in lines:
                    print(json.dumps(disk.command(json.loads(line))), flush=True)
            if device in ready:
                serve_one(device, disk)
    finally:
        os.close(device)  # first: umount must not wait for answers that nobody gives any more
        subprocess.run(["umount", "--lazy", "-i", "-n", place], check=False)


def serve_one(device: int, disk: Disk) -> None:
    try:
        request = os.read(device, MAX_WRITE + 8192)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINTR}:  # taken back before we had read it
            return
        raise
    _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
    if opcode in {FORGET, BATCH_FORGET, INTERRUPT}:
        return
    error, body = disk.answer(opcode, node, request[IN_HEADER.size :])
    try:
        os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique) + body)
    except OSError as failure:
        if failure.errno != errno.ENOENT:  # whoever asked was killed meanwhile
            raise


if __name__ == "__main__":
    serve(sys.argv[1])
