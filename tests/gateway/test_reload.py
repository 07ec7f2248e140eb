"""Settings taken anew on SIGHUP: what becomes of them, and real gateways that go on with them while they work."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pickle
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
from commandline import running, verbatim
from rawsockets import connect, wait_for, wait_for_sync
from relayrig import Connection, Origin, final
from rig import Gateway, gateway

from gateway import app
from gateway.relay import RUNNING
from gateway.reload import merge, pack, share, unpack
from gateway.routes import Route
from gateway.settings import SETTINGS, Settings

GET = b"GET /up/%s HTTP/1.1\r\nHost: a\r\n\r\n"


def route(name: str, url: str) -> Route:
    return Route.parse(name, url)


def test_live_settings_and_routes_are_taken_and_others_named() -> None:
    old = Settings(routes={"a": route("a", "http://a"), "b": route("b", "http://b"), "gone": route("gone", "http://c")})
    routes = {"a": route("a", "http://a"), "b": route("b", "http://other"), "new": route("new", "http://d")}
    new = dataclasses.replace(old, port=1, grace=3.0, workers=5, default_route="new", routes=routes)
    change = merge(old, new)
    assert change.taken == ("default_route", "grace", "routes.b", "routes.gone", "routes.new")
    assert change.later == ("port", "workers")
    assert change.settings == dataclasses.replace(new, port=old.port, workers=old.workers)
    assert change.settings.routes["a"] is old.routes["a"]  # its idle connections are still good
    assert str(change).endswith("changed: default_route, grace, routes.b, routes.gone, routes.new; only after a restart: port, workers")
    assert str(merge(old, old)) == "the settings were read again; changed: nothing"


def test_what_is_fixed_by_sockets_and_processes_is_not_live() -> None:
    assert not {"host", "port", "workers", "archive", "record", "viewer_port"} & {it.name for it in SETTINGS if it.live}


@pytest.mark.parametrize("count", [1, 3, 64])
def test_workers_share_the_bounds_on_memory(count: int) -> None:
    whole = Settings(workers=count, queue_bytes=64 << 20, queue_records=8192)
    one = share(whole)
    assert one.queue_bytes * count <= whole.queue_bytes
    assert one.queue_records * count <= whole.queue_records
    assert dataclasses.replace(one, queue_bytes=whole.queue_bytes, queue_records=whole.queue_records) == whole


def test_settings_reach_a_worker_of_another_version() -> None:
    """The next version may be installed while a gateway runs, and a worker that is started again is of that one already."""
    settings = Settings(port=1, grace=3.0, viewer_token="t" * 16, routes={"a": route("a", "https://a/v1?x=1")})
    assert unpack(pack(settings)) == settings
    values = pickle.loads(pack(settings))
    del values["grace"], values["routes"][0]["websockets"]
    values["to_come"] = values["routes"][0]["to_come"] = 1
    assert unpack(pickle.dumps(values)) == dataclasses.replace(settings, grace=Settings().grace)


class Named(Origin):
    """An origin that answers with its own address; /stream begins an answer that ends when `go` is set."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.go = asyncio.Event()

    async def _answer(self, connection: Connection, request: Any) -> None:
        said = self.url.encode()
        if request.target == b"/stream":
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(said), said))
            await self.go.wait()
            await connection.send(b"3\r\nend\r\n0\r\n\r\n")
        else:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def rewrite(running: Gateway, before: str, after: str) -> None:
    """Replace `before` in the settings' file, as an editor does: a new file under the old name."""
    path = running.archive.parent / "verbatim.toml"
    text = path.read_text()
    assert before in text
    fresh = path.with_suffix(".new")
    fresh.write_text(text.replace(before, after))
    fresh.rename(path)


async def reloaded(running: Gateway, times: int) -> None:
    running.process.process.send_signal(signal.SIGHUP)

    async def told() -> bool:
        return bool((await running.health())["settings"]["reloads"] == times)

    await wait_for(told)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_takes_routes_anew_and_no_stream_notices(tmp_path: Path, workers: int) -> None:
    async with Named() as first, Named() as second, gateway(tmp_path, {"up": first.url}, workers=workers) as running:
        clients = [await connect(running.port) for _ in range(16)]
        for client in clients:
            await client.send(GET % b"stream")
        for client in clients:
            await client.read_until(first.url.encode() + b"\r\n")
        rewrite(running, first.url, second.url)
        rewrite(running, "[routes.up]", f'[routes.more]\nupstream = "{first.url}"\n[routes.up]')
        await reloaded(running, 1)
        for _ in range(8):  # whichever worker it comes to
            newcomer = await connect(running.port)
            await newcomer.send(GET % b"x")
            assert (await final(newcomer)).body == second.url.encode()
            await newcomer.send(b"GET /more/x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await final(newcomer)).body == first.url.encode()
            await newcomer.close()
        first.go.set()
        for client in clients:
            assert (await client.read_until(b"0\r\n\r\n")).endswith(b"end\r\n0\r\n\r\n")
            await client.send(GET % b"y")  # the connection itself goes on, too
            assert (await final(client)).body == second.url.encode()
            await client.close()
        await wait_for(lambda: "changed: routes.more, routes.up" in running.output())
    kept = await running.archived(bool)
    assert len(kept) == 16 + 16 + 16
    assert all(one.end and one.end["reason"] == "complete" for one in kept)
    for one in kept:
        assert one.body("response").removesuffix(b"end").decode() == one.first("upstream")["url"]
    assert verbatim(tmp_path, "verify", "archive").returncode == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_bad_settings_change_nothing_and_say_where_they_are_wrong(tmp_path: Path, workers: int) -> None:
    async with Named() as origin, gateway(tmp_path, {"up": origin.url}, workers=workers) as running:
        rewrite(running, "[routes.up]", "grace = 3\nnonsense = 1\n[routes.up]")
        running.process.process.send_signal(signal.SIGHUP)
        await wait_for(lambda: "nonsense" in running.output())
        (said,) = [line for line in running.output().splitlines() if "nonsense" in line]
        assert "the settings were not taken anew, those before hold: " in said
        assert "verbatim.toml, line " in said
        client = await connect(running.port)
        await client.send(GET % b"x")
        assert (await final(client)).status == 200
        await client.close()
        assert (await running.health())["settings"]["reloads"] == 0
        rewrite(running, "nonsense = 1", 'log_level = "warning"')
        await reloaded(running, 1)
        assert "changed: grace" not in running.output()  # the level hides it, as it was asked to


@pytest.mark.parametrize("workers", [1, 2])
async def test_settings_that_need_a_restart_are_named(tmp_path: Path, workers: int) -> None:
    async with Named() as origin, gateway(tmp_path, {"up": origin.url}, workers=workers) as running:
        rewrite(running, "[routes.up]", 'sync = "never"\ngrace = 3\n[routes.up]')
        rewrite(running, f"workers = {workers}", "workers = 7")
        await reloaded(running, 1)
        await wait_for(lambda: "changed: grace; only after a restart: workers, sync" in running.output())


@pytest.mark.parametrize("workers", [1, 2])
async def test_under_reload_after_reload_no_request_sees_half_of_one(tmp_path: Path, workers: int) -> None:
    """Reloads that swap two routes' upstreams, with clients that never pause. At length: VERBATIM_RELOADS."""
    reloads = int(os.environ.get("VERBATIM_RELOADS", "12"))
    done = asyncio.Event()
    asked = 0

    async def client(running: Gateway) -> None:
        nonlocal asked
        connection = await connect(running.port)
        while not done.is_set():
            for name in (b"up", b"down"):
                await connection.send(b"GET /%b/x HTTP/1.1\r\nHost: a\r\n\r\n" % name)
                assert (await final(connection)).status == 200
                asked += 1
        await connection.close()

    async with Named() as first, Named() as second:
        routes = {"up": first.url, "down": second.url}
        async with gateway(tmp_path, routes, workers=workers, access_log=False) as running:
            clients = [asyncio.ensure_future(client(running)) for _ in range(4)]
            for times in range(1, reloads + 1):
                one, other = (first.url, second.url) if times % 2 else (second.url, first.url)
                rewrite(running, one, "swapped")
                rewrite(running, other, one)
                rewrite(running, "swapped", other)
                await reloaded(running, times)
            done.set()
            await asyncio.gather(*clients)
            await wait_for(running.idle)
    kept = await running.archived(lambda found: len(found) == asked)
    for one in kept:
        assert one.body("response").decode() == one.first("upstream")["url"]
    assert {one.first("upstream")["url"] for one in kept} == {first.url, second.url}


def test_a_relay_says_of_each_of_its_attributes_whether_it_is_settings() -> None:
    """One that is added belongs here, where SIGHUP is to change it, or to RUNNING, where it must not."""
    settings = {
        "routes", "upstreams", "limits", "header_timeout", "read_timeout", "handshake_timeout", "allow_unrecorded", "guard", "half_close",
        "max_streams", "_access_log",
    }  # fmt: skip
    assert set(vars(app.create_relay(Settings(), None))) == settings | RUNNING


def test_every_live_setting_makes_another_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would be said to be taken, and change nothing."""
    for name in ("Relay", "Routes", "Guard"):
        monkeypatch.setattr(app, name, lambda *given, **named: (given, named))
    elsewhere = {"grace", "log_level", "access_log"}  # the server's, the log's
    other = {"relay_token": "t" * 16, "allow_origins": "https://a.example", "default_route": "openai", "half_close": "leave"}
    usual = app.create_relay(Settings(), None)
    for it in SETTINGS:
        if it.live and it.name not in elsewhere:
            value = other[it.name] if it.name in other else not it.default if it.kind == "switch" else it.default + 1
            assert app.create_relay(Settings(**{it.name: value}), None) != usual, it.name


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_renewed_certificate_is_served_after_sighup(tmp_path: Path, workers: int) -> None:
    for name in ("first", "second"):
        assert verbatim(tmp_path, "cert", "--folder", name).returncode == 0
    (tmp_path / "first").rename(tmp_path / "tls")
    settings = {"tls_cert": tmp_path / "tls" / "gateway.pem", "tls_key": tmp_path / "tls" / "gateway.key"}
    arguments = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))]
    with running(tmp_path, "serve", "--port", "0", "--no-viewer", "--workers", str(workers), *arguments) as command:
        port = int(command.find(r"gateway +https://127\.0\.0\.1:(\d+)\n"))
        assert served(port) == leaf(tmp_path)
        for file in (tmp_path / "second").iterdir():
            file.rename(tmp_path / "tls" / file.name)
        command.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(wait_for_sync, lambda: {served(port) for _ in range(6)} == {leaf(tmp_path)})  # whichever worker answers
        assert command.end() == 0


def served(port: int) -> str:
    """The certificate that a newcomer is shown."""
    return "".join(ssl.get_server_certificate(("127.0.0.1", port), timeout=20).split())


def leaf(folder: Path) -> str:
    """The first certificate in the gateway's file."""
    text = (folder / "tls" / "gateway.pem").read_text()
    return "".join(text[text.index("-----BEGIN CERT") : text.index("-----END CERT") + len("-----END CERTIFICATE-----")].split())
