"""`verbatim run`: the command is recorded, and cannot tell otherwise. Real processes, real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commandline import COMMAND, children, clean_environment, running, upstream, verbatim, wait_for
from readback import archive_records

from gateway.child import environment, gateway_version, new_session
from gateway.routes import valid_session

ASK = """
import os, urllib.request as r
r.urlopen(r.Request(os.environ["OPENAI_BASE_URL"] + "/models?x=1", headers={"authorization": "Bearer sk-x"})).read()
"""


def test_the_environment_leads_sdks_to_the_gateway() -> None:
    outer = {
        "PATH": "/bin",
        "OPENAI_BASE_URL": "https://elsewhere",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Team: red\nX-Verbatim-Session: old",
        "NO_PROXY": "corp.example",
    }
    inner = environment("http://127.0.0.1:8787", "s1", outer)
    assert inner["OPENAI_BASE_URL"] == inner["OPENAI_API_BASE"] == "http://127.0.0.1:8787/~s1/openai/v1"
    assert inner["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8787/~s1/anthropic"
    assert inner["GOOGLE_GEMINI_BASE_URL"] == "http://127.0.0.1:8787/~s1/gemini"
    assert inner["OPENAI_CUSTOM_HEADERS"] == "x-verbatim-session: s1"
    assert inner["ANTHROPIC_CUSTOM_HEADERS"] == "X-Team: red\nx-verbatim-session: s1"
    assert inner["NO_PROXY"] == "corp.example,127.0.0.1"
    assert inner["no_proxy"] == "127.0.0.1"
    assert (inner["VERBATIM_SESSION"], inner["VERBATIM_GATEWAY"]) == ("s1", "http://127.0.0.1:8787")
    assert inner["PATH"] == "/bin"
    assert "VERBATIM_SESSION" not in outer


def test_the_gateway_s_token_goes_into_the_path_alone() -> None:
    """Acceptance H105."""
    inner = environment("http://127.0.0.1:8787", "s1", {}, token="a-token-of-16-letters")
    assert inner["OPENAI_BASE_URL"] == "http://127.0.0.1:8787/~~a-token-of-16-letters/~s1/openai/v1"
    assert inner["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8787/~~a-token-of-16-letters/~s1/anthropic"
    assert inner["VERBATIM_GATEWAY"] == "http://127.0.0.1:8787"  # a command in a command adds it again


def test_a_session_name_is_new_each_time() -> None:
    names = {new_session(1_780_000_000.0) for _ in range(100)}
    assert len(names) == 100
    assert all(map(valid_session, names))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[", b"SSH-2.0-x\r\n"]
)
def test_what_is_no_gateway_is_not_taken_for_one(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert gateway_version(url) is None
        thread.join()
    assert gateway_version(url) is None


def test_a_command_is_recorded_with_no_other_change(tmp_path: Path) -> None:
    with upstream() as server:
        arguments = ["--archive", tmp_path / "kept", "--route", f"openai={server.url}", "--port", "1", "--session", "nightly"]
        done = verbatim(tmp_path, "run", *arguments, "--", sys.executable, "-c", ASK + "print('its own output'); raise SystemExit(3)")
    assert done.returncode == 3, done.stderr
    assert done.stdout == "its own output\n"
    assert "no gateway answers at http://127.0.0.1:1; recording through one of our own into" in done.stderr
    assert [path for path, _ in server.asked] == ["/v1/models?x=1"]
    (line,) = [line for line in archive_records(tmp_path / "kept") if line["kind"] == "exchange"]
    assert line["client"]["session"] == "nightly"
    assert line["response"]["status"] == 200
    assert json.dumps(line).count("sk-x") == 0


def test_a_gateway_that_runs_is_used(tmp_path: Path) -> None:
    with upstream() as server:
        arguments = ["--port", "0", "--no-viewer", "--archive", tmp_path / "kept", "--route", f"openai={server.url}"]
        with running(tmp_path, "serve", *arguments) as gateway:
            port = gateway.find(r"gateway +http://127\.0\.0\.1:(\d+)")
            done = verbatim(tmp_path, "run", "--port", port, sys.executable, "-c", ASK)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            again = verbatim(tmp_path, "run", sys.executable, "-c", ASK, env={"VERBATIM_GATEWAY": f"http://127.0.0.1:{port}"})
            assert (again.returncode, again.stderr) == (0, "")
        assert len(server.asked) == 2
    sessions = {line["client"]["session"] for line in archive_records(tmp_path / "kept") if line["kind"] == "exchange"}
    assert len(sessions) == 2
    assert all(name.startswith("run-") for name in sessions)


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
        (["no-such-command"], 127, "there is no command 'no-such-command'"),
        (["/"], 126, "'/' cannot be run: "),
    ],
)
def test_the_exit_code_of_the_command_is_handed_on(tmp_path: Path, command: list[str], code: int, told: str) -> None:
    done = verbatim(tmp_path, "run", "--port", "1", "--", *command)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(tmp_path: Path, number: signal.Signals) -> None:
    code = f"import signal, sys, time\nsignal.signal({int(number)}, lambda *_: sys.exit(9))\nprint('ready', flush=True)\ntime.sleep(600)"
    with running(tmp_path, "run", "--port", "1", "--", sys.executable, "-c", code) as command:
        command.find("(ready)")
        assert command.end(number) == 9


def test_a_gateway_that_cannot_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = verbatim(tmp_path, "run", "--port", "1", "--archive", tmp_path / "file" / "x", "--", "true")
    assert done.returncode == 2
    assert "cannot make the archive folder" in done.stderr
    assert done.stderr.rstrip().endswith("Error: the gateway did not start (exit code 2)")


def test_a_gateway_of_our_own_ends_with_us(tmp_path: Path) -> None:
    with running(tmp_path, "run", "--port", "1", "--", "sh", "-c", "echo ready; exec sleep 600") as command:
        command.find("(ready)")
        ours = children(command.process.pid)
        assert len(ours) == 2
        command.process.kill()
        (sleeping,) = [pid for pid in ours if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"]
        os.kill(sleeping, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours))
    assert [line["kind"] for line in archive_records(tmp_path / "data/archive")] == ["open", "close"]


def test_a_bad_session_name_is_told(tmp_path: Path) -> None:
    done = verbatim(tmp_path, "run", "--session", "a b", "--", "true")
    assert done.returncode == 2
    assert "a session's name is" in done.stderr


def test_a_key_pressed_at_the_terminal_reaches_the_command_once(tmp_path: Path) -> None:
    code = (
        "import signal, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1)\n"  # interrupted or not: sleeps on after the handler, so a second signal would be seen
        "print('seen', len(seen), flush=True)"
    )
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [*COMMAND, "run", "--port", "1", "--", sys.executable, "-c", code],
            cwd=tmp_path,
            env=clean_environment(),
            preexec_fn=lambda: os.login_tty(theirs),
        ) as process:
            said = b""
            while b"ready" not in said:
                said += os.read(ours, 1000)
            os.write(ours, b"\x03")
            while b"seen" not in said.partition(b"ready")[2] or not said.endswith(b"\n"):
                said += os.read(ours, 1000)
            assert process.wait(40) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"seen 1\r\n" in said
