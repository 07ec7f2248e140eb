"""One event is one line, no line holds a secret, and a reader that stops reading stops nobody."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from gateway import logs
from gateway.logs import AccessLog, Lines, one_line

ID = "0193f1a0-0000-7000-8000-000000000000"


class Pipe:
    """Both ends of a pipe; `lines()` closes the writing end and reads what was written."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def lines(self) -> list[str]:
        os.close(self.writing)
        self.writing = -1
        with os.fdopen(os.dup(self.reading), "rb") as file:
            return file.read().decode("utf-8").split("\n")[:-1]

    def close(self) -> None:
        for fd in (self.reading, self.writing):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def configured(pipe: Pipe) -> Iterator[Pipe]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("debug", pipe.writing)
    yield pipe
    logs.stop()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    for name in (*logs.QUIET, *logs.SILENT):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.disabled, logger.propagate = False, True


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[2J", "a\x00b", "a\x9bb", "a\u2028b", "a\u202eb", "a\ud800b", "tab\there"])
def test_control_characters_make_no_second_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert shown.isascii()
    assert "\\" in shown
    assert shown.encode("utf-8")


def test_ordinary_text_stays_as_it_is() -> None:
    assert one_line("grüße, 世界 🌍 /v1/x?a=b") == "grüße, 世界 🌍 /v1/x?a=b"


def test_an_exchange_is_one_line_with_its_id(pipe: Pipe) -> None:
    lines = Lines(pipe.writing)
    AccessLog(lines).line(ID, "127.0.0.1:5", "openai", "GET", "/v1/x\r\nforged\x1b[31m?key=[redacted]", 200, 12.34, 99, "complete")
    lines.close()
    (line,) = pipe.lines()
    assert line.endswith(f"{ID} 127.0.0.1:5 openai GET /v1/x\\r\\nforged\\x1b[31m?key=[redacted] 200 12.3ms 99B complete")


def test_an_exchange_without_an_answer_has_no_status(pipe: Pipe) -> None:
    lines = Lines(pipe.writing)
    AccessLog(lines).line(ID, "c", "r", "GET", "/", None, 1.0, 0, "client_closed")
    lines.close()
    assert " - 1.0ms 0B client_closed" in pipe.lines()[0]


def test_a_log_nobody_reads_drops_lines_and_counts_them(pipe: Pipe) -> None:
    lines = Lines(pipe.writing, most=100)
    log = AccessLog(lines)
    sent = 0
    while lines.dropped < 50:  # the pipe takes 64 KiB, then the thread blocks in its write, then the bound is reached
        log.line(ID, "c", "r", "GET", "/" + "x" * 1000, 200, 1.0, 1, "complete")
        sent += 1
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(pipe.reading, 1 << 20), b"")))
    reader.start()
    lines.close(30)
    os.close(pipe.writing)
    pipe.writing = -1
    reader.join(30)
    written = b"".join(got).decode().splitlines()
    told = [line for line in written if "dropped" in line]
    assert len(told) == 1
    assert f" {lines.dropped} log lines were dropped" in told[0]
    assert len(written) - 1 + lines.dropped == sent


def test_a_closed_output_is_survived(pipe: Pipe) -> None:
    lines = Lines(pipe.writing)
    os.close(pipe.reading)
    pipe.reading = -1
    AccessLog(lines).line(ID, "c", "r", "GET", "/", 200, 1.0, 1, "complete")
    lines.close(10)
    assert lines.dropped == 1


def test_other_libraries_say_nothing_about_urls(configured: Pipe) -> None:
    for name in ("uvicorn.access", "httpx", "httpcore.http11", "websockets.client", "hpack.hpack", "uvicorn.error"):
        logging.getLogger(name).info("GET /v1?key=CANARY")
        logging.getLogger(name).debug("> authorization: Bearer CANARY")
    logging.getLogger("uvicorn.access").error("GET /v1?key=CANARY")
    logging.getLogger("verbatim.test").debug("here")
    logs.stop()
    (line,) = configured.lines()
    assert line.endswith("DEBUG   here")


def test_a_traceback_is_one_line_without_secrets(configured: Pipe) -> None:
    def fail() -> None:
        raise ConnectionError("cannot reach https://user:CANARY1@host/x?api_key=CANARY2\nAuthorization: Bearer CANARY3CANARY3")

    try:
        fail()
    except ConnectionError:
        logging.getLogger("verbatim.test").exception("it\nbroke")
    logs.stop()
    (line,) = configured.lines()
    assert "it\\nbroke\\nTraceback" in line
    assert "ConnectionError" in line
    assert "CANARY" not in line


def test_a_bad_log_call_breaks_nothing(configured: Pipe) -> None:
    (handler,) = logging.getLogger().handlers[:1]
    handler.handle(logging.LogRecord("verbatim.test", logging.INFO, __file__, 1, "%d", ("no number",), None))
    logs.stop()
    (line,) = configured.lines()
    assert "could not be written" in line


def test_the_access_log_shares_the_configured_output(configured: Pipe) -> None:
    log = AccessLog()
    log.line(ID, "c", "r", "GET", "/", 200, 1.0, 1, "complete")
    log.close()
    logging.getLogger("verbatim.test").warning("after")
    logs.stop()
    first, second = configured.lines()
    assert first.endswith("complete")
    assert second.endswith("after")
    assert log.dropped == 0
