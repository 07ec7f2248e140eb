"""`verbatim run`: a command whose LLM calls are recorded with no other change: sets its environment, forwards signals, passes on its exit.

Where no gateway answers it lends one of its own for the duration: `verbatim serve` in a child process, on a free port.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

from gateway.front import Front
from gateway.serving import base_url, base_with_token, environment_lines, listen
from gateway.supervisor import python_command

__all__ = ["GatewayFailed", "environment", "gateway_version", "new_session", "own_gateway", "run", "viewer_answers"]

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
SIGNALLED: Final = 128
"""Exit codes as POSIX shells give them (XCU 2.8.2): no such command, not executable, 128 + the signal that ended it."""

START_TIMEOUT: Final = 30.0
"""Seconds a gateway of our own may take to answer."""
DRAIN_TIMEOUT: Final = 30.0
"""Seconds it may take to write what it recorded, beyond its own grace."""


class GatewayFailed(Exception):  # noqa: N818 - says what is the matter
    """The gateway of our own did not start; it said why on stderr. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the gateway did not start (exit code {code})")
        self.code = code


def new_session(now: float) -> str:
    """A name for one run: when it began, and enough chance for two at once."""
    return time.strftime("run-%Y%m%dT%H%M%SZ-", time.gmtime(now)) + secrets.token_hex(3)


def environment(
    gateway: str, session: str, outer: Mapping[str, str], trust: Mapping[str, str] | None = None, *, token: str | None = None
) -> dict[str, str]:
    """`outer` and what makes SDKs speak through `gateway` in the name of `session`.

    The session is in the path, which every client keeps; where an SDK takes headers from the environment (openai, anthropic and the
    programs on them), also in a header. Proxies are told to leave the gateway alone. `trust`: see `gateway.front.trust_variables`.
    `token`: the gateway's `relay_token`; it goes into the path, too.
    """
    inner = {**outer, **(trust or {})}
    for line in environment_lines(f"{base_with_token(gateway, token)}/~{session}"):
        variable, _, value = line.partition("=")
        inner[variable] = value
    inner["OPENAI_API_BASE"] = inner["OPENAI_BASE_URL"]  # openai before 1.0, LiteLLM, LangChain
    for variable in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):  # "Name: value" lines
        lines = [line for line in outer.get(variable, "").split("\n") if line and not line.lower().startswith("x-verbatim-session")]
        inner[variable] = "\n".join([*lines, f"x-verbatim-session: {session}"])
    host = urlsplit(gateway).hostname or ""
    for variable in ("NO_PROXY", "no_proxy"):
        inner[variable] = ",".join(filter(None, [outer.get(variable, ""), host]))
    inner["VERBATIM_SESSION"] = session
    inner["VERBATIM_GATEWAY"] = gateway
    return inner


def gateway_version(url: str, timeout: float = 2.0) -> str | None:
    """The version of the gateway at `url`, None when none answers there within `timeout` seconds. Blocks."""
    try:
        answer = json.loads(_get(url, "/_verbatim/health", timeout))
    except ValueError:
        return None
    version = answer.get("verbatim") if isinstance(answer, dict) else None
    return version if isinstance(version, str) else None


def viewer_answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a viewer answers at `url` within `timeout` seconds: it asks for its token, and says whose it is. Blocks."""
    return b"Verbatim" in _get(url, "/", timeout) and gateway_version(url, timeout) is None


def _get(url: str, path: str, timeout: float) -> bytes:
    """The beginning of the body at `path`, whatever its status; empty when nobody answers in HTTP."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    if parts.scheme == "https":  # only asked whether it is there; whoever is sent there checks the certificate
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, timeout=timeout, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(1 << 16)
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


@contextlib.contextmanager
def own_gateway(arguments: Sequence[str], front: Front | None = None) -> Iterator[str]:
    """A gateway of our own while the block lasts; gives its URL. At the end it drains. Raises GatewayFailed when it does not start.

    `front`: what its settings will make it serve with.

    It ends with us even if we are killed: it holds the reading end of a pipe whose other end is ours.
    """
    with listen("127.0.0.1", 0, "port") as listener:
        url = base_url(listener, front)
        theirs, ours = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                python_command("gateway.cli", "serve", "--fd", str(listener.fileno()), "--lifeline", str(theirs), "--quiet", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # the command's own output stays its own
                pass_fds=[listener.fileno(), theirs],
                start_new_session=True,
            )
        finally:
            os.close(theirs)
    try:
        _wait_for(process, url)
        yield url
    finally:
        os.close(ours)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DRAIN_TIMEOUT)
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while gateway_version(url) is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise GatewayFailed(process.wait(0.05))
        if time.monotonic() >= deadline:
            raise GatewayFailed(-1)


def run(command: Sequence[str], inner: Mapping[str, str]) -> int:
    """Run `command` with the environment `inner` and our standard streams, forward signals, and return the exit code a shell would.

    Blocks until it ends; for a process's main thread. Raises nothing: a command that cannot be run is 126 or 127, and said on stderr.
    """
    child: subprocess.Popen[bytes] | None = None
    waiting: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            waiting.append(number)
        elif not (number in (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH) and _in_foreground()):
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        child = subprocess.Popen(list(command), env=dict(inner))  # noqa: S603 - what the user asked for
        for number in waiting:
            child.send_signal(number)
        code = child.wait()
    except FileNotFoundError:
        sys.stderr.write(f"verbatim: there is no command {command[0]!r}\n")
        return NOT_FOUND
    except OSError as error:
        sys.stderr.write(f"verbatim: {command[0]!r} cannot be run: {error.strerror}\n")
        return NOT_EXECUTABLE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return SIGNALLED - code if code < 0 else code


def _in_foreground() -> bool:
    """Whether a terminal sends its keys' signals to our whole process group, the child included: it must not get them twice."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
