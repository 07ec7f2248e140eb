"""Outbound proxies, without a socket: which one the environment means, and what is said to one."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxies import ProxyRefusedError, Talk, environment_proxy, is_loopback, talk
from gateway.routes import Route, SettingsError, proxy_named

PROXY = "http://me:canary@proxy.example:3128"


@pytest.mark.parametrize(
    ("env", "scheme", "found"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, "https", ("http://p:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "http://p:1"}, "http", None),
        ({"HTTP_PROXY": "http://p:1"}, "http", ("http://p:1", "HTTP_PROXY")),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http", None),
        ({"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"}, "http", ("http://p:1", "http_proxy")),
        ({"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://UPPER:1"}, "https", ("http://lower:1", "https_proxy")),
        ({"ALL_PROXY": "socks5h://p:1080"}, "https", ("socks5h://p:1080", "ALL_PROXY")),
        ({"ALL_PROXY": "socks5h://p:1080", "HTTPS_PROXY": "http://p:1"}, "https", ("http://p:1", "HTTPS_PROXY")),
        ({"https_proxy": "p:3128"}, "https", ("http://p:3128", "https_proxy")),
        ({"https_proxy": "", "HTTPS_PROXY": " "}, "https", None),
        ({}, "https", None),
    ],
)
def test_the_environment_names_a_proxy_as_curl_reads_it(env: dict[str, str], scheme: str, found: tuple[str, str] | None) -> None:
    assert environment_proxy(env, scheme, "api.example", 443) == found


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("*", "api.example", True),
        ("api.example", "api.example", True),
        ("API.Example", "api.example", True),
        ("example", "api.example", True),
        (".example", "api.example", True),
        ("*.example", "api.example", True),
        ("example.", "api.example.", True),
        ("ample", "api.example", False),
        ("other.example, api.example", "api.example", True),
        ("other.example api.example", "api.example", True),
        ("api.example:443", "api.example", True),
        ("api.example:444", "api.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("1.2.3", "10.1.2.3", False),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]:443", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("fd00::/8", "10.1.2.3", False),
        ("10.0.0.0/99,nonsense/8", "10.1.2.3", False),
        ("", "api.example", False),
        (",", "api.example", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_no_proxy_lists_names_suffixes_ports_and_networks(variable: str, no_proxy: str, host: str, direct: bool) -> None:
    found = environment_proxy({"ALL_PROXY": "http://p:1", variable: no_proxy}, "https", host, 443)
    assert (found is None) is direct


@given(st.text(max_size=40), st.sampled_from(["api.example", "10.1.2.3", "fd00::1"]))
def test_whatever_no_proxy_holds_is_read(no_proxy: str, host: str) -> None:
    environment_proxy({"ALL_PROXY": "http://p:1", "NO_PROXY": no_proxy}, "https", host, 443)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_an_upstream_on_this_machine_takes_no_proxy_of_the_environment(host: str) -> None:
    assert is_loopback(host)
    assert environment_proxy({"ALL_PROXY": "http://p:1"}, "http", host, 80) is None
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("localhost.example")


def test_a_route_takes_the_environment_s_proxy_unless_it_says_otherwise() -> None:
    env = {"HTTPS_PROXY": PROXY, "NO_PROXY": "intern.example"}
    followed = Route.parse("x", "https://api.example", environment=env)
    assert (followed.proxy, followed.proxy_from) == (PROXY, "HTTPS_PROXY")
    assert not followed.second_path
    assert proxy_named(followed) == "http://[redacted]@proxy.example:3128 (HTTPS_PROXY)"
    assert Route.parse("x", "https://api.example", environment=env, proxy="none").proxy is None
    own = Route.parse("x", "https://api.example", environment=env, proxy="socks5h://own:1080")
    assert (own.proxy, own.proxy_from) == ("socks5h://own:1080", "")
    assert proxy_named(own) == "socks5h://own:1080"
    assert Route.parse("x", "https://a.intern.example", environment=env).proxy is None
    assert Route.parse("x", "http://api.example", environment=env).proxy is None
    assert Route.parse("x", "https://api.example").proxy is None
    assert "canary" not in repr(followed)


def test_an_unusable_proxy_in_the_environment_is_one_sentence_without_its_password() -> None:
    with pytest.raises(SettingsError, match=r"route 'x': HTTPS_PROXY in the environment must be a URL .* or set proxy = .none") as error:
        Route.parse("x", "https://api.example", environment={"HTTPS_PROXY": "gopher://me:canary@h"})
    assert "canary" not in str(error.value)


def test_only_plain_upstreams_behind_an_http_proxy_leave_the_wire() -> None:
    assert Route.parse("x", "http://h", proxy="http://p:1").second_path
    assert Route.parse("x", "http://h", proxy="https://p:1").second_path
    assert not Route.parse("x", "http://h", proxy="socks5://p:1").second_path
    assert not Route.parse("x", "https://h", proxy="http://p:1").second_path
    assert Route.parse("x", "https://h", proxy="http://p:1", http2=True).second_path


# What is said to one


def carry(words: Talk, answers: Iterable[bytes]) -> list[bytes]:
    """Carry on the talk with these answers; what was said. Its end must come with the last of them."""
    said = [next(words)]
    pieces = list(answers)
    for number, piece in enumerate(pieces):
        try:
            said.append(words.send(piece))
        except StopIteration:
            assert number == len(pieces) - 1
            return said
    raise AssertionError("it did not end")


OPEN = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


def test_a_socks_proxy_is_asked_by_name_and_with_the_password() -> None:
    said = carry(talk("socks5://me:can%3Aary@p", "api.example", 443), [b"\x05\x02", b"\x01\x00", OPEN])
    assert said == [b"\x05\x02\x00\x02", b"\x01\x02me\x07can:ary", b"\x05\x01\x00\x03\x0bapi.example\x01\xbb"]


@pytest.mark.parametrize(
    ("host", "where"), [("10.0.0.1", b"\x01\x0a\x00\x00\x01"), ("::1", b"\x04" + bytes(15) + b"\x01"), ("h", b"\x03\x01h")]
)
@pytest.mark.parametrize("bound", [b"\x01" + bytes(6), b"\x04" + bytes(18), b"\x03\x05proxy\x00\x00"])
def test_a_socks_proxy_may_answer_in_any_pieces(host: str, where: bytes, bound: bytes) -> None:
    answer = b"\x05\x00" + b"\x05\x00\x00" + bound
    said = carry(talk("socks5://p", host, 80), [bytes((byte,)) for byte in answer])
    assert b"".join(said) == b"\x05\x01\x00" + b"\x05\x01\x00" + where + b"\x00\x50"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([b"\x05\xff"], "it takes no user name and password"),
        ([b"\x05\x02", b"\x01\x01"], "it refuses the user name or password"),
        ([b"\x05\x00", b"\x05\x05\x00\x01"], "Connection refused"),
        ([b"\x05\x00", b"\x05\x63\x00\x01"], "it refuses with code 99"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "speaks another protocol"),
        ([b"\x05\x00", b"\x05\x00\x00\x09"], "speaks another protocol"),
        ([b"\x05\x00", OPEN + b"x"], "it speaks before the upstream was asked"),
    ],
)
def test_a_socks_proxy_s_refusal_has_words(answers: list[bytes], why: str) -> None:
    with pytest.raises(ProxyRefusedError, match=why) as error:
        carry(talk("socks5://me:canary@p", "h", 80), answers)
    assert "canary" not in str(error.value)


def test_a_socks_proxy_that_asks_for_a_password_where_there_is_none_is_told() -> None:
    with pytest.raises(ProxyRefusedError, match="it asks for a user name and password"):
        carry(talk("socks5://p", "h", 80), [b"\x05\xff"])
    with pytest.raises(ProxyRefusedError, match="1 to 255 bytes"):
        carry(talk("socks5://me:@p", "h", 80), [b"\x05\x02"])


def test_an_http_proxy_is_asked_for_a_tunnel() -> None:
    said = carry(talk("http://me:can%3Aary@p", "api.example", 443), [b"HTTP/1.1 200 Connection established\r\nVia: p\r\n", b"\r\n"])
    login = base64.b64encode(b"me:can:ary")
    host = b"api.example:443"
    assert b"".join(said) == b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic %b\r\n\r\n" % (host, host, login)
    assert next(talk("http://p", "::1", 443)) == b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        (b"HTTP/1.0 403 canary\r\n\r\nbody", "403 Forbidden"),
        (b"HTTP/1.1 599 x\r\n\r\n", "599"),
        (b"SSH-2.0-x\r\n\r\n", "speaks another protocol"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "speaks another protocol"),
        (b"HTTP/1.1 200 OK\r\n\r\nearly", "it speaks before the upstream was asked"),
        (b"x" * 20_000, "its answer is too long"),
    ],
)
def test_an_http_proxy_s_refusal_has_words(answer: bytes, why: str) -> None:
    with pytest.raises(ProxyRefusedError, match=why) as error:
        carry(talk("http://me:canary@p", "h", 443), [answer, b"more"])
    assert "canary" not in str(error.value)
