"""No credential enters a record: header values, query strings and URLs, however they are spelled; and nothing else is touched."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive.record import Redaction
from gateway import redaction, rules
from gateway.redaction import REDACTED, RULES_HASH, redact_headers, redact_target, redact_text, redact_url

CANARY = "cAnArY-5f3e9b71d2"
RAW = CANARY.encode()
FORMS = (RAW, base64.b64encode(RAW), quote(CANARY, safe="").encode(), RAW[3:], RAW[:-3])

HIDDEN_WHOLE = [
    "x-api-key", "api-key", "x-goog-api-key", "cookie", "set-cookie", "cf-access-client-secret", "cf-access-client-id",
    "cf-access-jwt-assertion", "x-portkey-api-key", "x-litellm-api-key", "xi-api-key", "ocp-apim-subscription-key", "x-functions-key",
    "x-amz-security-token", "x-auth-token", "x-foo-secret", "my-own-token", "chatgpt-account-id", "x-oai-attestation",
    "x-forwarded-access-token", "x-csrf-token", "private-token", "x-vault-token", "x-portkey-virtual-key", "apikey", "x-apikey", "token",
    "secret", "password", "x-user-password", "x-client-secret-v2", "x-api-key-2", "x-hub-signature", "x-goog-iap-jwt-assertion", "dpop",
    "x-amz-access-token", "openai-sentinel-chat-requirements-token", "x-encryption-key",
]  # fmt: skip
SCHEMED = ["authorization", "proxy-authorization", "x-forwarded-authorization", "cf-aig-authorization", "helicone-auth", "x-auth"]
READABLE = {
    "x-ratelimit-limit-tokens": "40000",
    "x-ratelimit-remaining-tokens": "39000",
    "x-ratelimit-reset-tokens": "6ms",
    "anthropic-ratelimit-input-tokens-remaining": "80000",
    "x-max-tokens": "12",
    "max_tokens": "12",
    "idempotency-key": "stainless-python-retry-8f14e45f-ceea-467f-9b3c",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    "surrogate-key": "models",
    "www-authenticate": 'Bearer realm="api", error="invalid_token"',
    "access-control-allow-credentials": "true",
    "access-control-allow-headers": "authorization, x-api-key",
    "openai-organization": "org-abc",
    "openai-processing-ms": "812",
    "request-id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    "x-request-id": "8f14e45fceea467f9b3c5f3e9b71d2aa",
    "retry-after": "7",
    "etag": '"33a64df551425fcc55e4d42a148795d9f25f89d4"',
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "anthropic-beta": "prompt-caching-2024-07-31,token-efficient-tools",
    "x-stainless-retry-count": "0",
    "user-agent": "OpenAI/Python 2.8.0",
    "x-custom": "a perfectly ordinary, longer value; with=pairs and https://example.org/path?page=2&limit=10",
}
KEYS = [
    "sk-proj-aBcDeFgHiJkLmNoPqRsT",
    "sk-ant-api03-aBcDeFgHiJkLmNoP",
    "sk-admin-aBcDeFgHiJkLmNoP",
    "ek_68af296e8e408191a1120ab6383263c2",
    "AIzaSyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsT",
    "gsk_aBcDeFgHiJkLmNoPqRsTuVwX",
    "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ",
    "xoxb-123456789012-aBcDeFgHiJkL",
    "AKIAIOSFODNN7EXAMPLE",
    "ya29.a0AfH6SMBaBcDeFgHiJk",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
]
QUERY_NAMES = [
    "key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token", "sig", "signature", "X-Amz-Signature",
    "X-Amz-Credential", "X-Amz-Security-Token", "client_secret", "code", "refresh_token", "id_token", "password", "passwd", "pwd",
    "secret", "auth", "authorization", "session_token", "subscription-key", "X-Goog-Signature", "X-Goog-Credential", "AWSAccessKeyId",
    "private_key", "assertion", "client_assertion", "code_verifier", "oauth_token", "jwt",
]  # fmt: skip


def cleaned(name: str, value: str) -> str:
    ((_, after),), _ = redact_headers([(name.encode(), value.encode())], "request.headers")
    return after.decode()


def target(text: str) -> str:
    return redact_target(text.encode(), "request.target")[0].decode()


def spellings(name: str) -> list[str]:
    encoded = "".join(f"%{ord(c):02x}" for c in name)
    return [
        name,
        name.upper(),
        name.title(),
        name.replace("_", "-"),
        name.replace("-", "_"),
        name.replace("_", "."),
        encoded,
        encoded.upper().replace("%", "%25"),
        name.replace("_", "%5F").replace("-", "%2d"),
        "%" + f"{ord(name[0]):02X}" + name[1:],
        "+" + name,
        f"%20{name}+",
        f"%u{ord(name[0]):04x}{name[1:]}",
        f"{name}[]",
        f"outer[{name}]",
    ]


@pytest.mark.parametrize("name", HIDDEN_WHOLE)
def test_a_credential_header_loses_its_value(name: str) -> None:
    after, removed = redact_headers([(name.encode(), RAW)], "request.headers")
    assert after == [(name.encode(), b"[redacted]")]
    assert removed == [Redaction(f"request.headers.{name}", "name", 1)]


@pytest.mark.parametrize("name", [*HIDDEN_WHOLE, *SCHEMED])
def test_odd_case_and_underscores_hide_no_credential(name: str) -> None:
    for odd in (name.upper(), name.title(), name.swapcase(), name.replace("-", "_"), name[0].upper() + name[1:]):
        assert CANARY not in cleaned(odd, CANARY)


def test_duplicate_headers_each_lose_their_value() -> None:
    headers = [(b"X-Api-Key", b"one" + RAW), (b"accept", b"a"), (b"x-api-key", b"two" + RAW), (b"accept", b"b"), (b"X-API-KEY", b"")]
    after, removed = redact_headers(headers, "request.headers")
    assert after == [
        (b"X-Api-Key", b"[redacted]"),
        (b"accept", b"a"),
        (b"x-api-key", b"[redacted]"),
        (b"accept", b"b"),
        (b"X-API-KEY", b""),
    ]
    assert removed == [Redaction("request.headers.x-api-key", "name", 2)]


@pytest.mark.parametrize("name", SCHEMED)
@pytest.mark.parametrize(
    ("value", "after"),
    [
        (f"Bearer {CANARY}", "Bearer [redacted]"),
        (f"Basic {base64.b64encode(RAW).decode()}", "Basic [redacted]"),
        (f"token {CANARY}", "token [redacted]"),
        (f"AWS4-HMAC-SHA256 Credential={CANARY}/20261120/us-east-1, Signature={CANARY}", "AWS4-HMAC-SHA256 [redacted]"),
        (f"bearer  {CANARY} {CANARY}", "bearer [redacted]"),
        (CANARY, "[redacted]"),
        (f"{CANARY} {CANARY}", "[redacted]"),
        (f"{CANARY}: Bearer", "[redacted]"),
        ("Bearer", "Bearer"),
        ("", ""),
    ],
)
def test_authorization_keeps_only_a_known_scheme_word(name: str, value: str, after: str) -> None:
    assert cleaned(name, value) == after


@pytest.mark.parametrize(("name", "value"), READABLE.items())
def test_headers_that_only_look_secret_stay_readable(name: str, value: str) -> None:
    field = (name.encode(), value.encode())
    assert redact_headers([field], "response.headers") == ([field], [])


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "{};v=1", "say {} twice", '"{}"', "<{}>", "a={}", "Incorrect API key provided: {}."])
def test_a_key_in_an_unknown_header_is_known_by_its_looks(key: str, around: str) -> None:
    assert key not in cleaned("x-something-new", around.format(key))
    assert key[8:] not in cleaned("x-something-new", around.format(key))


@pytest.mark.parametrize(
    "value",
    [
        f"api_key={CANARY}",
        f'{{"provider":"x","api_key":"{CANARY}"}}',
        f'{{"provider":"x","api_key": "{CANARY}',
        f'{{"client-secret" : "a\\"{CANARY}"}}',
        f"Bearer {CANARY}",
        f"session=1; token={CANARY}; path=/",
        f"%7B%22api_key%22%3A%22{CANARY}%22%7D",
        f"next=%2Fcb%3Fcode%3D{CANARY}",
        f'a=1, password="{CANARY} with spaces"',
    ],
)
def test_a_named_secret_in_an_unknown_header_is_removed(value: str) -> None:
    assert CANARY not in cleaned("x-config", value)


@pytest.mark.parametrize(
    "value",
    ["closed, code=1006", '{"code":"rate_limit_exceeded"}', "error code=7; pass=2", "the token counter", "some Basic information"],
)
def test_words_that_are_secret_only_in_a_query_stay_in_text(value: str) -> None:
    assert cleaned("x-something-new", value) == value


def test_a_code_in_a_forwarded_query_is_removed() -> None:
    assert cleaned("x-original-query", f"code={CANARY}&a=1") == "code=[redacted]&a=1"
    assert cleaned("x-original-url", f"/callback?state=1&code={CANARY}") == "/callback?state=1&code=[redacted]"


def test_a_key_used_as_a_header_name_is_removed() -> None:
    after, removed = redact_headers([(KEYS[0].encode(), b"v")], "request.headers")
    assert after == [(b"[redacted]", b"[redacted]")]
    assert KEYS[0] not in repr(removed)
    assert KEYS[0].encode() not in redaction._classified


@pytest.mark.parametrize(
    ("offered", "after"),
    [
        (
            f"realtime, openai-insecure-api-key.{CANARY}, openai-beta.realtime-v1",
            "realtime, openai-insecure-api-key.[redacted], openai-beta.realtime-v1",
        ),
        (f"token, {CANARY}", "token, [redacted]"),
        (f"Token,{CANARY},", "Token,[redacted],"),
        (f"OpenAI-Insecure-Api-Key.{CANARY}", "OpenAI-Insecure-Api-Key.[redacted]"),
        (f"base64url.bearer.authorization.k8s.io.{CANARY}, {CANARY}", "base64url.bearer.authorization.k8s.io.[redacted], [redacted]"),
        ("realtime", "realtime"),
    ],
)
def test_a_key_among_websocket_subprotocols_is_removed(offered: str, after: str) -> None:
    assert cleaned("Sec-WebSocket-Protocol", offered) == after


@pytest.mark.parametrize("name", QUERY_NAMES)
def test_a_key_in_the_query_is_removed_however_its_name_is_spelled(name: str) -> None:
    for spelled in spellings(name):
        for query in (f"?{spelled}={CANARY}", f"?a=1&{spelled}={CANARY}&b=2", f"?a=1;{spelled}={CANARY};b=2", f"?a?{spelled}={CANARY}"):
            after = target("/v1/x" + query)
            assert after == "/v1/x" + query.replace(CANARY, REDACTED)


def test_a_name_encoded_without_end_is_taken_for_a_secret() -> None:
    name = "h%61rmless"
    for _ in range(12):
        name = name.replace("%", "%25")
    assert target(f"/x?{name}={CANARY}&b=1") == "/x?[redacted]=[redacted]&b=1"
    assert CANARY not in target(f"/x?a={name}{CANARY}")


@pytest.mark.parametrize("name", QUERY_NAMES)
def test_a_key_hidden_in_an_encoded_pair_is_removed(name: str) -> None:
    for text in (
        f"/x?{name}%3D{CANARY}",
        f"/x?a=1%26{name}={CANARY}",
        f"/x?a=b%3F{name}%3D{CANARY}",
        f"/x?u=https%3A%2F%2Fh%2F%3F{name}%3D{CANARY}",
    ):
        assert CANARY not in target(text)


@pytest.mark.parametrize(
    "text",
    [
        "/v1/a%2Fb//c/../d%20e/%7Efoo;p=1/%E4",
        "/v1/x?q=a+b%20c&x=%2F&x=2&empty=&noval&z=%zz&w[]=1",
        "/v1/models/gemini:generateContent?alt=sse&pageToken=abc&max_tokens=5&maxTokens=6&idempotency_key=7",
        "/v1/x?",
        "/v1/x??&&;=",
        "*",
        "/",
        "",
        "/v1/x?key=&token&api_key",
        "/openai/deployments/a/chat/completions?api-version=2024-10-21",
        "/v1/x?q=%E4%B8%96%E7%95%8C&u=https%3A%2F%2Fexample.org%2F%3Fpage%3D2",
    ],
)
def test_every_other_byte_of_the_target_stays_as_it_was(text: str) -> None:
    assert redact_target(text.encode(), "request.target") == (text.encode(), [])


@given(st.lists(st.tuples(st.sampled_from(["q", "page", "model", "stop", "n", "user_id"]), st.text("abcXYZ019%2FEé+-._~ ", max_size=12))))
def test_ordinary_pairs_are_never_touched(pairs: list[tuple[str, str]]) -> None:
    raw = ("/v1/x?" + "&".join(f"{name}={value}" for name, value in pairs)).encode()
    assert redact_target(raw, "request.target") == (raw, [])


@given(st.binary(max_size=60), st.sampled_from([b"?", b"&", b";"]), st.sampled_from(QUERY_NAMES), st.binary(max_size=60))
def test_no_surroundings_protect_a_key(before: bytes, separator: bytes, name: str, after: bytes) -> None:
    clean, removed = redact_target(b"/x?" + before + separator + name.encode() + b"=" + RAW + b"&" + after, "request.target")
    assert RAW not in clean
    assert removed


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=80))))
def test_redacting_never_raises_and_keeps_every_field(headers: list[tuple[bytes, bytes]]) -> None:
    after, _ = redact_headers(headers, "x")
    assert len(after) == len(headers)
    again, _ = redact_headers(after, "x")
    assert [value for _, value in again] == [value for _, value in after]


@pytest.mark.parametrize("text", [f"/v1/x;api_key={CANARY}", f"/v1/x;a=1;token={CANARY}/y", f"/v1/x#access_token={CANARY}&a=1"])
def test_a_path_parameter_loses_its_secret(text: str) -> None:
    assert target(text) == text.replace(CANARY, REDACTED) or target(text) == text.replace(CANARY + "/y", REDACTED)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_the_path_is_known_by_its_looks(key: str) -> None:
    assert target(f"/v1/keys/{key}/usage") == "/v1/keys/[redacted]/usage"
    assert key[4:-4] not in target(f"/v1/keys/{key.replace('-', '%2D').replace('_', '%5F')}/usage")


@pytest.mark.parametrize(
    ("url", "after"),
    [
        (f"https://user:{CANARY}@host:8443/x", "https://[redacted]@host:8443/x"),
        (f"https://{CANARY}@host/x?y=1", "https://[redacted]@host/x?y=1"),
        (f"HTTPS://a:{CANARY}@b@host/", "HTTPS://[redacted]@host/"),
        (f"https://user:pa/{CANARY}@host/", "https://[redacted]@host/"),
        (f"https://host/x?key={CANARY}#y", "https://host/x?key=[redacted]#y"),
        (f"wss://host/x?model=m&api_key={CANARY}", "wss://host/x?model=m&api_key=[redacted]"),
        (f"socks5://u:{CANARY}@[::1]:1080", "socks5://[redacted]@[::1]:1080"),
        ("http://[::1]:8080/x?a=b", "http://[::1]:8080/x?a=b"),
        ("https://api.openai.com/@scope/pkg", "https://api.openai.com/@scope/pkg"),
    ],
)
def test_user_info_and_keys_in_a_url_are_removed(url: str, after: str) -> None:
    assert redact_url(url) == after


@pytest.mark.parametrize(
    "name",
    ["Referer", "Location", "Content-Location", "X-Original-URL", "X-Rewrite-Url", "X-Forwarded-Uri", "Refresh", "x-goog-upload-url"],
)
def test_a_url_in_a_header_loses_its_secrets(name: str) -> None:
    value = f"https://u:{CANARY}@host/v1/x?a=1&key={CANARY}&b=2#id_token={CANARY}"
    assert cleaned(name, value) == "https://[redacted]@host/v1/x?a=1&key=[redacted]&b=2#id_token=[redacted]"
    assert cleaned(name, f"/v1/x?a=1&k%65y={CANARY}") == "/v1/x?a=1&k%65y=[redacted]"


def test_a_link_header_keeps_its_form() -> None:
    value = f'<https://host/?page=2&key={CANARY}>; rel="next", <https://host/?page=9>; rel="last"'
    assert cleaned("Link", value) == value.replace(CANARY, REDACTED)


def test_a_removed_value_does_not_tell_its_length() -> None:
    for name in ("x-api-key", "authorization", "cookie", "sec-websocket-protocol", "x-unknown"):
        assert len({cleaned(name, "Bearer sk-" + "x" * length) for length in (20, 40, 4000)}) == 1
    assert len({target("/x?key=" + "x" * length) for length in (1, 40, 4000)}) == 1


def test_nothing_of_a_secret_is_left_in_any_form() -> None:
    headers = [(name.encode(), RAW) for name in HIDDEN_WHOLE]
    headers += [
        (b"Authorization", b"Basic " + base64.b64encode(b"user:" + RAW)),
        (b"Referer", b"https://h/?key=" + quote(CANARY, safe="").encode()),
    ]
    after, removed = redact_headers(headers, "request.headers")
    said = b"\n".join(value for _, value in after) + repr(removed).encode()
    assert not [form for form in FORMS if form in said]


PATHOLOGICAL = [
    "sk-" * 87_500,
    "sk-aaaaaaaaaa" * 20_000,
    "eyJ" * 87_500,
    "eyJaaaaaaaa." * 22_500,
    "a://" * 62_500,
    "http://a:b" * 25_000,
    "http://a:bcd/" * 20_000,
    "a@" * 125_000,
    '"a":"\\' * 42_500,
    '"a"' * 82_500,
    '"a"        ' * 22_500,
    "a=" * 125_000,
    "&" * 250_000,
    "key=" * 62_500,
    "%25" * 82_500,
    "%" * 250_000,
    "a%3D" * 62_500,
    "Bearer " * 35_000,
    "bearer\t" * 35_000,
    "[" * 250_000,
    "a" * 250_000,
    "=" * 250_000,
    "\\" * 250_000,
    "xoxb-1-" * 35_000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", PATHOLOGICAL, ids=lambda text: repr(text[:14]))
def test_hostile_input_takes_linear_time(text: str) -> None:
    """A quarter of a megabyte of each: what is quadratic in it takes many minutes, not the minute allowed."""
    for value in (text, text + "!", "?" + text + "\n@"):
        assert cleaned("x-unknown", value) is not None
        assert target("/x?" + value) is not None
        assert redact_url("http://" + value)
        assert redact_text(value)


class _Broken:
    """A pattern that fails, in the place of any rule."""

    def sub(self, *_: object) -> bytes:
        raise RuntimeError(CANARY)

    def search(self, *_: object) -> None:
        raise RuntimeError(CANARY)


def test_a_rule_that_fails_replaces_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    redact_headers([(b"x-unknown-1", b"v"), (b"host", b"h")], "x")
    monkeypatch.setattr(redaction, "_SHAPE", _Broken())
    after, removed = redact_headers([(b"x-unknown-1", b"some value"), (b"host", b"h")], "request.headers")
    assert after == [(b"x-unknown-1", b"[redacted]"), (b"host", b"h")]
    assert removed == [Redaction("request.headers.x-unknown-1", "failed-closed", 1)]
    assert redact_target(b"/v1/x?a=b", "request.target") == (b"[redacted]", [Redaction("request.target.all", "failed-closed", 1)])
    assert redact_url("https://h/x") == REDACTED
    assert redact_text("text") == REDACTED


def test_a_name_that_cannot_be_judged_hides_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_SHAPE", _Broken())
    after, removed = redact_headers([(b"x-never-seen-before", b"some value")], "request.headers")
    assert after == [(b"[redacted]", b"[redacted]")]
    assert removed[0].rule == "failed-closed"


def test_what_was_removed_is_told_by_place_and_rule() -> None:
    after, removed = redact_target(f"/v1/x?key={CANARY}&k%65y={CANARY}&sig={CANARY}&a={KEYS[0]}".encode(), "request.target")
    assert after == b"/v1/x?key=[redacted]&k%65y=[redacted]&sig=[redacted]&a=[redacted]"
    assert removed == [
        Redaction("request.target.key", "parameter", 2),
        Redaction("request.target.sig", "parameter", 1),
        Redaction("request.target.value", "key-shape", 1),
    ]


def test_changing_a_rule_changes_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch("[0-9a-f]{64}", RULES_HASH)
    assert redaction._rules_hash() == RULES_HASH
    for name, value in (("WEAK_SUFFIXES", ("token",)), ("RULES_VERSION", -1), ("PROTOCOLS", frozenset({b"x"})), ("HEADER_PREFIXES", ())):
        with monkeypatch.context() as changed:
            changed.setattr(rules, name, value)
            assert redaction._rules_hash() != RULES_HASH


def test_inventing_names_or_values_fills_no_memory() -> None:
    for _ in range(2):
        redact_headers([(b"x-name-%d" % number, b"v") for number in range(10_000)], "x")
    redact_headers([(b"x-name", b"%d" % number) for number in range(10_000)], "x")
    assert len(redaction._classified) <= redaction._CACHE_LIMIT
    assert 0 < len(redaction._looked_at) <= redaction._CACHE_LIMIT
    for _ in range(2):
        redact_headers([(b"x" * 1000, b"v"), (b"x-name", b"v" * 1000)], "x")
    assert max(map(len, redaction._classified)) <= redaction._CACHED_NAME_LIMIT
    assert max(len(part) for header in redaction._looked_at for part in header) <= redaction._CACHED_NAME_LIMIT


def test_a_value_in_which_something_is_found_is_looked_at_every_time() -> None:
    headers = [(b"x-plain", b"nothing here"), (b"x-other", KEYS[0].encode()), (b"x-again", b"Bearer [redacted]")]
    first = redact_headers(headers, "request.headers")
    for _ in range(3):
        assert redact_headers(headers, "request.headers") == first
    assert (b"x-plain", b"nothing here") in redaction._looked_at
    assert {name for name, _ in redaction._looked_at}.isdisjoint({b"x-other", b"x-again"})
    assert [one.where for one in first[1]] == ["request.headers.x-other", "request.headers.x-again"]
