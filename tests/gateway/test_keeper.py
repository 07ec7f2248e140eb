"""The recording process, for real: records reach the disk, deaths on either side cost what they must and no more."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rig
from capturing import UPSTREAM, Remembering, opened, tell
from rawsockets import wait_for
from readback import archive_records

from archive.errors import Unwritable
from archive.line import to_line
from archive.record import new_id
from gateway.capture import CaptureLimits, InProcess
from gateway.keeper import ENDED, Keeper
from gateway.supervisor import python_command

OPTIONS: dict[str, Any] = {
    "upstreams": {"openai": UPSTREAM.url},
    "limits": CaptureLimits(),
    "queue_bytes": 8 << 20,
    "version": "test",
    "min_free": 0,
}


def keeper_of(folder: Path) -> Keeper:
    keeper = Keeper(folder, **OPTIONS)
    keeper.start()
    return keeper


def exchanges(folder: Path) -> list[dict[str, Any]]:
    return [line for line in archive_records(folder) if line["kind"] == "exchange"]


def process_of(keeper: Keeper) -> subprocess.Popen[bytes]:
    process = keeper._process
    assert process is not None
    return process


async def test_what_is_told_is_written_by_another_process(tmp_path: Path) -> None:
    ids = [new_id(1_795_082_400_000 + n) for n in range(50)]
    direct = Remembering()
    keeper = await asyncio.to_thread(keeper_of, tmp_path)
    await keeper.attach()
    for name in ids:
        tell(keeper.tape, id=name)
        tell(InProcess(direct, CaptureLimits()), id=name)
    assert await keeper.close(10)
    stats = keeper.stats()
    assert stats is not None
    assert (stats.written, stats.dropped, keeper.tape.lost) == (50, 0, 0)
    expected = {to_line(record, writer="", seq=0) for record in direct.records}
    written = exchanges(tmp_path)
    from json import loads

    def bare(line: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in line.items() if key not in ("writer", "seq")}

    assert [bare(line) for line in written] == sorted((bare(loads(line or b"")) for line in expected), key=lambda line: line["id"])


async def test_a_large_body_passes_through_the_tape_whole(tmp_path: Path) -> None:
    keeper = await asyncio.to_thread(keeper_of, tmp_path)
    await keeper.attach()
    body = os.urandom(300_000).hex().encode()
    tell(keeper.tape, body=body, answer=(body,))
    assert await keeper.close(10)
    parts = exchanges(tmp_path)
    assert "".join(line["request"]["body"]["text"] for line in parts if line["request"] and line["request"]["body"]) == body.decode()


async def test_a_recording_process_that_dies_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = await asyncio.to_thread(keeper_of, tmp_path)
    await keeper.attach()
    told = opened(keeper.tape)
    assert told is not None
    first = process_of(keeper).pid
    os.kill(first, signal.SIGKILL)
    await wait_for(lambda: not keeper.tape.running)
    assert keeper.tape.lost == 1
    assert opened(keeper.tape) is None  # nobody to record it, and nobody waits
    await wait_for(lambda: keeper.tape.running)
    assert process_of(keeper).pid != first
    tell(keeper.tape)
    await keeper.close(10)
    assert len(exchanges(tmp_path)) == 1
    gaps = [line for line in archive_records(tmp_path) if line["kind"] == "gap"]
    assert sum(line["gap"]["records"] for line in gaps) == 2
    assert "died" in caplog.text


async def test_clients_notice_nothing_when_the_recording_process_dies(tmp_path: Path) -> None:
    async def answer(conn: Any) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await asyncio.to_thread(killed.wait)
        await conn.send(b"later")

    import threading

    killed = threading.Event()
    async with rig.RawUpstream(answer) as upstream, rig.gateway(tmp_path, routes={"openai": upstream.url}) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /openai/x HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"first")
        for child in children(gateway.process.process.pid):
            os.kill(child, signal.SIGKILL)
        killed.set()
        assert await reader.readexactly(5) == b"later"
        writer.close()
        await writer.wait_closed()


def children(pid: int) -> list[int]:
    """The recording processes below `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            child, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"gateway.keeping" in (path.parent / "cmdline").read_bytes():
                found.append(child)
        except OSError:
            continue
    return found


async def test_what_a_killed_relay_had_told_is_written(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from capturing import opened, tell\n"
        "from gateway.capture import CaptureLimits\n"
        "from gateway.keeper import Keeper\n"
        "async def main():\n"
        "    keeper = Keeper(Path(sys.argv[1]), upstreams={'openai': 'https://x'}, limits=CaptureLimits(),\n"
        "                    queue_bytes=1 << 20, version='t', min_free=0)\n"
        "    keeper.start()\n"
        "    await keeper.attach()\n"
        "    tell(keeper.tape)\n"
        "    opened(keeper.tape).request_data([b'half'], 100.0)\n"
        "    keeper._flush()\n"
        "    print(keeper._process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    )
    assert relay.stdout is not None
    pid = int(await relay.stdout.readline())
    relay.kill()
    await relay.wait()
    await wait_for(lambda: not Path(f"/proc/{pid}").exists())
    ends = [line["end"] and line["end"]["reason"] for line in exchanges(tmp_path)]
    assert sorted(ends, key=str) == [None, "complete"]
    assert [line["request"]["body"]["text"] for line in exchanges(tmp_path) if line["end"] is None] == ["half"]
    assert [line["kind"] for line in archive_records(tmp_path)][-1] == "close"


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    keeper = Keeper(tmp_path / "file" / "archive", **OPTIONS)
    with pytest.raises(Unwritable, match="archive folder"):
        keeper.start()


def test_a_keeper_that_never_ran_can_be_ended(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path)
    keeper.kill()
    assert process_of(keeper).returncode is not None


@pytest.mark.parametrize(("program", "says"), [("pass", "ended at once"), ("import time; time.sleep(60)", "did not start")])
def test_a_recording_process_that_does_not_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    monkeypatch.setattr("gateway.keeper.python_command", lambda *_: [sys.executable, "-c", program])
    monkeypatch.setattr("gateway.keeper.START_TIMEOUT", 0.5)
    monkeypatch.setattr("gateway.keeper.LEAVE", 0.1)
    keeper = Keeper(tmp_path, **OPTIONS)
    with pytest.raises(Unwritable, match=says):
        keeper.start()
    assert process_of(keeper).returncode is not None


def test_a_recording_process_that_cannot_be_run_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.keeper.python_command", lambda *_: [str(tmp_path / "none")])
    keeper = Keeper(tmp_path, **OPTIONS)
    with pytest.raises(Unwritable, match="cannot be started"):
        keeper.start()


def test_a_keeper_that_never_ran_ends_its_archive_properly(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path)
    keeper.kill()
    assert [line["kind"] for line in archive_records(tmp_path)] == ["open", "close"]


async def test_one_that_has_lived_is_started_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.keeper.LIVED", 0.0)
    monkeypatch.setattr("gateway.keeper.RESTART_AFTER", 3600.0)
    keeper = await asyncio.to_thread(keeper_of, tmp_path)
    await keeper.attach()
    os.kill(process_of(keeper).pid, signal.SIGKILL)
    await wait_for(lambda: not keeper.tape.running)
    await wait_for(lambda: keeper.tape.running)
    assert await keeper.close(10)


async def test_one_that_cannot_start_is_tried_again_and_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await asyncio.to_thread(keeper_of, tmp_path)
    await keeper.attach()
    tries = 0
    command = python_command

    def sometimes(*arguments: str) -> list[str]:
        nonlocal tries
        tries += 1
        return command(*arguments) if tries > 3 else [sys.executable, "-c", "pass"]

    monkeypatch.setattr("gateway.keeper.python_command", sometimes)
    monkeypatch.setattr("gateway.keeper.RESTART_AFTER", 0.01)
    os.kill(process_of(keeper).pid, signal.SIGKILL)
    await wait_for(lambda: keeper.tape.running and tries == 4)
    assert [record.message for record in caplog.records].count(f"the recording process cannot start: {ENDED}") == 1
    assert await keeper.close(10)
