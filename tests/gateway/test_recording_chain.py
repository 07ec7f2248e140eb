"""The recording chain whole, in real processes: whatever is killed, stopped or full, each exchange is kept once or its loss is told of."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults.account import LONG, account
from faults.disk import faulty_disk, why_not
from rawsockets import wait_for
from readback import Archived, archive_lines, archive_records
from rig import Gateway, gateway

from archive.proof.verify import Report, verify

SMALL: dict[str, Any] = {"min_free": 0, "queue_bytes": "1MiB", "grace": 5}


class Origin:
    """An upstream that answers in three pieces, the last of which says who asked; `/big` is `size` bytes of `PIECE`."""

    PIECE = bytes(range(256)) * 1024

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.pause = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                await self._answer(head.split(b" ")[1], writer)

    async def _answer(self, target: bytes, writer: asyncio.StreamWriter) -> None:
        if target == b"/big":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
            for _ in range(self.size // len(self.PIECE)):
                writer.write(self.PIECE)
                await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (20 + len(target)))
        for piece in (b"first-----", b"second----", target):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self.pause)


@dataclass
class Load:
    """Clients that ask one thing after another, each with a nonce; some leave in the middle of an answer."""

    running: Gateway
    size: int = 100
    aborts: float = 0.0
    answered: set[str] = field(default_factory=set)
    """Nonces whose answer came whole."""
    left: set[str] = field(default_factory=set)
    """Nonces whose client left early."""
    refused: int = 0
    stop: bool = False
    asked: int = 0
    pause: float = 0.0
    """Seconds between an answer and the next request."""
    took: list[float] = field(default_factory=list)
    """Seconds of each exchange answered."""

    async def one(self, client: int) -> None:
        """Ask until told to stop. A gateway that stops may answer no more; nothing else may go wrong."""
        chance = random.Random(client)
        while not self.stop:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.running.port)
                try:
                    while not self.stop and await self._ask(reader, writer, chance):
                        pass
                finally:
                    writer.close()
                    await writer.wait_closed()
            except (OSError, asyncio.IncompleteReadError):
                self.refused += 1
                await asyncio.sleep(0.01)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> bool:
        nonce, self.asked = f"n{self.asked:06d}", self.asked + 1
        began = time.perf_counter()
        writer.write(b"POST /up/%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (nonce.encode(), self.size) + b"b" * self.size)
        if chance.random() < self.aborts:
            self.left.add(nonce)
            if chance.random() < 0.5:
                await reader.readuntil(b"first")
            return False
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            self.refused += 1
            return False
        assert body.endswith(nonce.encode()), "an answer that belongs to somebody else"
        self.took.append(time.perf_counter() - began)
        self.answered.add(nonce)
        await asyncio.sleep(self.pause)
        return True


@contextlib.asynccontextmanager
async def load(running: Gateway, clients: int, **options: Any) -> AsyncIterator[Load]:
    """Such clients while the block runs; they have all come to their end when it is left."""
    asking = Load(running, **options)
    async with asyncio.TaskGroup() as group:
        for client in range(clients):
            group.create_task(asking.one(client))
        try:
            yield asking
        finally:
            asking.stop = True


async def health(running: Gateway) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as client:
        return dict((await client.get(f"{running.url}/_verbatim/health")).json())


async def keeper_of(running: Gateway, other_than: int = 0) -> int:
    """The recording process, as soon as there is one (another one)."""

    def found() -> int:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, ValueError):
                pid, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
                command = (path.parent / "cmdline").read_bytes()
                if parent == running.process.process.pid and b"gateway.keeping" in command and pid != other_than:
                    return pid
        return 0

    return await wait_for(found)


def nonces(exchanges: list[Archived]) -> Counter[str]:
    """How often each nonce is in the archive."""
    return Counter(exchange.request["target"].rpartition("/")[2] for exchange in exchanges)


def gaps(folder: Path) -> list[dict[str, Any]]:
    return [line["gap"] for line in archive_records(folder) if line["kind"] == "gap"]


def told_lost(folder: Path) -> int:
    """Records that gap lines tell of."""
    return sum(gap["records"] for gap in gaps(folder))


def killed(report: Report) -> int:
    """Recorders that did not end properly."""
    return sum(not writer.closed for writer in report.writers)


def check_whole(exchanges: list[Archived], asking: Load) -> None:
    """What the archive says of an exchange is what its client saw."""
    for exchange in exchanges:
        nonce = exchange.request["target"].rpartition("/")[2]
        assert exchange.body("request") == b"b" * asking.size
        if exchange.end and exchange.end["reason"] == "complete" and exchange.response and exchange.response["status"] == 200:
            assert exchange.body("response") == b"first-----second----/" + nonce.encode()


async def test_every_exchange_is_kept_once_when_the_gateway_is_stopped_under_load(tmp_path: Path) -> None:
    async with Origin() as origin:
        origin.pause = 0.001
        async with gateway(tmp_path, {"up": origin.url}, **SMALL) as running, load(running, 20, aborts=0.1) as asking:
            await wait_for(lambda: len(asking.answered) > 300)
            running.process.process.send_signal(signal.SIGTERM)
            await wait_for(lambda: not running.process.running, 40)
        exchanges = archive_lines(running.archive)
        kept = nonces(exchanges)
        assert not [nonce for nonce, times in kept.items() if times != 1]
        assert set(kept) >= asking.answered
        assert all(exchange.end for exchange in exchanges)
        check_whole(exchanges, asking)
        report = verify([running.archive])
        assert (report.complete, killed(report), report.gaps) == (True, 0, [])


async def test_a_second_signal_under_load_loses_no_record(tmp_path: Path) -> None:
    async with Origin() as origin:
        origin.pause = 0.2
        async with gateway(tmp_path, {"up": origin.url}, **SMALL, checked=False) as running, load(running, 20) as asking:
            await wait_for(lambda: len(asking.answered) > 20)
            for _ in range(2):
                running.process.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.05)  # two signals at once are one
            await wait_for(lambda: not running.process.running, 40)
        kept = nonces(archive_lines(running.archive))
        assert set(kept) >= asking.answered
        assert set(kept.values()) == {1}
        report = verify([running.archive])
        assert (report.complete, killed(report), report.gaps) == (True, 0, [])
        assert "Traceback" not in running.output()


async def test_no_exchange_is_kept_twice_or_lost_untold_when_the_recording_process_is_killed(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        origin.pause = 0.002
        async with load(running, 20, aborts=0.1) as asking:
            await wait_for(lambda: len(asking.answered) > 200)
            keeper = await keeper_of(running)
            before = set(asking.answered)
            os.kill(keeper, signal.SIGKILL)
            await keeper_of(running, other_than=keeper)
            await wait_for(lambda: "runs again" in running.output())
            again, there = f"n{asking.asked:06d}", len(asking.answered)
            await wait_for(lambda: len(asking.answered) > there + 200)
        assert not asking.refused  # no client noticed
        seen = await health(running)
        await running.process.stop()
        exchanges = archive_lines(running.archive)
        kept = nonces(exchanges)
        assert set(kept.values()) == {1}
        check_whole(exchanges, asking)
        assert set(kept) >= {nonce for nonce in asking.answered if nonce >= again}  # all that began when it ran again
        assert seen["lost_exchanges"] > 0
        assert told_lost(running.archive) == seen["lost_exchanges"]
        assert {gap["why"] for gap in gaps(running.archive)} == {"the recording process had died"}
        whole = sum(exchange.end is not None for exchange in exchanges)
        untold = seen["exchanges"]["total"] - whole - seen["lost_exchanges"]
        report = verify([running.archive])
        assert (report.accounted, killed(report)) == (True, 1)  # which is where the untold ones were
        assert 0 <= untold <= len(before)


async def test_losses_are_told_although_nothing_else_is(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        keeper = await keeper_of(running)
        os.kill(keeper, signal.SIGKILL)
        await wait_for(lambda: "has died" in running.output())
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{running.url}/up/unseen")).text.endswith("unseen")
        await wait_for(lambda: told_lost(running.archive) == 1, 30)
        assert (await health(running))["lost_exchanges"] == 1


async def test_a_gateway_stopped_before_its_recording_process_runs_again_tells_of_the_loss(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        os.kill(await keeper_of(running), signal.SIGKILL)
        await wait_for(lambda: "has died" in running.output())
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{running.url}/up/unseen")
        assert await running.process.stop() == 0
        assert told_lost(running.archive) == 1
        assert killed(verify([running.archive])) == 1  # the first
        assert "1 exchanges were not recorded" in running.output()


async def test_a_recording_process_killed_again_and_again_costs_no_client_anything(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        keeper, deaths = 0, 4
        async with load(running, 8) as asking:
            for _ in range(deaths):
                keeper = await keeper_of(running, other_than=keeper)  # as early as that: often before it can write
                os.kill(keeper, signal.SIGKILL)
            await keeper_of(running, other_than=keeper)
            await wait_for(lambda: "runs again" in running.output().rpartition("has died")[2], 30)
            there = len(asking.answered)
            await wait_for(lambda: len(asking.answered) > there + 50)
        assert not asking.refused
        seen = await health(running)
        await running.process.stop()
        kept = nonces(archive_lines(running.archive))
        assert set(kept.values()) == {1}
        assert told_lost(running.archive) <= seen["lost_exchanges"]
        assert verify([running.archive]).accounted
        assert "Traceback" not in running.output()


async def test_a_recording_process_killed_while_the_gateway_stops_does_not_hold_it_up(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL, checked=False) as running:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{running.url}/up/seen")
        keeper = await keeper_of(running)
        os.kill(keeper, signal.SIGSTOP)  # so that it cannot be quicker
        running.process.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: _closed(running.port))
        os.kill(keeper, signal.SIGKILL)
        await wait_for(lambda: not running.process.running, 4)
        # It died before it was asked to end, and another told of that, or while it did
        assert "has died" in running.output() or "not everything was on the disk" in running.output()
        assert "Traceback" not in running.output()


async def _closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_a_recording_process_that_stands_still_holds_nobody_back_and_every_loss_is_counted(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        async with load(running, 10, size=20_000) as asking:
            await wait_for(lambda: len(asking.answered) > 20)
            keeper = await keeper_of(running)
            os.kill(keeper, signal.SIGSTOP)
            try:
                await wait_for(lambda: _lost(running, 50))
                seen = await health(running)
                assert seen["unread_bytes"] < (1 << 19) + (64 << 10)  # half the queue, and one event
                there = len(asking.answered)
                await wait_for(lambda: len(asking.answered) > there + 200)  # they go on as if nothing were
            finally:
                os.kill(keeper, signal.SIGCONT)
            await wait_for(lambda: _unread(running))
            there = len(asking.answered)
            await wait_for(lambda: len(asking.answered) > there + 50)
        assert not asking.refused
        await wait_for(lambda: _accounted(running))
        seen = await health(running)
        await running.process.stop()
        exchanges = archive_lines(running.archive)
        kept = nonces(exchanges)
        assert set(kept.values()) == {1}
        whole = sum(exchange.end is not None for exchange in exchanges)
        lost = told_lost(running.archive)
        assert whole + lost == seen["exchanges"]["total"]
        assert lost == seen["archive"]["dropped"] >= seen["lost_exchanges"]
        assert "the recording queue was full" in gaps(running.archive)[0]["why"]
        report = verify([running.archive])
        assert (report.accounted, killed(report)) == (True, 0)


async def _lost(running: Gateway, least: int) -> bool:
    return bool((await health(running))["lost_exchanges"] >= least)


async def _accounted(running: Gateway) -> bool:
    """Whether the counters add up: what passed is written or dropped."""
    seen = await health(running)
    counted = seen["archive"] or {"written": 0, "dropped": 0}
    return bool(counted["written"] + counted["dropped"] == seen["exchanges"]["total"])


async def _unread(running: Gateway) -> bool:
    return bool((await health(running))["unread_bytes"] < 1 << 17)


async def test_what_a_killed_gateway_had_sent_to_its_recording_process_is_written(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL, checked=False) as running:
        keeper = await keeper_of(running)
        os.kill(keeper, signal.SIGSTOP)  # what follows waits in the socket
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                for number in range(40):
                    await client.get(f"{running.url}/up/n{number}")
                await wait_for(lambda: _sent(running, client))
            running.process.kill()
        finally:
            os.kill(keeper, signal.SIGCONT)
        await wait_for(lambda: not Path(f"/proc/{keeper}").exists())
        exchanges = archive_lines(running.archive)
        assert nonces(exchanges) == Counter(f"n{number}" for number in range(40))
        assert all(exchange.end for exchange in exchanges)
        report = verify([running.archive])
        assert (report.accounted, killed(report)) == (True, 0)


async def _sent(running: Gateway, client: httpx.AsyncClient) -> bool:
    """Whether the relay has nothing left to hand to the socket: two looks that see the same are more than a flush apart."""
    first = (await client.get(f"{running.url}/_verbatim/health")).json()["unread_bytes"]
    await asyncio.sleep(0.05)
    return bool((await client.get(f"{running.url}/_verbatim/health")).json()["unread_bytes"] == first)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A file system of 64 KiB. Skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, mountpoint, umount = (shutil.which(name) for name in ("mount", "mountpoint", "umount"))
    if not (mount and mountpoint and umount and os.geteuid() == 0):
        pytest.skip("needs root and mount(8)")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if done.returncode or subprocess.run([mountpoint, "-q", str(place)]).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run([umount, str(place)], check=True)


async def test_a_full_disk_changes_nothing_for_clients_and_every_loss_is_told_of(tmp_path: Path, tiny_disk: Path) -> None:
    archive = tiny_disk / "archive"
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(28 << 10))
    options = {**SMALL, "queue_bytes": "128KiB"}
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **options, checked=False) as running:
        # The archive is linked to from where the rig wants it
        assert running.archive.exists()
    shutil.rmtree(running.archive)
    running.archive.symlink_to(archive)
    archive.mkdir(mode=0o700)
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **options) as running:
        async with load(running, 4, size=3000) as asking:
            await wait_for(lambda: _dropped(running, 20), 30)
            there = len(asking.answered)
            await wait_for(lambda: len(asking.answered) > there + 100)
        assert not asking.refused
        assert (await health(running))["archive"]["paused"]
        ballast.unlink()
        await wait_for(lambda: _resumed(running), 30)
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{running.url}/up/afterwards")
        await wait_for(lambda: "afterwards" in nonces(archive_lines(archive)), 30)
        seen = await health(running)
        await running.process.stop()
        kept = nonces(archive_lines(archive))
        assert set(kept.values()) == {1}
        lost = told_lost(archive)
        assert len(kept) + lost == seen["exchanges"]["total"]
        assert lost == seen["archive"]["dropped"]
        assert "No space left" in gaps(archive)[0]["why"]
        report = verify([archive])
        assert (report.accounted, killed(report)) == (True, 0)


async def _dropped(running: Gateway, least: int) -> bool:
    return bool(((await health(running))["archive"] or {"dropped": 0})["dropped"] >= least)


async def _resumed(running: Gateway) -> bool:
    return not (await health(running))["archive"]["paused"]


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "a disk that stalls can be mounted")
async def test_a_disk_that_stalls_holds_nobody_back_and_memory_stays_bounded(tmp_path: Path) -> None:
    stall = 5.0 if LONG else 2.5
    began = time.monotonic()
    with faulty_disk(tmp_path / "archive") as disk:
        async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **{**SMALL, "queue_bytes": "8MiB"}) as running:
            keeper = await keeper_of(running)
            async with load(running, 8, size=20_000, pause=0.01) as asking:
                await wait_for(lambda: len(asking.took) > 500)
                before, memory_before = asking.took.copy(), memory(running, keeper)
                asking.took.clear()
                disk.stop()
                try:
                    await asyncio.sleep(stall)
                    during = asking.took.copy()
                    most = (await health(running))["unread_bytes"]
                finally:
                    disk.go_on()
                await wait_for(lambda: _resumed(running), 30)
                there = len(asking.answered)
                await wait_for(lambda: len(asking.answered) > there + 50)
            assert not asking.refused
            await wait_for(lambda: _accounted(running), 30)
            seen = await health(running)
            grown = memory(running, keeper) - memory_before
            await running.process.stop()
        exchanges = archive_lines(running.archive)
        kept, lost = nonces(exchanges), told_lost(running.archive)
        report = verify([running.archive])
    assert set(kept.values()) == {1}
    assert len(kept) + lost == seen["exchanges"]["total"]
    assert lost == seen["archive"]["dropped"] > 0
    assert (report.accounted, killed(report)) == (True, 0)
    assert most < (4 << 20) + (64 << 10)  # half the queue, and one event
    assert grown < 32 << 20  # the queue is 8 MiB, and parts not yet cut may be as much
    assert len(during) > 500  # they went on all the time,
    assert max(during) < stall / 2  # and none of them waited for the disk
    note = f"p99 of an exchange {percentile(during):.1f} ms while it stalled for {stall:g} s, {percentile(before):.1f} ms before"
    print(note)
    counts = {"trials": 1, "acknowledged": len(kept), "injected": lost}
    account(f"disk stalled for {stall:g} s below the gateway", counts, time.monotonic() - began, note)


async def test_a_gateway_out_of_descriptors_answers_so_and_goes_on_recording(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        pid = running.process.process.pid
        asking = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(3)]
        for number, (reader, writer) in enumerate(asking):
            assert (await ask(reader, writer, f"before{number}")).startswith(b"HTTP/1.1 200")
        most = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
        idle = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(10)]
        origin.pause = 0.2  # so that they cannot take turns with the one connection to it that is there
        heads = await asyncio.gather(*(ask(reader, writer, f"during{number}") for number, (reader, writer) in enumerate(asking)))
        assert sorted(head[9:12] for head in heads) == [b"200", b"503", b"503"]
        for _, writer in (*idle, *asking):
            writer.close()
        # Until it has noticed, libuv accepts a connection only to close it.
        await wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) < most - 2)
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{running.url}/up/after")).text.endswith("after")
        await running.process.stop()
        ends = {exchange.request["target"][4:]: exchange.end for exchange in archive_lines(running.archive)}
        assert sorted(ends) == ["after", "before0", "before1", "before2", "during0", "during1", "during2"]
        assert sum(end is not None and end["reason"] == "complete" for end in ends.values()) == 5
        report = verify([running.archive])
        assert (report.complete, killed(report)) == (True, 0)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, nonce: str) -> bytes:
    """The answer's head; its body is read."""
    writer.write(b"GET /up/%b HTTP/1.1\r\nHost: a\r\n\r\n" % nonce.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")))
    return head


def percentile(seconds: list[float], which: float = 0.99) -> float:
    """In milliseconds."""
    return sorted(seconds)[int(len(seconds) * which)] * 1000


async def test_a_recording_process_says_what_it_says_in_one_line_each(tmp_path: Path) -> None:
    async with Origin() as origin, gateway(tmp_path, {"up": origin.url}, **SMALL) as running:
        folder = running.archive
        shutil.rmtree(folder)
        folder.write_text("in the way")
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{running.url}/up/x?key=sk-canary-5d1f")
        await wait_for(lambda: "is paused" in running.output())
        folder.unlink()
        lines = [line for line in running.output().splitlines() if "is paused" in line]
        assert [line.split()[1] for line in lines] == ["WARNING"]
        assert "sk-canary-5d1f" not in running.output()


def memory(running: Gateway, keeper: int) -> int:
    """The most memory that gateway and recording process have held together, in bytes (each at its own worst moment)."""
    most = [Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0] for pid in (running.process.process.pid, keeper)]
    return sum(map(int, most)) << 10


@pytest.mark.slow
@pytest.mark.timeout(110)
async def test_an_answer_of_a_gigabyte_is_relayed_whole_and_its_record_is_bounded(tmp_path: Path) -> None:
    size, most = 1 << 30, 8 << 20
    async with (
        Origin(size) as origin,
        gateway(tmp_path, {"up": origin.url}, min_free=0, queue_bytes="16MiB", max_body="8MiB") as running,
    ):
        keeper = await keeper_of(running)
        before = memory(running, keeper)
        digest, received = hashlib.sha256(), 0
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client, client.stream("GET", f"{running.url}/up/big") as answer:
            async for piece in answer.aiter_raw(1 << 20):
                digest.update(piece)
                received += len(piece)
        assert received == size
        assert memory(running, keeper) - before < 64 << 20
        (exchange,) = await running.archived(lambda found: bool(found and found[-1].end))
        assert (await health(running))["lost_exchanges"] == 0
        kept = exchange.body("response")
        assert len(kept) == most
        assert kept == (Origin.PIECE * (most // len(Origin.PIECE)))
        last = exchange.bodies("response")[-1]
        assert (last["offset"] + last["size"], last["sha256"], last["truncated"]) == (size, digest.hexdigest(), True)
        assert exchange.end is not None
        assert exchange.end["reason"] == "complete"
