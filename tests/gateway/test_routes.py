"""Only the configuration chooses an upstream, and paths go there byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routes import DEFAULT_UPSTREAMS, Route, Routes, SettingsError, valid_session

BUILT_IN = {name: Route.parse(name, url) for name, url in DEFAULT_UPSTREAMS.items()}
ROUTES = Routes(BUILT_IN)
WITH_DEFAULT = Routes(BUILT_IN, "openai")


def resolved(target: bytes, routes: Routes = ROUTES) -> tuple[str, bytes] | None:
    found = routes.resolve(target)
    return None if found is None else (found.route.name, found.target)


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        (b"/openai/v1/chat/completions", ("openai", b"/v1/chat/completions")),
        (b"/anthropic/v1/messages?beta=true", ("anthropic", b"/v1/messages?beta=true")),
        (b"/gemini/v1beta/models/g:streamGenerateContent?alt=sse", ("gemini", b"/v1beta/models/g:streamGenerateContent?alt=sse")),
        (b"/openai", ("openai", b"/")),
        (b"/openai?x=1", ("openai", b"/?x=1")),
        (b"/openai/", ("openai", b"/")),
        (b"/openai//", ("openai", b"//")),
        (b"/openai/?", ("openai", b"/?")),
        (b"/openaix/v1", None),
        (b"/OpenAI/v1", None),
        (b"/%6fpenai/v1", None),
        (b"/openai%2Fv1", None),
        (b"/v1/models", None),
        (b"/", None),
        (b"/?openai/", None),
        (b"", None),
        (b"*", None),
        (b"openai/v1", None),
        (b"/_verbatim/health", None),
    ],
)
def test_the_first_path_segment_names_the_route(target: bytes, upstream: tuple[str, bytes] | None) -> None:
    assert resolved(target) == upstream


@pytest.mark.parametrize(
    "rest",
    [
        b"/v1/a%2Fb//c/../d%20e/%7Efoo;p=1/%E4",
        b"/v1?q=a+b%20c&x=%2F&x=2&empty=&noval&z=%zz&w[]=1",
        b"/..//../etc/passwd",
        b"/./.",
        b"/v1/\xe4\xff",
        b"/?",
        b"//evil.example/x",
        b"/openai/anthropic",
        b"/~session/x",
        b"/_verbatim/health",
    ],
)
def test_path_and_query_reach_the_upstream_byte_for_byte(rest: bytes) -> None:
    assert resolved(b"/openai" + rest) == ("openai", rest)
    assert resolved(b"/~s/openai" + rest) == ("openai", rest)


@given(st.binary(max_size=60).filter(lambda rest: not rest or rest[:1] in (b"/", b"?")))
def test_whatever_follows_the_name_is_kept(rest: bytes) -> None:
    expected = rest if rest[:1] == b"/" else b"/" + rest
    assert resolved(b"/openai" + rest) == ("openai", expected)


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil.example/openai/v1/x",
        b"https://evil.example:8443/openai/v1/x",
        b"HTTP://user:pass@evil.example/openai/v1/x",
        b"http://evil.example\\@api.openai.com/openai/v1/x",
        b"ws://[::1]/openai/v1/x",
        b"http://2130706433/openai/v1/x",
        b"http://evil.example%00.openai.com/openai/v1/x",
        b"http:///openai/v1/x",
    ],
)
def test_an_absolute_target_goes_to_the_configured_upstream(target: bytes) -> None:
    found = ROUTES.resolve(target)
    assert found is not None
    assert (found.route.authority, found.target) == (b"api.openai.com", b"/v1/x")


@pytest.mark.parametrize(
    "target", [b"http://evil.example", b"http://evil.example?/openai/x", b"evil.example:443", b"http:/openai/x", b"://x/openai"]
)
def test_a_target_that_names_no_route_goes_nowhere(target: bytes) -> None:
    assert resolved(target) is None


@given(st.binary(max_size=80))
def test_no_target_can_choose_another_host(target: bytes) -> None:
    for routes in (ROUTES, WITH_DEFAULT):
        for prefix in (b"", b"/", b"/openai/", b"http://", b"/openai//", b"/openai@", b"/openai\\", b"//"):
            found = routes.resolve(prefix + target)
            if found is not None:
                assert found.route in BUILT_IN.values()
                assert found.target == b"*" or found.target.startswith(b"/")


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        (b"/v1/chat/completions", ("openai", b"/v1/chat/completions")),
        (b"/anything?x=1", ("openai", b"/anything?x=1")),
        (b"/anthropic/v1/messages", ("anthropic", b"/v1/messages")),
        (b"*", ("openai", b"*")),
        (b"//evil.example/v1", ("openai", b"//evil.example/v1")),
        (b"/%5Fverbatim/health", ("openai", b"/%5Fverbatim/health")),
        (b"http://evil.example/v1/x", ("openai", b"/v1/x")),
        (b"/~s/v1/x", ("openai", b"/v1/x")),
    ],
)
def test_the_default_route_takes_every_other_path_unchanged(target: bytes, upstream: tuple[str, bytes]) -> None:
    assert resolved(target, WITH_DEFAULT) == upstream


@pytest.mark.parametrize(
    "target", [b"/", b"/?x", b"/_verbatim", b"/_verbatim/health?x", b"/~s/_verbatim/health", b"/~s", b"/~s/", b"/~/v1", b"/~-/v1"]
)
def test_pages_of_the_gateway_are_never_relayed(target: bytes) -> None:
    assert resolved(target, WITH_DEFAULT) is None


def test_a_session_in_the_path_is_taken_off_and_told() -> None:
    found = ROUTES.resolve(b"/~nightly-1.2_x/openai/v1/x?y=1")
    assert found is not None
    assert (found.route.name, found.target, found.session) == ("openai", b"/v1/x?y=1", "nightly-1.2_x")
    plain = ROUTES.resolve(b"/openai/v1/x")
    assert plain is not None
    assert plain.session is None


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "ä", "a%20", "x" * 129, "a\n", "~a"])
def test_a_sessions_name_is_plain(name: str) -> None:
    assert not valid_session(name)
    assert ROUTES.resolve(b"/~" + name.encode() + b"/openai/v1") is None


@pytest.mark.parametrize(
    ("url", "rest", "target"),
    [
        ("https://u", b"/v1/x", b"/v1/x"),
        ("https://u/", b"/v1/x", b"/v1/x"),
        ("https://u/base/v1", b"/x", b"/base/v1/x"),
        ("https://u/base/v1/", b"/x", b"/base/v1/x"),
        ("https://u/base/v1//", b"/x", b"/base/v1/x"),
        ("https://u/b%2Fse/~", b"//x%2F?y", b"/b%2Fse/~//x%2F?y"),
        ("https://u/base", b"", b"/base"),
        ("https://u/base", b"/", b"/base/"),
        ("https://u/base", b"?x=1", b"/base?x=1"),
        ("https://u?api-version=1", b"/x", b"/x?api-version=1"),
        ("https://u?api-version=1", b"", b"/?api-version=1"),
        ("https://u/b?api-version=1&a=%2F", b"/x?y=+&&", b"/b/x?api-version=1&a=%2F&y=+&&"),
        ("https://u/b?api-version=1", b"?", b"/b?api-version=1"),
        ("https://u/b?api-version=1", b"?y", b"/b?api-version=1&y"),
    ],
)
def test_path_and_query_of_an_upstream_are_joined_byte_for_byte(url: str, rest: bytes, target: bytes) -> None:
    routes = Routes({"u": Route.parse("u", url)})
    assert resolved(b"/u" + rest, routes) == ("u", target)


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("https://api.openai.com", "api.openai.com", 443, b"api.openai.com"),
        ("http://127.0.0.1:11434", "127.0.0.1", 11434, b"127.0.0.1:11434"),
        ("https://h:443/", "h", 443, b"h"),
        ("http://h:443/", "h", 443, b"h:443"),
        ("http://h:/", "h", 80, b"h"),
        ("HTTPS://API.Example.COM", "api.example.com", 443, b"api.example.com"),
        ("http://[::1]:8080/v1", "::1", 8080, b"[::1]:8080"),
        ("https://[2001:DB8::0:1]", "2001:db8::1", 443, b"[2001:db8::1]"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, b"xn--bcher-kva.example"),
        ("http://my_service.default:80", "my_service.default", 80, b"my_service.default"),
        ("https://host./x", "host.", 443, b"host."),
        ("  https://h  ", "h", 443, b"h"),
    ],
)
def test_an_upstream_url_becomes_host_port_and_authority(url: str, host: str, port: int, authority: bytes) -> None:
    route = Route.parse("x", url)
    assert (route.host, route.port, route.authority) == (host, port, authority)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "has no upstream"),
        ("api.openai.com", "must begin with http:// or https://"),
        ("ftp://h/", "must begin with http:// or https://"),
        ("http:h", "must begin with http:// or https://"),
        ("https:///v1", "no usable host"),
        ("https://user:canary@h/", "give the key to the SDK"),
        ("https://canary@h/", "give the key to the SDK"),
        ("https://h/x#y", "leave out the fragment"),
        ("https://h#", "leave out the fragment"),
        ("https://h:0/", "1 to 65535"),
        ("https://h:65536/", "1 to 65535"),
        ("https://h:x/", "1 to 65535"),
        ("https://[::1/", "brackets"),
        ("https://[::g]/", "is no URL"),
        ("https://[fe80::1%25eth0]/", "no usable host"),
        ("https://h%2Fx/", "no usable host"),
        ("https://-h/", "no usable host"),
        ("https://a..b/", "no usable host"),
        ("https://" + "ü" * 80, "no usable host"),
        ("https://" + "a" * 64 + "/", "no usable host"),
        ("https://h/a b", "percent-encode"),
        ("https://h/a\tb", "percent-encode"),
        ("https://h\\@evil/", "backslash"),
        ("https://h/ü", "percent-encode"),
        ("https://h/?ü", "percent-encode"),
    ],
)
def test_a_bad_upstream_url_is_told_in_one_sentence(url: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Route.parse("x", url)
    text = str(caught.value)
    assert says in text
    assert "'x'" in text
    assert "\n" not in text
    assert "canary" not in text


@pytest.mark.parametrize("name", ["", "X", "a/b", "_a", "~a", "-a", "a" * 64, "ä", "a b", "a\n"])
def test_a_bad_route_name_is_told(name: str) -> None:
    with pytest.raises(SettingsError, match="route name"):
        Route.parse(name, "https://h")


@pytest.mark.parametrize(
    ("name", "url", "shape"),
    [
        ("openai", "https://api.openai.com", "openai"),
        ("claude", "https://h", "anthropic"),
        ("x", "https://api.anthropic.com", "anthropic"),
        ("x", "https://generativelanguage.googleapis.com", "gemini"),
        ("my-gemini", "https://h", "gemini"),
        ("mistral", "https://api.mistral.ai", "openai"),
    ],
)
def test_the_error_format_is_guessed_from_name_and_host(name: str, url: str, shape: str) -> None:
    assert Route.parse(name, url).shape == shape
    assert Route.parse(name, url, shape="gemini").shape == "gemini"


def test_other_options_are_checked() -> None:
    with pytest.raises(SettingsError, match="shape must be one of openai, anthropic, gemini"):
        Route.parse("x", "https://h", shape="soap")
    for proxy in ("proxy.example:3128", "ftp://h", "http://", "http://h:99999", "http://[::1"):
        with pytest.raises(SettingsError, match="proxy must be a URL"):
            Route.parse("x", "https://h", proxy=proxy)
    for proxy in ("http://h:3128", "socks5h://user:canary@h:1080"):
        assert Route.parse("x", "https://h", proxy=proxy).proxy == proxy
    assert "canary" not in repr(Route.parse("x", "https://h", proxy="socks5h://user:canary@h:1080"))


def test_the_shown_url_holds_no_key() -> None:
    assert Route.parse("x", "https://h:8443/v1/?api-version=1&key=canary").url == "https://h:8443/v1?api-version=1&key=[redacted]"


def test_a_default_route_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match=r"default_route 'mistral' is no route; there are: anthropic, gemini, openai"):
        Routes(BUILT_IN, "mistral")
