"""The commands as their users meet them: what they print, what they refuse, and their exit codes. Real processes where it matters."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commandline import COMMAND, children, clean_environment, running, upstream, verbatim, wait_for
from readback import archive_records
from samples import HOUR, Shelf, whole

from archive.record import Body, Client, End, EndReason, Message, Record, Request, Response, Timing, Upstream, id_text, new_id
from archive.writer import Writer
from gateway import __version__, serving
from gateway.cli import COMMANDS, cli
from gateway.settings import load

AT = 1_780_000_000.0


def record(
    number: int, *, ended: bool = True, status: int = 200, body: bytes = b'{"answer": "yes"}', target: bytes = b"/openai/v1/x"
) -> Record:
    at = AT + number
    return Record(
        id=new_id(int(at * 1000)),
        part=0,
        at=at,
        client=Client(
            "127.0.0.1:5", "nightly", "x-verbatim-session", user="me", user_source="x-verbatim-user", tags=("ci",), metadata={"try": 2}
        ),
        upstream=Upstream("openai", "https://api.openai.com"),
        request=Request(b"POST", target, [(b"Host", b"h"), (b"authorization", b"Bearer [redacted]")]),
        request_body=Body([b'{"question":"Z\xc3\xbcrich?"}'], ended=True),
        response=Response(status, [(b"content-type", b"application/json")], b"OK"),
        response_body=Body([body], ended=ended),
        timing=Timing(1.5, 20.25 if ended else None),
        end=End(EndReason.COMPLETE) if ended else None,
    )


def write(folder: Path, records: Sequence[Record]) -> None:
    writer = Writer(folder, version="test", min_free=0)
    writer.start()
    for it in records:
        assert writer.put(it)
    assert writer.close(20.0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """An archive of three exchanges."""
    folder = tmp_path / "kept"
    write(folder, [record(1), record(2, status=404, target=b"/gemini/v1beta/y"), record(3)])
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], prog_name="verbatim")


def get(url: str, **headers: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


# Help and errors


def test_help_is_understood_by_a_newcomer() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "records every LLM call word for word" in result.output
    assert "verbatim serve --demo" in result.output
    for name in COMMANDS:
        assert f"  {name} " in result.output
        own = run(name, "--help")
        assert own.exit_code == 0
        assert "Examples:" in own.output
        assert f"verbatim {name}" in own.output


def options(command: str) -> dict[str, str]:
    """The options of a command in the order of its help, each with what is said about it."""
    told = re.split(r"^  (?=-)", run(command, "--help").output.split("Options:")[1].split("\n\n")[0], flags=re.MULTILINE)[1:]
    return {each.split("  ")[0]: " ".join(each.split()) for each in told}


def test_help_tells_first_what_is_used_most_and_names_what_is_wanted() -> None:
    serve = options("serve")
    assert list(serve)[:3] == ["--demo", "--route NAME=URL", "--config FILE"]
    assert {"--host ADDRESS", "--viewer-host ADDRESS", "--archive FOLDER", "--default-route NAME"} <= set(serve)
    assert "made when it does not exist" in serve["--archive FOLDER"]
    for command in ("ls", "show", "tail", "verify", "view"):
        assert "Folder of the recordings. [" in options(command)["--archive FOLDER"]
    doctor = options("doctor")
    assert {"--json", "--port NUMBER", "--route NAME=URL", "--min-free SIZE"} <= set(doctor)
    assert not any("queue" in option or "part" in option or "timeout" in option for option in doctor)


def test_the_version_is_told() -> None:
    assert run("--version").output == f"verbatim {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--route", "x=ftp://h"], "--route: route 'x': upstream 'ftp://h' must begin with http:// or https://"),
        (["serve", "--port", "99999"], "--port must be from 0 to 65535"),
        (["serve", "--config", "none.toml"], "none.toml: there is no such file"),
        (["serve", "--config", "bad.toml"], "bad.toml, line 2: unknown setting 'prot'; did you mean 'port'?"),
        (["serve", "--host", "192.0.2.1", "--no-viewer"], "192.0.2.1 is no address of this machine; change --host"),
        (["serve", "--port", "0", "--viewer-host", "no.such.host.invalid"], "no.such.host.invalid is no address to listen on"),
        (["serve", "--port", "0", "--no-viewer", "--archive", "bad.toml"], "bad.toml"),
        (["serve", "--port", "0", "--no-viewer", "--archive", "bad.toml/x"], "cannot make the archive folder bad.toml/x"),
        (["view", "nowhere"], "there is no archive folder nowhere to show; name one with --archive"),
        (["ls"], "there is no archive folder data/archive to list"),
        (["tail"], "there is no archive folder data/archive to follow"),
        (["show", "0190"], "there is no archive folder data/archive to read"),
        (["verify"], "there is no archive folder data/archive to check"),
        (["verify", "nowhere"], "nowhere cannot be opened: No such file or directory"),
        (["bogus"], "No such command 'bogus'"),
        (["serve", "--bogus"], "No such option"),
        (["serve", "--keep-days", "-3"], "--keep-days must be 0 or more"),
        (["pack", "--older-than", "x"], "'x' is not a valid number."),
        (["demo", "--pace", "fast"], "'fast' is not a valid number."),
        (["ls", "-n", "1.5"], "'1.5' is not a valid whole number."),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "bad.toml").write_text("host = '127.0.0.1'\nprot = 1\n")
    done = verbatim(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert told in sentence
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("closed", ["kept", "."])
def test_a_folder_of_somebody_else_is_told_in_one_sentence(kept: Path, tmp_path: Path, closed: str) -> None:
    (tmp_path / closed).chmod(0)
    try:
        for arguments in (["ls"], ["search", "x"], ["show", "01934f7e"], ["tail"], ["index"], ["ls", "--json"]):
            done = verbatim(Path("/"), *arguments, "--archive", kept, rights=False, env={"XDG_CACHE_HOME": "/nowhere"})
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr.startswith(f"Error: {kept}")
            assert "ermission denied" in done.stderr
            assert done.stderr.count("\n") == 1
    finally:
        (tmp_path / closed).chmod(0o700)


@pytest.mark.parametrize("all_of_them", [True, False])
def test_hours_that_may_not_be_opened_are_told_of(tmp_path: Path, all_of_them: bool) -> None:
    shelf = Shelf(tmp_path / "kept")
    old, new = whole(HOUR, body=b"alpha"), whole(HOUR + 3600, body=b"alpha")
    shelf.put([old, new])
    first, second = sorted(shelf.folder.glob("*.gz"))
    closed = [first, second] if all_of_them else [first]
    for path in closed:
        path.chmod(0)
    told = "2 hours cannot be opened: permission denied" if all_of_them else "1 hour cannot be opened: permission denied"
    for arguments in (["ls"], ["ls", "--json"], ["search", "alpha"], ["index"], ["show", id_text(old.id)]):
        done = verbatim(tmp_path, *arguments, "--archive", shelf.folder, rights=False)
        assert told in done.stderr.replace("Hours", "hours"), arguments
        shown = id_text(new.id) in done.stdout or "up to date: 1 hour, 1 record," in done.stdout
        assert shown == (not all_of_them and arguments[0] != "show")
        assert done.returncode == (0 if shown else 2), done.stderr
    with running(tmp_path, "tail", "--archive", shelf.folder, rights=False) as follower:
        wait_for(lambda: told in follower.stderr)
        assert follower.end(signal.SIGINT) == 0


@pytest.mark.parametrize("all_of_them", [True, False])
def test_the_list_page_says_what_may_not_be_opened(tmp_path: Path, all_of_them: bool) -> None:
    shelf = Shelf(tmp_path / "kept")
    shelf.put([whole(HOUR), whole(HOUR + 3600)])
    for path in sorted(shelf.folder.glob("*.gz"))[: 2 if all_of_them else 1]:
        path.chmod(0)
    with running(tmp_path, "view", shelf.folder, "--viewer-port", "0", rights=False) as viewer:
        status, page = get(viewer.find(r"(http://127\.0\.0\.1:\d+/\?token=\S+)\n"))
    assert status == 200
    assert (b"2 hours cannot be opened: permission denied" in page) == (b"Nothing here can be read" in page) == all_of_them
    assert (b"1 hour cannot be opened: permission denied" in page) == (b'class="row"' in page) == (not all_of_them)


def test_where_only_the_demo_recorded_its_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "demo").mkdir(parents=True)
    done = verbatim(tmp_path, "ls")
    assert (done.returncode, "there is no archive folder data/archive" in done.stderr) == (2, True)
    assert "(the demo's is there: --archive data/demo)" in done.stderr
    assert "demo" not in verbatim(tmp_path, "ls", "--archive", "nowhere").stderr


@pytest.mark.parametrize("flag", ["--port", "--viewer-port"])
def test_a_taken_port_is_told_before_anything_is_started(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--viewer-port" if flag == "--port" else "--port"
        done = verbatim(tmp_path, "serve", flag, str(port), other, "0")
    assert done.returncode == 2
    variable = "VERBATIM_" + flag.removeprefix("--").upper().replace("-", "_")
    assert done.stderr == (
        f"Error: port {port} on 127.0.0.1 is already in use; choose another with {flag} or {variable}, or stop what listens there\n"
    )
    assert not (tmp_path / "data").exists()


def test_listening_beyond_this_machine_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance H105."""
    with serving.listen("127.0.0.1", 0, "port") as near, serving.listen("0.0.0.0", 0, "port") as far:
        serving._warn_of_exposure(near, None, guarded=False)
        assert capsys.readouterr().err == ""
        serving._warn_of_exposure(far, near, guarded=False)
        told = capsys.readouterr().err
        assert serving.base_url(far) == f"http://127.0.0.1:{far.getsockname()[1]}"
        for listeners, guarded in (((near, far), False), ((far, near), True)):
            serving._warn_of_exposure(*listeners, guarded=guarded)
            assert "with a token only" in capsys.readouterr().err
    assert told.count("\n") == 1
    assert "0.0.0.0" in told
    assert "set relay_token" in told


def test_the_greeting_tells_where_the_token_goes_and_not_the_token() -> None:
    given = load({}, {"VERBATIM_RELAY_TOKEN": "a-canary-of-16-letters"}, None)
    text = serving._greeting(given, "http://gateway", None, None, demo=False)
    assert "export OPENAI_BASE_URL=http://gateway/~~$VERBATIM_RELAY_TOKEN/openai/v1" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("called", "on_path", "typed"),
    [
        ("/usr/bin/verbatim", True, "verbatim"),
        (".venv/bin/verbatim", False, ".venv/bin/verbatim"),
        ("/a b/verbatim", False, "'/a b/verbatim'"),
        ("-c", False, "verbatim"),
    ],
)
def test_the_greeting_names_a_command_that_can_be_typed(called: str, on_path: bool, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(serving.shutil, "which", lambda name: called if on_path else None)
    assert serving._our_name() == typed


# serve


def test_serve_says_where_it_is_and_what_to_set(tmp_path: Path) -> None:
    with upstream() as server, running(tmp_path, "serve", "--port", "0", "--viewer-port", "0", "--route", f"local={server.url}") as gateway:
        url = gateway.find(r"gateway +(http://127\.0\.0\.1:\d+)\n")
        viewer = gateway.find(r"viewer +(http://127\.0\.0\.1:\d+/\?token=\S+)\n")
        assert gateway.find(r"archive +(\S+)\n") == str(tmp_path / "data" / "archive")
        assert gateway.find(f"(export OPENAI_BASE_URL={url}/openai/v1)\n")
        assert gateway.find(f"(export ANTHROPIC_BASE_URL={url}/anthropic)\n")
        assert gateway.find(f"(export GOOGLE_GEMINI_BASE_URL={url}/gemini)\n")
        assert gateway.find(f"({url}/local  ->  {server.url})\n")
        assert gateway.find(r"(verbatim ls)\n\nCtrl-C stops it\.\n")
        assert get(f"{url}/local/v1/models")[0] == 200
        assert get(viewer.partition("?")[0])[0] in (401, 403)
        wait_for(lambda: get(viewer)[0] == 200, lambda: gateway.stderr)
        assert json.loads(get(f"{url}/_verbatim/health")[1])["verbatim"] == __version__
        assert viewer.partition("token=")[2] not in gateway.stderr
        assert gateway.end() == 0
    kinds = [line["kind"] for line in archive_records(tmp_path / "data" / "archive")]
    assert kinds == ["open", "exchange", "close"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_writes_what_was_recorded(tmp_path: Path, number: signal.Signals) -> None:
    with upstream() as server:
        arguments = ["--port", "0", "--no-viewer", "--route", f"local={server.url}", "--log-level", "debug"]
        with running(tmp_path, "serve", *arguments) as gateway:
            url = gateway.find(r"gateway +(http://127\.0\.0\.1:\d+)\n")
            assert get(f"{url}/local/v1/models?key=cAnArY", authorization="Bearer cAnArY")[0] == 200
            assert gateway.end(number) == 0
    assert "cAnArY" not in gateway.stdout + gateway.stderr
    assert "Traceback" not in gateway.stderr
    lines = archive_records(tmp_path / "data" / "archive")
    assert [line["kind"] for line in lines] == ["open", "exchange", "close"]
    assert "cAnArY" not in json.dumps(lines)
    (said,) = [line for line in gateway.stderr.splitlines() if " access " in line]
    assert lines[1]["id"] in said
    assert "/local/v1/models?key=[redacted]" in said


IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs a command in a terminal of its own, with what it is given as what is typed there."""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_in_a_terminal_ends_all_of_it_in_silence(tmp_path: Path, workers: str) -> None:
    """The terminal sends the signal to every process of ours, not only to the first."""
    command = [sys.executable, "-I", "-c", IN_A_TERMINAL, *COMMAND, "serve", "--port", "0", "--viewer-port", "0", "--workers", workers]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), bufsize=0, **pipes) as terminal:
        keys, screen = terminal.stdin, terminal.stdout
        assert keys is not None
        assert screen is not None
        said = b""
        while b"Ctrl-C stops it" not in said:
            data = os.read(screen.fileno(), 65536)
            assert data, said
            said += data
        (gateway,) = children(terminal.pid)
        wait_for(lambda: children(gateway, "dashboard.server") != [] and len(children(gateway)) > 1)
        processes = [gateway, *children(gateway)]
        keys.write(b"\x03")
        said = screen.read()
        assert terminal.wait(20) == 0
    assert said.replace(b"^C", b"").strip() == b""
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
    kinds = [line["kind"] for line in archive_records(tmp_path / "data" / "archive")]
    assert sorted(kinds) == ["close"] * int(workers) + ["open"] * int(workers)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_is_closed_ends_all_of_it(tmp_path: Path, workers: str) -> None:
    """SIGHUP has its old meaning where one of the standard streams is a terminal."""
    command = [sys.executable, "-I", "-c", IN_A_TERMINAL, *COMMAND, "serve", "--port", "0", "--no-viewer", "--workers", workers]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), bufsize=0, **pipes) as terminal:
        screen = terminal.stdout
        assert screen is not None
        said = b""
        while b"Ctrl-C stops it" not in said:
            data = os.read(screen.fileno(), 65536)
            assert data, said
            said += data
        (gateway,) = children(terminal.pid)
        processes = [gateway, *children(gateway), *(one for child in children(gateway) for one in children(child))]
        terminal.kill()  # with it goes the terminal's other side, and the kernel sends the signal
        terminal.wait()
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
    kinds = [line["kind"] for line in archive_records(tmp_path / "data" / "archive")]
    assert sorted(kinds) == ["close"] * int(workers) + ["open"] * int(workers)


def test_a_viewer_that_dies_is_started_again(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", "0", "--viewer-port", "0") as gateway:
        viewer = gateway.find(r"viewer +(http://127\.0\.0\.1:\d+/\?token=\S+)\n")
        wait_for(lambda: get(viewer)[0] == 200, lambda: gateway.stderr)
        (pid,) = children(gateway.process.pid, "dashboard.server")
        token = viewer.partition("token=")[2].encode()
        assert token not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert token in Path(f"/proc/{pid}/environ").read_bytes()
        limits = Path(f"/proc/{gateway.process.pid}/limits").read_text()
        core = next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core"))
        assert core == ["1", "1"]  # one byte: none at all is ignored where dumps are piped
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: children(gateway.process.pid, "dashboard.server") not in ([], [pid]), lambda: gateway.stderr)
        wait_for(lambda: get(viewer)[0] == 200, lambda: gateway.stderr)
        (again,) = children(gateway.process.pid, "dashboard.server")
        assert gateway.end() == 0
        assert not Path(f"/proc/{again}").exists()
    assert "the viewer ended (signal 9) and is started again" in gateway.stderr


def test_a_killed_gateway_takes_its_viewer_along(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", "0", "--viewer-port", "0") as gateway:
        viewer = gateway.find(r"viewer +(http://127\.0\.0\.1:\d+/\?token=\S+)\n")
        wait_for(lambda: get(viewer)[0] == 200, lambda: gateway.stderr)
        (pid,) = children(gateway.process.pid, "dashboard.server")
        gateway.process.kill()
        gateway.process.wait()
        wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_recording_may_be_off(tmp_path: Path) -> None:
    arguments = ["serve", "--no-record", "--port", "0", "--no-viewer"]
    with upstream() as server, running(tmp_path, *arguments, "--route", f"local={server.url}") as gateway:
        url = gateway.find(r"gateway +(http://127\.0\.0\.1:\d+)\n")
        assert gateway.find(r"archive +(nothing is recorded)")
        assert get(f"{url}/local/v1/models")[0] == 200
        assert gateway.end() == 0
    assert not (tmp_path / "data").exists()


def test_the_demo_needs_no_key_and_fills_the_first_page(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--demo", "--port", "0", "--viewer-port", "0") as gateway:
        assert gateway.find(r"archive +(\S+)\n") == str(tmp_path / "data" / "demo")
        assert gateway.find(r"(the demo takes any key)")
        look = gateway.find(r"verbatim (ls --archive \S+)\n")
        wait_for(lambda: gateway.stderr.count(" access ") >= 10, lambda: gateway.stderr)
        assert gateway.end() == 0
    assert "Traceback" not in gateway.stderr
    listed = verbatim(tmp_path, *look.split(), "--json")
    assert {json.loads(line)["route"] for line in listed.stdout.splitlines()} == {"openai", "anthropic", "gemini"}


def test_the_demo_upstream_runs_alone(tmp_path: Path) -> None:
    with running(tmp_path, "demo", "--port", "0", "--pace", "0") as demo:
        url = demo.find(r"Demo upstream: (http://127\.0\.0\.1:\d+)\n")
        assert get(f"{url}/v1/models")[0] == 200
        assert demo.end() == 0


def test_the_viewer_runs_alone_on_any_folder(tmp_path: Path, kept: Path) -> None:
    with running(tmp_path, "view", kept, "--viewer-port", "0") as view:
        url = view.find(r"Verbatim viewer: (http://127\.0\.0\.1:\d+/\?token=\S+)\n")
        assert get(url)[0] == 200
        assert view.end() == 0


# ls, show, tail


def test_ls_lists_the_newest_last(kept: Path) -> None:
    lines = run("ls", "--archive", kept).output.splitlines()
    assert len(lines) == 3
    assert "404" in lines[1]
    assert lines[0].startswith("2026-05-28 20:26:41  ")
    assert lines[2].endswith("  openai  POST /openai/v1/x")
    rows = [json.loads(line) for line in run("ls", "--archive", kept, "--json", "-n", "2").output.splitlines()]
    assert [row["status"] for row in rows] == [404, 200]
    assert rows[0]["at"] == "2026-05-28T20:26:42Z"


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--status", "404"], 1),
        (["--status", "2xx"], 2),
        (["--route", "openai"], 3),
        (["--text", "zürich"], 3),
        (["--text", "absent"], 0),
        (["--session", "nightly"], 3),
        (["--session", "night"], 0),
        (["--user", "me", "--tag", "ci"], 3),
        (["--tag", "c"], 0),
    ],
)
def test_ls_can_be_narrowed(kept: Path, filters: list[str], count: int) -> None:
    result = CliRunner().invoke(cli, ["ls", "--archive", str(kept), "--json", *filters])
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, count)
    assert run("ls", "--archive", kept, "--status", "abc").exit_code == 2


def test_show_prints_an_exchange_for_people(kept: Path) -> None:
    row = json.loads(run("ls", "--archive", kept, "--json", "-n", "1").output)
    text = run("show", row["id"], "--archive", kept).output
    for part in (
        row["id"],
        "session   nightly  (x-verbatim-session)",
        "user      me  (x-verbatim-user)",
        "tags      ci",
        'metadata  {"try": 2}',
        "POST /openai/v1/x HTTP/1.1",
        "authorization: Bearer [redacted]",
        '  "question": "Zürich?"',
        "HTTP/1.1 200 OK",
    ):
        assert part in text
    (name,) = [path.name for path in kept.glob("*.gz")]
    assert f"lies in   {name}, " in text


def test_show_gives_the_line_of_the_archive(kept: Path) -> None:
    row = json.loads(run("ls", "--archive", kept, "--json", "-n", "1").output)
    shown = CliRunner().invoke(cli, ["show", row["id"], "--archive", str(kept), "--json"]).stdout_bytes
    (path,) = kept.glob("*.gz")
    assert shown in gzip.decompress(path.read_bytes())
    assert json.loads(shown)["id"] == row["id"]


@pytest.mark.parametrize("id", ["01900000-0000-7000-8000-000000000000", "xyz", "../../etc/passwd", "*"])
def test_an_exchange_that_is_not_there_is_told(kept: Path, id: str) -> None:
    result = run("show", id, "--archive", kept)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")


def test_what_models_wrote_cannot_drive_the_terminal(tmp_path: Path) -> None:
    hostile = record(1, body=b"\x1b]0;owned\x07\x1b[2Jplain\xe2\x80\xae\r\nsecond line", target=b"/openai/\x1b[31m")
    message = Message("upstream", 3.0, "text", b"\x1b[5mwarn\nforged")
    hostile.messages = [message, Message("client", 4.0, "binary", b"\xff\xfe")]
    write(tmp_path / "kept", [hostile])
    for result in (run("ls", "--archive", tmp_path / "kept"), run("show", id_text(hostile.id), "--archive", tmp_path / "kept")):
        assert result.exit_code == 0
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
        assert "\\x1b" in result.output
    assert "second line\n" in result.output
    assert "\\x1b[5mwarn\\nforged" in result.output
    assert "(2 bytes, no text)" in result.output


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "kept", [record(number) for number in range(2000)])
    command = [*COMMAND, "ls", "--archive", "kept", "-n", "100000"]
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(40)


def test_tail_follows_exchanges_as_they_end(tmp_path: Path, kept: Path) -> None:
    with running(tmp_path, "tail", "--archive", kept, "-n", "1") as tail:
        tail.find("(openai)")
        later = record(10, ended=False)
        writer = Writer(kept, version="test", min_free=0)
        writer.start()
        writer.put(record(11, target=b"/openai/v1/first"))
        writer.put(later)
        tail.find("(/openai/v1/first)")
        assert id_text(later.id) not in tail.stdout
        writer.put(Record(later.id, 1, later.at, later.client, later.upstream, end=End(EndReason.CLIENT_CLOSED)))
        tail.find(f"({id_text(later.id)}.*client_closed)")
        assert writer.close(20.0)
        assert tail.end(signal.SIGINT) == 0
    assert tail.stderr == ""
    assert len(tail.out) == 3


# verify


def test_verify_tells_whole_from_damaged_by_its_exit_code(tmp_path: Path, kept: Path) -> None:
    whole = run("verify", kept)
    assert (whole.exit_code, whole.output.splitlines()[0].partition(":")[0]) == (0, "complete")
    (path,) = kept.glob("*.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    damaged = run("verify", path)
    assert damaged.exit_code == 1
    assert f"damaged   {path}: " in damaged.output
    assert damaged.output.splitlines()[0].startswith("damaged: 1 place, the first in ")
    assert run("verify", tmp_path / "nowhere").exit_code == 2


def test_verify_reports_as_json(kept: Path) -> None:
    report = json.loads(run("verify", kept, "--json").output)
    assert (report["complete"], report["exchanges"], report["damaged"]) == (True, 3, [])


def test_only_the_time_of_an_exchange_decides_its_place(tmp_path: Path) -> None:
    write(tmp_path / "kept", [record(2), record(1)])
    rows = [json.loads(line)["at"] for line in run("ls", "--archive", tmp_path / "kept", "--json").output.splitlines()]
    assert rows == sorted(rows)


def test_the_greeting_says_which_routes_go_through_a_proxy() -> None:
    given = load({"routes": ("local=http://127.0.0.1:1",)}, {"HTTPS_PROXY": "http://me:canary@proxy:3128"}, None)
    text = serving._greeting(given, "http://gateway", None, None, demo=False)
    assert "  openai  through  http://[redacted]@proxy:3128 (HTTPS_PROXY)" in text
    assert "local  through" not in text
    assert "canary" not in text
    assert "proxy" not in serving._greeting(load({}, {}, None), "http://gateway", None, None, demo=False)
