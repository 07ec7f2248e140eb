"""The TLS front: what it serves with, what it refuses in one sentence, whom clients are told to trust, and that no key gets out."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from click.testing import CliRunner
from commandline import clean_environment
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key
from rig import ROOT, archive_lines, gateway, wait_for_sync
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from gateway import doctor
from gateway.cli import cli
from gateway.front import front_of, trust_variables
from gateway.settings import Settings, SettingsError

DAY = datetime.timedelta(days=1)


def issued(folder: Path, *names: str, **options) -> tuple[Path, Path]:
    """A certificate (its authority's after it) and its key."""
    authority = trustme.CA()
    made = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), **options)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    return certificate, key


def refusal(certificate: Path | None, key: Path | None) -> str:
    with pytest.raises(SettingsError) as error:
        front_of(Settings(tls_cert=certificate, tls_key=key))
    said = str(error.value)
    assert "\n" not in said
    return said


def test_a_certificate_is_read_with_its_names_its_end_and_whom_to_trust(tmp_path: Path) -> None:
    certificate, key = issued(tmp_path, "gateway.example", "*.wild.example", "10.0.0.5", "::1")
    front = front_of(Settings(tls_cert=certificate, tls_key=key))
    assert front is not None
    assert front.names == ("gateway.example", "*.wild.example", "10.0.0.5", "::1")
    assert front.authority is not None
    assert front.authority in certificate.read_text().replace("\r\n", "\n")
    for host in ("gateway.example", "Gateway.Example", "a.wild.example", "10.0.0.5", "::1"):
        assert front.covers(host)
        assert front.name_for(host) == host
    for host in ("127.0.0.1", "wild.example", "a.b.wild.example", "10.0.0.6"):
        assert not front.covers(host)
        assert front.name_for(host) == "gateway.example"
    assert front.name_for("127.0.0.1") == "gateway.example"
    together = tmp_path / "both.pem"
    together.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert front_of(Settings(tls_cert=together)) is not None
    leaf_alone = tmp_path / "leaf.pem"
    leaf_alone.write_text(certificate.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    public = front_of(Settings(tls_cert=leaf_alone, tls_key=key))
    assert public is not None
    assert public.authority is None  # as with a public authority's: clients trust it already
    assert front_of(Settings()) is None


def test_what_cannot_be_served_with_is_one_sentence(tmp_path: Path) -> None:
    certificate, key = issued(tmp_path)
    (tmp_path / "other").mkdir()
    _, foreign = issued(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    assert "tls_cert is not" in refusal(None, key)
    assert "there is no file" in refusal(tmp_path / "none.pem", key)
    assert "there is no file" in refusal(certificate, tmp_path / "none.key")
    assert "cannot be read" in refusal(tmp_path, key)
    assert "holds no certificate" in refusal(text, key)
    assert "holds no private key" in refusal(certificate, text)
    assert "holds no private key" in refusal(certificate, None)
    assert "is not the certificate's" in refusal(certificate, foreign)
    damaged = tmp_path / "damaged.key"
    lines = key.read_text().splitlines()
    damaged.write_text("\n".join([lines[0], lines[1][:10], *lines[2:]]))
    assert "damaged" in refusal(certificate, damaged)
    protected = tmp_path / "protected.key"
    loaded = load_pem_private_key(key.read_bytes(), None)
    protected.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase")))
    assert "passphrase" in refusal(certificate, protected)


@pytest.mark.parametrize(("begins", "ends", "said"), [(-9, -1, "expired on"), (1, 9, "begins only on")])
def test_a_certificate_out_of_its_time_is_refused(tmp_path: Path, begins: int, ends: int, said: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = issued(tmp_path, not_before=now + begins * DAY, not_after=now + ends * DAY)
    assert said in refusal(certificate, key)


def test_run_has_no_gateway_of_its_own_under_a_name_that_is_not_this_machine_s(tmp_path: Path) -> None:
    certificate, key = issued(tmp_path, "gateway.invalid")
    environment = {"VERBATIM_TLS_CERT": str(certificate), "VERBATIM_TLS_KEY": str(key)}
    done = CliRunner().invoke(cli, ["run", "--port", "1", "--", "true"], env=environment)
    assert done.exit_code == 2
    assert "not for localhost" in done.output
    certificate, key = issued(tmp_path, "gateway.invalid", "localhost")
    front = front_of(Settings(tls_cert=certificate, tls_key=key))
    assert front is not None
    assert (front.name_for("127.0.0.1"), front.name_for("::1"), front.name_for("10.0.0.1")) == ("localhost", "localhost", "gateway.invalid")


def test_serve_says_what_is_wrong_with_a_certificate_and_exits_2(tmp_path: Path) -> None:
    certificate, _ = issued(tmp_path)
    done = CliRunner().invoke(cli, ["serve", "--tls-cert", str(certificate), "--port", "0", "--no-viewer", "--no-record"])
    assert done.exit_code == 2
    assert "holds no private key" in done.output
    assert "Traceback" not in done.output


def test_cert_makes_an_authority_and_a_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tls"
    mask = os.umask(0)
    try:
        done = CliRunner().invoke(cli, ["cert", "--folder", str(folder), "llm.example", "10.0.0.5", "::1"])
    finally:
        os.umask(mask)
    assert done.exit_code == 0, done.output
    files = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert files == {"ca.pem": 0o644, "gateway.pem": 0o644, "gateway.key": 0o600}
    front = front_of(Settings(tls_cert=folder / "gateway.pem", tls_key=folder / "gateway.key"))
    assert front is not None
    assert front.names == ("llm.example", "10.0.0.5", "::1")
    assert front.authority == (folder / "ca.pem").read_text()
    for said in (
        f"verbatim serve --tls-cert {folder / 'gateway.pem'}",
        "NODE_EXTRA_CA_CERTS=",
        "SSL_CERT_FILE=",
        "--cacert",
        "verbatim run",
    ):
        assert said in done.output
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = CliRunner().invoke(cli, ["cert", "--folder", str(folder)])
    assert again.exit_code == 2
    assert "not overwritten" in again.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["https://llm.example", "llm.example:8787", "[::1]", "a b", "", "a..b", "me@example.org", "x" * 64])
def test_cert_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(cli, ["cert", "--folder", str(tmp_path / "tls"), "--", name])
    assert done.exit_code == 2
    assert "host name" in done.output
    assert not (tmp_path / "tls").exists()


def test_a_program_trusts_our_authority_beside_all_others(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.pem"
    theirs.write_text("-----BEGIN CERTIFICATE-----\ntheirs\n-----END CERTIFICATE-----")
    given = trust_variables("ours\n", tmp_path, {"SSL_CERT_FILE": str(theirs), "NODE_EXTRA_CA_CERTS": str(tmp_path / "gone.pem")})
    assert Path(given["SSL_CERT_FILE"]).read_text() == theirs.read_text() + "\nours\n"
    assert Path(given["NODE_EXTRA_CA_CERTS"]).read_text() == "ours\n"
    assert given["REQUESTS_CA_BUNDLE"] == given["CURL_CA_BUNDLE"] == given["SSL_CERT_FILE"]
    usual = trust_variables("ours\n", tmp_path, {})
    bundle = Path(usual["SSL_CERT_FILE"]).read_text()
    assert bundle.count("BEGIN CERTIFICATE") > 50  # the system's, or certifi's
    assert bundle.endswith("ours\n")


def test_the_doctor_looks_at_the_certificate(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    certificate, key = issued(tmp_path)

    def found(**settings) -> list[tuple[str, str]]:
        return [(it.state, it.text) for it in doctor._front(Settings(tls_cert=certificate, tls_key=key, **settings), now.timestamp())]

    assert [state for state, _ in found()] == ["ok"]
    ((state, text),) = found(host="10.9.9.9")
    assert (state, "not for 10.9.9.9" in text) == ("warn", True)
    key.chmod(0o644)
    assert [state for state, _ in found()] == ["ok", "warn"]
    certificate, key = issued(tmp_path, not_after=now + 5 * DAY)
    ((state, text),) = found()
    assert (state, "days left" in text) == ("warn", True)
    certificate, key = issued(tmp_path, not_before=now - 5 * DAY, not_after=now - DAY)
    ((state, text),) = found()
    assert (state, "expired" in text) == ("fail", True)


def everything_but(key: Path) -> bytes:
    """What lies beside the key's file and below, logs and recordings inflated."""
    files = [path for path in key.parent.rglob("*") if path.is_file() and path != key]
    return b"".join(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_https_and_wss_are_served_and_the_key_stays_where_it_is(tmp_path: Path) -> None:
    """Also that a client without TLS, or with another trust, costs nothing but its own connection."""
    certificate, key = issued(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    message = os.urandom(17 << 20)

    def asked(port: int, context: ssl.SSLContext) -> dict[str, object]:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
        connection.request("GET", "/_verbatim/health")
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def refused(port: int) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            asked(port, ssl.create_default_context())
        plain = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        plain.request("GET", "/_verbatim/health")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        plain.close()

    async with (
        serve(echo, "127.0.0.1", 0, max_size=None) as server,
        gateway(
            tmp_path / "gateway",
            {"up": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"},
            tls_cert=str(certificate),
            tls_key=str(key),
            log_level="debug",
        ) as ours,
    ):
        await asyncio.to_thread(refused, ours.port)
        assert (await asyncio.to_thread(asked, ours.port, trusting))["recording"] is True
        url = f"wss://localhost:{ours.port}/up/"
        async with connect(url, ssl=trusting, proxy=None, max_size=None, compression=None) as client:
            await client.send(message)
            assert await client.recv() == message
        await ours.archived(lambda found: bool(found) and found[-1].end is not None)
        body = "".join(line for line in key.read_text().splitlines() if "-----" not in line)
        assert f"https://127.0.0.1:{ours.port}/up" in ours.output()
        assert str(certificate) in ours.output()
    written = await asyncio.to_thread(everything_but, key)
    for at in range(0, len(body) - 16, 16):
        assert body[at : at + 16].encode() not in written
    assert archive_lines(tmp_path / "gateway" / "archive")


CHILD = """
import asyncio, json, os, sys
import openai
client = openai.AsyncOpenAI(api_key="sk-none", timeout=20)
async def main():
    said = await client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hello"}])
    assert said.choices[0].message.content
    stream = await client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert len([chunk async for chunk in stream]) > 1
    async with client.realtime.connect(model="gpt-realtime") as socket:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        await socket.conversation.item.create(item=item)
        await socket.response.create()
        async for event in socket:
            if event.type == "response.done":
                break
    print(os.environ["OPENAI_BASE_URL"])
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False])
def test_run_tells_its_command_whom_to_trust(tmp_path: Path, running: bool) -> None:
    """The real OpenAI SDK, https and wss, with nothing set but what `verbatim run` sets: through a gateway that runs, or one of its own."""
    made = CliRunner().invoke(cli, ["cert", "--folder", str(tmp_path / "tls")])
    assert made.exit_code == 0, made.output
    environment = clean_environment(
        PYTHONPATH=str(ROOT),
        VERBATIM_TLS_CERT=str(tmp_path / "tls" / "gateway.pem"),
        VERBATIM_TLS_KEY=str(tmp_path / "tls" / "gateway.key"),
    )
    command = [sys.executable, "-P", "-m", "gateway.cli"]
    demo = subprocess.Popen([*command, "demo", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    served = None
    try:
        assert demo.stdout is not None
        url = next(word for word in iter(demo.stdout.readline, "") if "http://" in word)
        upstream = "http://" + urlsplit("http://" + url.split("http://")[1].split()[0]).netloc
        routes = ["--route", f"openai={upstream}"]
        port = "1"
        if running:
            served = subprocess.Popen(
                [*command, "serve", "--port", "0", "--no-viewer", "--archive", "served", *routes],
                env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
            )  # fmt: skip
            assert served.stdout is not None
            line = next(line for line in iter(served.stdout.readline, "") if "https://" in line)
            port = str(urlsplit(line.split()[1]).port)
        done = subprocess.run(
            [*command, "run", "--port", port, "--archive", "own", *routes, "--", sys.executable, "-c", CHILD],
            env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("https://127.0.0.1:")
    finally:
        for process in (served, demo):
            if process is not None:
                process.terminate()
                process.communicate(timeout=30)
    folder = tmp_path / ("served" if running else "own")
    wait_for_sync(lambda: len(archive_lines(folder)) == 3)
    assert {kept.end["reason"] for kept in archive_lines(folder) if kept.end} == {"complete"}


@pytest.mark.skipif(shutil.which("node") is None and not os.environ.get("CI"), reason="node is not installed")
async def test_node_trusts_what_it_is_told_to(tmp_path: Path) -> None:
    certificate, key = issued(tmp_path)
    script = 'fetch(process.argv[1] + "/_verbatim/health").then(r => console.log(r.status), e => console.log(e.cause.code))'
    async with gateway(tmp_path / "gateway", {"up": "http://127.0.0.1:1"}, tls_cert=str(certificate), tls_key=str(key)) as ours:

        def fetched(**more: str) -> str:
            command = ["node", "-e", script, f"https://127.0.0.1:{ours.port}"]
            return subprocess.run(
                command, env=clean_environment(**more), capture_output=True, text=True, timeout=30, check=True
            ).stdout.strip()

        assert await asyncio.to_thread(fetched, NODE_EXTRA_CA_CERTS=str(certificate)) == "200"
        assert await asyncio.to_thread(fetched) != "200"
