"""Who may use the relay: the token, and what browsers say of pages."""

from __future__ import annotations

import pytest

from gateway.guard import Guard, without_token
from gateway.wire import Head, Limits, request_reader

TOKEN = "a-token-of-some-length"
RAW = TOKEN.encode()


def head(*fields: tuple[bytes, bytes], target: bytes = b"/openai/v1/models", host: bytes = b"127.0.0.1:8787") -> Head:
    raw = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    (made, _) = request_reader(Limits()).receive(b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + raw + b"\r\n")
    assert isinstance(made, Head)
    return made


def refused(guard: Guard, asked: Head) -> str | None:
    """The code of the refusal, None for none; what is not looked at is not refused."""
    looked = asked.browser or guard.asks
    failure = guard.refusal(asked)
    assert looked or failure is None
    return failure.code if failure is not None else None


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"http://evil.example:8787",
        b"HTTPS://EVIL.example",
        b"http://localhost.evil.example",
        b"http://127.0.0.1.evil.example",
        b"http://evil.example#localhost",
        b"https://192.0.2.1",
        b"http://[2001:db8::1]:80",
        b"null",
        b"http://",
        b"https://a.example https://localhost",
        b"localhost",
    ],
)
def test_a_web_page_s_request_is_refused(origin: bytes) -> None:
    """Acceptance H106."""
    assert refused(Guard(), head((b"Origin", origin))) == "origin_refused"
    assert refused(Guard(), head((b"oRiGiN", b" " + origin), (b"Sec-Fetch-Site", b"cross-site"))) == "origin_refused"
    assert refused(Guard(origins="*"), head((b"Origin", origin))) is None


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost:3000",
        b"https://localhost",
        b"http://127.0.0.1:5173",
        b"http://127.8.8.8",
        b"http://[::1]:8080",
        b"http://0.0.0.0:3000",
        b"https://tauri.localhost",
        b"vscode-file://vscode-app",
        b"vscode-webview://1a2b3c",
        b"app://obsidian.md",
        b"capacitor://localhost",
        b"tauri://localhost",
        b"file://",
        b"chrome-extension://abcdefghijklmnop",
        b"moz-extension://12345678-1234",
        b"",
    ],
)
def test_a_program_s_own_origin_passes(origin: bytes) -> None:
    """Acceptance H106: editors, desktop programs, extensions, and pages of this machine."""
    assert refused(Guard(), head((b"Origin", origin))) is None
    assert refused(Guard(), head((b"Origin", origin), (b"Sec-Fetch-Site", b"cross-site"))) == ("origin_refused" if not origin else None)


def test_a_page_that_is_not_named_is_refused_by_what_the_browser_says_of_it() -> None:
    """Acceptance H106: images, scripts and links come without Origin."""
    assert refused(Guard(), head((b"Sec-Fetch-Site", b"cross-site"))) == "origin_refused"
    for site in (b"same-origin", b"same-site", b"none"):
        assert refused(Guard(), head((b"Sec-Fetch-Site", site))) is None


def test_two_origins_are_no_one_s() -> None:
    fields = ((b"Origin", b"http://localhost"), (b"Origin", b"https://evil.example"))
    assert refused(Guard(), head(*fields)) == "origin_refused"
    assert refused(Guard(), head(*fields[:1], *fields[:1])) is None


@pytest.mark.parametrize("name", [b"Authorization", b"x-api-key", b"Api-Key", b"X-Goog-Api-Key"])
def test_who_sends_a_key_is_no_page_or_was_let_in_before(name: bytes) -> None:
    """Acceptance H106: a browser asks before it sends such a header to another origin, and the question is refused."""
    page = (b"Origin", b"https://chat.example")
    assert refused(Guard(), head(page, (name, b"k"))) is None
    assert refused(Guard(), head(page, (b"Access-Control-Request-Headers", name))) == "origin_refused"


def test_a_name_that_was_rebound_to_this_machine_is_refused() -> None:
    """Acceptance H106: DNS rebinding. The page asks its own origin, so the browser lets it send what it likes."""
    asked = head((b"Origin", b"http://evil.example:8787"), (b"Authorization", b"Bearer anything"), host=b"Evil.example:8787")
    assert refused(Guard(), asked) == "origin_refused"
    assert refused(Guard(origins="http://evil.example:8787"), asked) is None


def test_named_origins_pass_and_no_others() -> None:
    guard = Guard(origins="https://Chat.example, http://intern:3000,null")
    for origin in (b"https://chat.example", b"http://intern:3000", b"null"):
        assert refused(guard, head((b"Origin", origin))) is None
    for origin in (b"http://chat.example", b"https://chat.example:444", b"https://x.chat.example", b"http://intern"):
        assert refused(guard, head((b"Origin", origin))) == "origin_refused"


def test_without_a_token_programs_are_not_even_looked_at() -> None:
    assert not head((b"User-Agent", b"OpenAI/Python"), (b"Authorization", b"Bearer k")).browser
    assert not Guard().asks
    assert Guard(TOKEN).asks


def test_the_token_is_taken_from_the_header() -> None:
    """Acceptance H105."""
    guard = Guard(TOKEN)
    asked = head((b"X-Verbatim-Token", b" " + RAW))
    assert refused(guard, asked) is None
    assert asked.headers[1] == (b"X-Verbatim-Token", b"[redacted]")
    assert refused(guard, head()) == "token_missing"
    for wrong in (b"", RAW[:-1], RAW + b"x", RAW.upper()):
        wrongly = head((b"x-verbatim-token", wrong))
        assert refused(guard, wrongly) == "token_wrong"
        assert RAW not in wrongly.headers[1][1]


@pytest.mark.parametrize(
    ("target", "bare"),
    [
        (b"/~~TOKEN/openai/v1/models?x=/~~y", b"/openai/v1/models?x=/~~y"),
        (b"/~~TOKEN/~session/openai/v1", b"/~session/openai/v1"),
        (b"/~~TOKEN", b"/"),
        (b"/~~TOKEN?x=1/2", b"/?x=1/2"),
        (b"/~~TOKEN//double", b"//double"),
        (b"http://host:1/~~TOKEN/openai", b"http://host:1/openai"),
    ],
)
def test_the_token_is_taken_from_the_path(target: bytes, bare: bytes) -> None:
    """Acceptance H105."""
    guard = Guard(TOKEN)
    target = target.replace(b"TOKEN", RAW)
    asked = head(target=target)
    assert refused(guard, asked) is None
    assert asked.target == bare
    assert without_token(target) == (bare, RAW)
    wrongly = head(target=target.replace(RAW, RAW[::-1]))
    assert refused(guard, wrongly) == "token_wrong"


@pytest.mark.parametrize("target", [b"/openai/~~TOKEN/x", b"/openai?token=TOKEN", b"/~TOKEN/openai", b"/%7E%7ETOKEN/x"])
def test_elsewhere_a_token_counts_for_nothing(target: bytes) -> None:
    assert refused(Guard(TOKEN), head(target=target.replace(b"TOKEN", RAW))) == "token_missing"


def test_wherever_else_the_token_stands_it_goes_no_further() -> None:
    """Acceptance H105: the page of an upstream's that was opened through `/~~TOKEN/` names that path in the Referer of what it loads."""
    page = (b"Referer", b"http://127.0.0.1:8787/~~" + RAW + b"/vllm/docs")
    asked = head(page, (b"X-Dup", b"1"), (b"x-dup", b"2"), target=b"/~~" + RAW + b"/vllm/openapi.json?from=" + RAW)
    assert refused(Guard(TOKEN), asked) is None
    assert asked.target == b"/vllm/openapi.json?from=[redacted]"
    assert RAW not in asked.fields
    assert asked.headers[1:] == [(b"Referer", b"http://127.0.0.1:8787/~~[redacted]/vllm/docs"), (b"X-Dup", b"1"), (b"x-dup", b"2")]


def test_only_the_health_page_needs_no_token() -> None:
    guard = Guard(TOKEN)
    assert refused(guard, head(target=b"/_verbatim/health?x")) is None
    for target in (b"/", b"/_verbatim/healthy", b"/_verbatim/health/../../openai", b"//_verbatim/health"):
        assert refused(guard, head(target=target)) == "token_missing"
