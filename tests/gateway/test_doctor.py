"""What would keep the gateway from working is found by trying it. Real sockets, real disk."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from commandline import running, wait_for

from archive.folder import segment_name
from archive.proof.keys import make_key
from gateway import doctor
from gateway.cli import cli
from gateway.doctor import Finding, examine
from gateway.settings import Settings, load


def settings(folder: Path, upstream: str = "http://127.0.0.1:1", **more: object) -> Settings:
    routes = tuple(f"{name}={upstream}" for name in ("openai", "anthropic", "gemini"))
    return load({"routes": routes, "archive": folder, "port": 0, "viewer_port": 0, "min_free": 0, **more}, {}, None)


def found(given: Settings, about: str) -> Finding:
    return next(finding for finding in examine(given) if finding.about == about)


@pytest.mark.parametrize(("host", "token", "warned"), [("0.0.0.0", None, True), ("0.0.0.0", "x" * 16, False), ("127.0.0.1", None, False)])
def test_a_gateway_open_to_the_network_is_warned_of(tmp_path: Path, host: str, token: str | None, warned: bool) -> None:
    """Acceptance H105."""
    env = {} if token is None else {"VERBATIM_RELAY_TOKEN": token}
    given = load({"host": host, "archive": tmp_path, "port": 0, "viewer": False, "routes": ()}, env, None)
    told = list(doctor._exposure(given))
    assert bool(told) is warned
    assert all(finding.state == "warn" and "relay_token" in finding.advice for finding in told)


@contextmanager
def accepting(certificate: Path | None = None) -> Iterator[int]:
    """A port that accepts connections, with TLS when it has a certificate."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                client, _ = listener.accept()
                with client:
                    if context is not None and not ending.is_set():
                        try:
                            context.wrap_socket(client, server_side=True).close()
                        except OSError:  # a client that does not trust us leaves
                            continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ending.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key, signed = path.with_suffix(".key"), path.with_suffix(".crt")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", signed], check=True, capture_output=True)
    path.write_text(key.read_text() + signed.read_text())
    return path


def test_all_is_well_on_a_sound_machine(tmp_path: Path) -> None:
    with accepting() as port:
        given = settings(tmp_path / "archive", f"http://127.0.0.1:{port}")
        findings = list(examine(given))
    assert {finding.state for finding in findings} == {"ok"}, findings
    assert [finding.about for finding in findings] == [
        *("gateway port", "viewer port", "folder", "disk", "growth", "archive"),
        *("route anthropic", "route gemini", "route openai", "clock"),
    ]
    assert not (tmp_path / "archive").exists()


def test_a_taken_port_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        with socket.create_server(("127.0.0.1", port)) as again:
            threading.Thread(target=lambda: again.accept()[0].close()).start()
            finding = found(settings(tmp_path, port=port), "gateway port")
    assert finding.state == "fail"
    assert str(port) in finding.text
    assert "--port" in finding.advice


def test_what_already_runs_here_is_no_fault(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", "0", "--viewer-port", "0") as gateway:
        ports = [int(gateway.find(rf"{what} +http://127\.0\.0\.1:(\d+)")) for what in ("gateway", "viewer")]
        given = settings(tmp_path, port=ports[0], viewer_port=ports[1])
        wait_for(lambda: found(given, "viewer port").state == "ok", lambda: gateway.stderr)
        assert found(given, "gateway port").text == f"a gateway is already running on 127.0.0.1:{ports[0]}"
        swapped = settings(tmp_path, port=ports[1], viewer_port=ports[0])
        assert {found(swapped, f"{what} port").state for what in ("gateway", "viewer")} == {"fail"}


def test_a_folder_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = found(settings(tmp_path / "file" / "archive"), "folder")
    assert (finding.state, "is no folder" in finding.text) == ("fail", True)


def test_a_folder_open_to_others_is_warned_of(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    finding = found(settings(tmp_path), "permissions")
    assert (finding.state, finding.advice) == ("warn", f"chmod 700 {tmp_path}")


@pytest.mark.parametrize(("free", "state"), [(100, "fail"), (300, "warn"), (500, "ok")])
def test_little_room_on_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free << 20))
    assert found(settings(tmp_path, min_free="100MiB" if free > 100 else "101MiB"), "disk").state == state


def grown(folder: Path, size: int) -> None:
    """The archive of a day, as the names of its files have it."""
    for number in range(24):
        (folder / segment_name(time.time() - number * 3600)).write_bytes(bytes(size))


@pytest.mark.parametrize(
    ("more", "free", "state"),
    [
        ({}, 100, "warn"),
        ({}, 1000, "ok"),
        ({"min_free": "900KiB"}, 1000, "warn"),
        ({"keep_days": 2}, 100, "ok"),
        ({"keep_days": 30}, 100, "warn"),
        ({"keep_bytes": "50KiB"}, 100, "ok"),
    ],
    ids=str,
)
def test_a_filling_disk_is_told_of_while_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object], free: int, state: str
) -> None:
    grown(tmp_path, 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free << 10))
    finding = found(settings(tmp_path, **more), "growth")
    assert finding.state == state, finding
    if state == "warn":
        assert "at this rate the disk is full in" in finding.text
        assert "keep_days or keep_bytes" in finding.advice
        assert all(name in finding.text for name in more if name.startswith("keep"))


def test_foreign_names_in_the_folder_are_listed(tmp_path: Path) -> None:
    grown(tmp_path, 1)
    (tmp_path / "notes\n.txt").touch()
    (tmp_path / "2026-11-19T10.jsonl.gz").symlink_to("notes")
    finding = found(settings(tmp_path), "foreign files")
    assert finding.state == "warn"
    assert "2 names" in finding.text
    assert "2026-11-19T10.jsonl.gz, notes\\n.txt" in finding.text


def test_a_key_that_cannot_sign_seals_fails(tmp_path: Path) -> None:
    finding = found(settings(tmp_path, seal_key=tmp_path / "nowhere"), "seal key")
    assert finding.state == "fail"
    assert str(tmp_path / "nowhere") in finding.text
    key = make_key(tmp_path / "key")
    finding = found(settings(tmp_path, seal_key=tmp_path / "key"), "seal key")
    assert (finding.state, finding.text) == ("ok", f"seals are signed; the public key is {key.public}")
    assert not [it for it in examine(settings(tmp_path, seal_key=tmp_path / "nowhere", seal=False)) if it.about == "seal key"]


def test_a_record_that_cannot_be_written_back_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", lambda **_: (_ for _ in ()).throw(OSError("no room")))
    finding = found(settings(tmp_path), "archive")
    assert finding.state == "fail"
    assert "no room" in finding.text


def test_an_upstream_that_refuses_is_warned_of(tmp_path: Path) -> None:
    finding = found(settings(tmp_path, "http://127.0.0.1:1"), "route openai")
    assert finding.state == "warn"
    assert "refuses connections" in finding.text


def test_an_upstream_without_address_is_warned_of(tmp_path: Path) -> None:
    finding = found(settings(tmp_path, "http://no.such.host.invalid"), "route openai")
    assert finding.state == "warn"
    assert "no.such.host.invalid has no address" in finding.text


def test_an_untrusted_certificate_fails_and_its_own_ca_helps(tmp_path: Path, certificate: Path) -> None:
    with accepting(certificate) as port:
        url = f"https://127.0.0.1:{port}"
        finding = found(settings(tmp_path, url), "route openai")
        assert finding.state == "fail"
        assert "certificate is not trusted" in finding.text
        file = tmp_path / "verbatim.toml"
        file.write_text(f'[routes.own]\nupstream = "{url}"\nca_file = "{certificate}"\n')
        routes = {"routes": tuple(f"{name}=http://127.0.0.1:1" for name in ("openai", "anthropic", "gemini"))}
        trusted = found(load({**routes, "archive": tmp_path, "port": 0, "viewer": False}, {}, file), "route own")
    assert trusted.state == "ok", trusted
    assert "TLS" in trusted.text


def test_tls_to_a_port_that_has_none_fails(tmp_path: Path) -> None:
    with accepting() as port:
        finding = found(settings(tmp_path, f"https://127.0.0.1:{port}", connect_timeout=2), "route openai")
    assert finding.state in ("fail", "warn")
    assert str(port) in finding.text


def test_a_clock_before_our_time_fails(tmp_path: Path) -> None:
    given = settings(tmp_path)
    assert next(it for it in examine(given, now=lambda: 1_000_000_000.0) if it.about == "clock").state == "fail"


def test_doctor_says_what_to_do_and_fails_by_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    routes = [part for name in ("openai", "anthropic", "gemini") for part in ("--route", f"{name}=http://127.0.0.1:1")]
    base = ["doctor", "--port", "0", "--no-viewer", "--min-free", "0", *routes]
    bad = CliRunner().invoke(cli, [*base, "--archive", str(tmp_path / "file")])
    assert bad.exit_code == 1
    assert "FAIL  folder" in bad.output
    assert "-> choose another with --archive" in bad.output
    good = CliRunner().invoke(cli, [*base, "--archive", str(tmp_path / "new"), "--json"])
    assert good.exit_code == 0, good.output
    assert '"state": "ok", "about": "archive"' in good.output


def test_a_route_behind_a_proxy_is_tried_through_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy() -> None:
            for answer in (b"\x05\x00", b"\x05\xff"):  # one lets through, the next wants another password
                client, _ = listener.accept()
                with client:
                    client.recv(16)
                    client.sendall(answer)
                    if client.recv(64):
                        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                        client.recv(1)

        thread = threading.Thread(target=proxy)
        thread.start()
        through = {"ALL_PROXY": f"socks5h://me:canary@127.0.0.1:{listener.getsockname()[1]}"}
        given = load({"routes": ("x=http://x.example",), "archive": tmp_path}, through, None)
        route = given.routes["x"]
        reached = doctor._upstream(route, 5.0)
        assert reached.state == "ok"
        assert "through socks5h://[redacted]@127.0.0.1" in reached.text
        assert "(ALL_PROXY)" in reached.text
        refused = doctor._upstream(route, 5.0)
        assert refused.state == "warn"
        assert 'proxy = "none"' in refused.advice
        assert "canary" not in f"{reached}{refused}"
        thread.join()


def test_a_proxy_that_only_a_request_can_try_is_told(tmp_path: Path) -> None:
    given = load({"routes": ("x=http://x.example",), "archive": tmp_path}, {"HTTP_PROXY": "http://me:canary@p:3128"}, None)
    finding = doctor._upstream(given.routes["x"], 5.0)
    assert finding.state == "warn"
    assert finding.text == "http://x.example is reached through http://[redacted]@p:3128 (HTTP_PROXY), which was not tried"
