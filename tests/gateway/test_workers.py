"""Several workers for one gateway, as processes: how they share the port, what one's death costs the others, and how all of them stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from commandline import COMMAND, children, clean_environment, verbatim
from rawsockets import Connection, connect, wait_for
from relayrig import Origin, final
from rig import Gateway, Started, free_port, gateway

GET = b"GET /up/%s HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Starts a command with a listening socket as its third descriptor, and says so as sd_listen_fds(3) has it."""
EVEN = 64
"""Connections of which each of two workers must have at least ten: by chance fewer come once in 10^8 runs."""


def workers(running: Gateway) -> list[int]:
    """The workers' processes."""
    return sorted(children(running.process.process.pid, "gateway.worker"))


async def all_workers(running: Gateway, count: int = 2) -> list[int]:
    """As `workers`, once all of them accept connections: the first that does answers for the gateway already."""

    async def ready() -> bool:
        return len((await running.health())["workers"]) == count

    await wait_for(ready)
    return workers(running)


async def ask(client: Connection, path: bytes = b"x") -> int:
    await client.send(GET % path)
    return (await final(client)).status


async def streams(connection: Connection, request: Any) -> None:
    """An origin: /stream/... goes on until its connection is closed, everything else is answered at once."""
    if request.target.startswith(b"/stream"):
        await connection.send(CHUNKED + b"5\r\nfirst\r\n")
        await connection.wait_ended(deadline=60)
    else:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target), request.target))


async def stream_through(running: Gateway, worker: int) -> Connection:
    """A stream that runs through the process `worker`."""
    while True:
        client = await connect(running.port)
        await client.send(GET % b"stream")
        await client.read_until(b"first\r\n")
        if accepted_by(worker, running, client):
            return client
        await client.close()


def accepted_by(worker: int, running: Gateway, client: Connection) -> bool:
    """Whether the other end of `client` is a socket of the process `worker`."""
    ends = [running.port, client.transport.get_extra_info("sockname")[1]]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if [int(row[place].partition(":")[2], 16) for place in (1, 2)] == ends]
    held = [os.readlink(link) for link in Path(f"/proc/{worker}/fd").iterdir() if link.is_symlink()]
    return f"socket:[{inode}]" in held


async def test_workers_share_the_port_and_the_archive(tmp_path: Path) -> None:
    """Acceptance 82."""
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2) as running:
        clients = [await connect(running.port) for _ in range(EVEN)]
        assert await asyncio.gather(*(ask(client, b"%d" % number) for number, client in enumerate(clients))) == [200] * EVEN

        async def told() -> Any:
            found = await running.health()
            shares = [row["connections"] for row in found["workers"]]
            return sum(shares) == EVEN and min(shares) >= 10 and found["archive"] and found["archive"]["written"] == EVEN

        await wait_for(told)
        assert sorted(row["pid"] for row in (await running.health())["workers"]) == workers(running)
        for client in clients:
            await client.close()
    kept = await running.archived(bool)
    assert sorted(one.body("response") for one in kept) == sorted(b"/%d" % number for number in range(EVEN))
    assert verbatim(tmp_path, "verify", tmp_path / "archive").returncode == 0


async def test_a_worker_that_dies_is_started_again_and_no_one_else_notices(tmp_path: Path) -> None:
    """Acceptance 86: what it had been told is written by its keeper."""
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2) as running:
        doomed, other = await all_workers(running)
        broken, whole = await stream_through(running, doomed), await stream_through(running, other)
        os.kill(doomed, signal.SIGSTOP)  # so that connections wait in its queue when it dies
        waiting = [await connect(running.port) for _ in range(EVEN)]
        answers = [asyncio.ensure_future(ask(client)) for client in waiting]
        os.kill(doomed, signal.SIGKILL)
        assert await asyncio.gather(*answers) == [200] * EVEN
        await broken.wait_ended()
        assert b"\r\n0\r\n\r\n" not in broken.received
        await wait_for(lambda: len(workers(running)) == 2)

        async def again() -> bool:
            found = await running.health()
            return sorted(row["restarts"] for row in found["workers"]) == [0, 1] and all(row["answers"] for row in found["workers"])

        await wait_for(again)
        assert not whole.lost
        assert not whole.eof
        later = [await connect(running.port) for _ in range(EVEN)]
        assert await asyncio.gather(*(ask(client) for client in later)) == [200] * EVEN
        for client in [broken, whole, *waiting, *later]:
            await client.close()
        await wait_for(running.idle)
    assert len(re.findall(r"worker \d ended", running.output())) == 1
    kept = await running.archived(lambda found: len([one for one in found if one.body("response") == b"/x"]) == 2 * EVEN)
    (crashed,) = [one for one in kept if one.end is None]
    assert crashed.body("response") == b"first"
    verified = verbatim(tmp_path, "verify", tmp_path / "archive")
    assert verified.returncode == 0, verified.stdout


async def test_a_worker_that_hangs_loses_its_newcomers_to_another_until_it_answers(tmp_path: Path) -> None:
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2) as running:
        stuck, _ = await all_workers(running)
        os.kill(stuck, signal.SIGSTOP)
        clients = [await connect(running.port) for _ in range(EVEN)]
        assert await asyncio.gather(*(ask(client) for client in clients)) == [200] * EVEN
        await wait_for(lambda: f"process {stuck}) has said nothing for 5 s" in running.output())
        assert [row["answers"] for row in (await running.health())["workers"] if row["pid"] == stuck] == [False]
        os.kill(stuck, signal.SIGCONT)
        await wait_for(lambda: f"process {stuck}) answers again" in running.output())
        for client in clients:
            await client.close()
        await wait_for(running.idle)
        assert stuck in workers(running)  # nobody killed it


async def test_all_workers_drain_and_are_hurried_by_a_second_signal(tmp_path: Path) -> None:
    """Acceptance 54 and 86."""
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2, grace=30) as running:
        running_streams = [await connect(running.port) for _ in range(EVEN // 4)]
        for client in running_streams:
            await client.send(GET % b"stream")
        for client in running_streams:
            await client.read_until(b"first\r\n")
        idle = [await connect(running.port) for _ in range(EVEN // 4)]
        assert await asyncio.gather(*(ask(client) for client in idle)) == [200] * len(idle)
        running.process.process.send_signal(signal.SIGTERM)
        for client in idle:
            await client.wait_ended()
        await wait_for(lambda: _refused(running.port))
        assert not any(client.eof for client in running_streams)
        running.process.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: not running.process.running, deadline=5)
        for client in running_streams:
            assert (await client.read_to_end()) == b""
            await client.close()
        for client in idle:
            await client.close()
    kept = await running.archived(lambda found: len(found) == EVEN // 2)
    assert sorted(one.end["reason"] for one in kept if one.end) == ["complete"] * (EVEN // 4) + ["shutdown"] * (EVEN // 4)


async def test_a_gateway_whose_disk_hangs_ends_within_the_grace_and_five_seconds(tmp_path: Path) -> None:
    """Acceptance 54."""
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2, grace=1, checked=False) as running:
        client = await connect(running.port)
        await client.send(GET % b"stream")
        await client.read_until(b"first\r\n")
        keepers = [keeper for worker in await all_workers(running) for keeper in children(worker, "gateway.keeping")]
        assert len(keepers) == 2
        for keeper in keepers:
            os.kill(keeper, signal.SIGSTOP)
        running.process.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: not running.process.running, deadline=8)  # 5 s after the grace, and 2 for a busy machine
        assert running.process.process.returncode == 0
        assert "not everything was on the disk in time" in running.output()
        await client.close()


async def test_workers_do_not_outlive_a_killed_gateway(tmp_path: Path) -> None:
    async with Origin(streams) as origin, gateway(tmp_path, {"up": origin.url}, workers=2, grace=1, checked=False) as running:
        client = await connect(running.port)
        await client.send(GET % b"stream")
        await client.read_until(b"first\r\n")
        pid = running.process.process.pid
        processes = [*children(pid), *(keeper for worker in await all_workers(running) for keeper in children(worker))]
        running.process.process.kill()
        await wait_for(lambda: _refused(running.port))
        assert b"\r\n0\r\n\r\n" not in await client.read_to_end()  # after its grace
        await wait_for(lambda: not any(_runs(each) for each in processes))
        await client.close()
    (kept,) = await running.archived(bool)
    assert kept.end is not None
    assert kept.end["reason"] == "shutdown"


def test_workers_that_cannot_start_say_why_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    ran = verbatim(tmp_path, "serve", "--port", "0", "--no-viewer", "--workers", "2", "--archive", "file/archive")
    assert ran.returncode == 2
    assert "choose another folder with --archive" in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_a_second_gateway_on_the_port_is_refused(tmp_path: Path) -> None:
    """The workers' sockets could be joined by anybody's; a gateway that begins makes sure that it is alone."""
    async with gateway(tmp_path, {"up": "http://127.0.0.1:9"}, workers=2) as running:
        for number in ("1", "2"):
            ran = verbatim(tmp_path, "serve", "--port", str(running.port), "--no-viewer", "--workers", number, "--archive", "other")
            assert ran.returncode == 2
            assert f"port {running.port} on 127.0.0.1 is already in use" in ran.stderr


async def test_a_restart_under_systemds_socket_refuses_nobody(tmp_path: Path) -> None:
    async with Origin(streams) as origin:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
            port, number = listener.getsockname()[1], listener.fileno()

            def start(workers: int) -> subprocess.Popen[bytes]:
                ours = ["serve", "--no-viewer", "--route", f"up={origin.url}", "--workers", str(workers), "--quiet"]
                return subprocess.Popen(
                    [sys.executable, "-c", AS_SYSTEMD, str(number), *COMMAND, *ours],
                    cwd=tmp_path, env=clean_environment(), pass_fds=[number],
                )  # fmt: skip

            for workers_ in (1, 2):
                with start(workers_) as process:
                    clients = [await connect(port) for _ in range(10)]  # they wait until it accepts
                    assert await asyncio.gather(*(ask(client) for client in clients)) == [200] * 10
                    for client in clients:
                        await client.close()
                    process.terminate()
                    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_restarts_under_load_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    """Acceptance 124: SIGTERM and start again, over and over, with clients that never pause. At length: VERBATIM_RESTARTS."""
    cycles = int(os.environ.get("VERBATIM_RESTARTS", "3"))
    port, answered, stop = free_port(), list[bytes](), asyncio.Event()

    async def client(name: int) -> None:
        number = 0
        while not stop.is_set():
            try:
                connection = await connect(port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                while not stop.is_set():
                    number += 1
                    path = b"%d-%d" % (name, number)
                    await connection.send(GET % path)
                    message = await final(connection)
                    if message.status == 200:
                        assert message.body == b"/" + path
                        answered.append(path)
            except (ConnectionError, OSError):
                pass  # it was stopped: what this one request became of is not known
            finally:
                await connection.close()

    async with Origin(streams) as origin:
        clients = [asyncio.ensure_future(client(name)) for name in range(8)]
        for cycle in range(cycles):
            settings = ["--port", str(port), "--no-viewer", "--route", f"up={origin.url}", "--archive", "archive", "--grace", "1"]
            command = [*COMMAND, "serve", *settings, "--workers", str(1 + cycle % 2), "--no-access-log"]
            process = Started(command, log=tmp_path / f"{cycle}.log", cwd=tmp_path, env=clean_environment())
            before = len(answered)
            await wait_for(lambda: len(answered) > before + 50)  # noqa: B023
            assert await process.stop(signal.SIGTERM) == 0, process.output()
            assert "Traceback" not in process.output()
        stop.set()
        await asyncio.gather(*clients)
    verified = verbatim(tmp_path, "verify", "archive")
    assert verified.returncode == 0, verified.stdout
    held = Gateway(port, tmp_path / "archive", process)
    kept = await held.archived(bool)
    targets = [one.request["target"].removeprefix("/up/") for one in kept if one.end and one.end["reason"] == "complete"]
    assert len(targets) == len(set(targets))
    assert not {path.decode() for path in answered} - set(targets)


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
