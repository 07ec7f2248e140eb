"""Settings come from flags, environment and file, in this order; and what is wrong is told with its place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.settings import ROUTE_KEYS, SETTINGS, Settings, SettingsError, find_config, load, settings_table


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "verbatim.toml"


def wrong(file: Path, text: str) -> str:
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsError) as caught:
        load({}, {}, file)
    told = str(caught.value)
    assert "\n" not in told
    return told.replace(str(file), "FILE")


def test_without_anything_the_defaults_hold() -> None:
    settings = load({}, {}, None)
    assert settings == Settings()
    assert (settings.host, settings.port, settings.viewer_host, settings.viewer_port) == ("127.0.0.1", 8787, "127.0.0.1", 8788)
    assert {name: route.url for name, route in settings.routes.items()} == {
        "openai": "https://api.openai.com",
        "anthropic": "https://api.anthropic.com",
        "gemini": "https://generativelanguage.googleapis.com",
    }


def test_a_flag_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text("port = 1\nviewer_port = 1\ngrace = 1\n")
    settings = load({"port": "3", "viewer_port": None}, {"VERBATIM_PORT": "2", "VERBATIM_VIEWER_PORT": "2"}, file)
    assert (settings.port, settings.viewer_port, settings.grace) == (3, 2, 1.0)


def test_a_route_may_be_put_together_from_all_three(file: Path) -> None:
    file.write_text('[routes.my-llm]\nupstream = "https://file"\nhttp2 = true\nshape = "anthropic"\n')
    env = {
        "VERBATIM_ROUTES_MY_LLM_PROXY": "http://proxy:3128",
        "VERBATIM_ROUTES_MY_LLM_HTTP2": "no",
        "VERBATIM_ROUTES_OTHER_UPSTREAM": "http://o:1",
    }
    routes = load({"routes": ("my-llm=https://flag/v1", "openai=http://127.0.0.1:1")}, env, file).routes
    mine = routes["my-llm"]
    assert (mine.url, mine.http2, mine.proxy, mine.shape) == ("https://flag/v1", False, "http://proxy:3128", "anthropic")
    assert routes["other"].url == "http://o:1"
    assert routes["openai"].url == "http://127.0.0.1:1"
    assert set(routes) == {"openai", "anthropic", "gemini", "my-llm", "other"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("67108864", 64 << 20),
        ('"64MiB"', 64 << 20),
        ('"64 MB"', 64_000_000),
        ('"64m"', 64 << 20),
        ('"1.5GiB"', 3 << 29),
        ('"200000 b"', 200_000),
    ],
)
def test_sizes_may_be_written_for_people(file: Path, text: str, count: int) -> None:
    file.write_text(f"queue_bytes = {text}")
    assert load({}, {}, file).queue_bytes == count
    assert load({}, {"VERBATIM_QUEUE_BYTES": text.strip('"')}, None).queue_bytes == count
    assert load({"queue_bytes": text.strip('"')}, {}, None).queue_bytes == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("0.5", 0.5), ('"500ms"', 0.5), ('"2m"', 120.0), ('"1 h"', 3600.0), ('"10s"', 10.0)]
)
def test_times_may_be_written_for_people(file: Path, text: str, seconds: float) -> None:
    file.write_text(f"grace = {text}")
    assert load({}, {}, file).grace == seconds


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("Yes", True), ("on", True), ("0", False), ("FALSE", False), ("no", False)]
)
def test_switches_are_read_from_the_environment(text: str, value: bool) -> None:
    assert load({}, {"VERBATIM_RECORD": text}, None).record is value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = = 3", "FILE, line 1, column 8: invalid value"),
        ('# a\n\nhost = "x', "FILE, line 3"),
        ("port = 1\nport = 2\nrecord = true", "FILE, line 2, column 9: cannot overwrite a value"),
        ("[routes.x", "FILE, line 1"),
    ],
)
def test_a_syntax_error_names_file_and_line(file: Path, text: str, told: str) -> None:
    assert wrong(file, text).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\nprot = 1", "FILE, line 2: unknown setting 'prot'; did you mean 'port'?"),
        ("quux = 1", "FILE, line 1: unknown setting 'quux'"),
        ("[route.x]\nupstream = 'http://h'", "FILE, line 1: unknown setting 'route'; did you mean 'routes'?"),
        ("[routes.x]\nupstrem = 'http://h'", "FILE, line 2: unknown key 'upstrem' of route 'x'; did you mean 'upstream'?"),
    ],
)
def test_an_unknown_key_names_its_line_and_what_was_meant(file: Path, text: str, told: str) -> None:
    assert wrong(file, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('port = "8787"', "FILE, line 1: port must be a whole number, without quotes"),
        ("port = 1.5", "FILE, line 1: port must be a whole number"),
        ("port = true", "FILE, line 1: port must be a whole number"),
        ("# c\nport = 65536", "FILE, line 2: port must be from 0 to 65535"),
        ('record = "true"', "FILE, line 1: record must be true or false, without quotes"),
        ("record = 1", "FILE, line 1: record must be true or false"),
        ("host = 1", "FILE, line 1: host must be text, for example 127.0.0.1"),
        ('host = ""', "FILE, line 1: host must be text, for example 127.0.0.1"),
        ("archive = 1", "FILE, line 1: archive must be text, for example data/archive"),
        ('max_body = "64 apples"', "FILE, line 1: max_body must be a size in bytes, or text such as 64MiB"),
        ("max_body = -1", "FILE, line 1: max_body must be a size in bytes, or text such as 64MiB"),
        ("queue_bytes = 1", "FILE, line 1: queue_bytes must be 64KiB or more"),
        ('grace = "soon"', "FILE, line 1: grace must be a number of seconds, or text such as 10s, 500ms or 2m"),
        ("grace = nan", "FILE, line 1: grace must be a number of seconds, or text such as 10s, 500ms or 2m"),
        ("header_timeout = 0", "FILE, line 1: header_timeout must be 0.1 or more"),
        ('sync = "2s"', "FILE, line 1: sync must be one of 1s, record, never"),
        ("viewer_token = 1", "FILE, line 1: viewer_token must be text"),
        ("default_route = 'x'", "FILE, line 1: default_route must name a route; there are: anthropic, gemini, openai"),
        ("routes = 1", "FILE, line 1: routes must be tables, each written [routes.NAME]"),
        ("\nroutes.x = 1", "FILE, line 2: route 'x' must be a table: [routes.x] and below it upstream = \"https://...\""),
        ("[routes.x]\nupstream = 1", "FILE, line 2: upstream of route 'x' must be text in quotes"),
        ("[routes.x]\nupstream = 'http://h'\nhttp2 = 'yes'", "FILE, line 3: http2 of route 'x' must be true or false"),
        (
            "[routes.x]\n[routes.'y z']\nupstream = 'http://h'",
            "FILE, line 1: route 'x' has no upstream; write one such as https://api.openai.com",
        ),
    ],
)
def test_a_wrong_value_names_file_line_and_key(file: Path, text: str, told: str) -> None:
    assert wrong(file, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 1\n[routes.x]\nupstream = 'ftp://h'", "FILE, line 3: route 'x': upstream 'ftp://h' must begin with http:// or https://"),
        (
            "[routes]\nx.upstream = 'https://h:0'",
            "FILE, line 2: route 'x': upstream 'https://h:0' has a port that is no number",
        ),
        ("[routes.x]\nupstream = 'https://h'\nproxy = 'h'", "FILE, line 3: route 'x': proxy must be a URL"),
        ("[routes.x]\nupstream = 'https://h'\nshape = 'h'", "FILE, line 3: route 'x': shape must be one of openai, anthropic, gemini"),
        ("[routes.X]\nupstream = 'https://h'", "FILE, line 2: route name 'X' must be lower-case"),
        ("[routes.x]\nupstream = 'https://h'\nca_file = '/none/such'", "FILE, line 3: ca_file of route 'x': there is no file '/none/such'"),
        (
            "[routes.x]\nupstream = 'https://u:canary@h'",
            "FILE, line 2: route 'x': upstream 'https://[redacted]@h' holds a user name",
        ),
    ],
)
def test_a_bad_upstream_names_file_and_line(file: Path, text: str, told: str) -> None:
    assert wrong(file, text).startswith(told)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("VERBATIM_PORT", "tcp://10.0.0.1:8787", "VERBATIM_PORT must be a whole number"),
        ("VERBATIM_RECORD", "maybe", "VERBATIM_RECORD must be true or false"),
        ("VERBATIM_PROT", "1", "VERBATIM_PROT: there is no such setting; did you mean 'VERBATIM_PORT'?"),
        ("VERBATIM_ROUTES_X_UPSTREAM", "h", "VERBATIM_ROUTES_X_UPSTREAM: route 'x': upstream 'h' must begin with http:// or https://"),
        ("VERBATIM_ROUTES_X", "h", "VERBATIM_ROUTES_X: must be VERBATIM_ROUTES_NAME_KEY with one of the keys UPSTREAM"),
        ("VERBATIM_ROUTES_X_HTTP2", "2", "VERBATIM_ROUTES_X_HTTP2 must be true or false"),
        ("VERBATIM_ROUTES_X_HTTP2", "1", "VERBATIM_ROUTES_X_HTTP2: route 'x' has no upstream"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, {variable: value}, None)
    assert str(caught.value).startswith(told)


def test_variables_of_others_are_let_pass() -> None:
    env = {
        "VERBATIM_SERVICE_HOST": "10.0.0.1",
        "VERBATIM_PORT_8787_TCP": "x",
        "VERBATIM_SESSION": "s",
        "VERBATIM_GATEWAY": "g",
        "VERBATIM_PORT": "",
    }
    assert load({}, env, None) == Settings()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"port": "x"}, "--port must be a whole number"),
        ({"max_body": "x"}, "--max-body must be a size"),
        ({"routes": ("x",)}, "--route: must be NAME=URL"),
        ({"routes": ("x=h",)}, "--route: route 'x': upstream 'h' must begin"),
    ],
)
def test_a_wrong_flag_is_named(flags: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags, {}, None)
    assert str(caught.value).startswith(told)


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        load({}, {}, tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load({}, {}, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'host = "\xe4"')
    with pytest.raises(SettingsError, match="is no UTF-8 text"):
        load({}, {}, tmp_path / "latin.toml")


def test_flag_environment_and_folder_name_the_file_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None, {}) is None
    (tmp_path / "verbatim.toml").touch()
    assert find_config(None, {}) == Path("verbatim.toml")
    assert find_config(None, {"VERBATIM_CONFIG": "/e"}) == Path("/e")
    assert find_config(Path("/f"), {"VERBATIM_CONFIG": "/e"}) == Path("/f")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = settings_table()
    names = [field.name for field in fields(Settings) if field.name != "routes"]
    assert [setting.name for setting in SETTINGS] == names
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(names) + len(ROUTE_KEYS)
    for setting, row in zip(SETTINGS, rows, strict=False):
        assert row.startswith(f"| `{setting.name}` | ")
        assert f"`{setting.variable}`" in row
        assert setting.help in row
        if setting.show():
            assert setting.read(setting.show(), text=True) == setting.default


def test_a_token_is_not_shown() -> None:
    settings = load({}, {"VERBATIM_VIEWER_TOKEN": "canary-of-16-letters"}, None)
    assert settings.viewer_token == "canary-of-16-letters"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RELAY_TOKEN", "short", "must have at least 16 characters"),
        ("RELAY_TOKEN", "with/a/slash/in/it", "must be letters, digits"),
        ("RELAY_TOKEN", "caf\u00e9-of-sixteen-letters", "must be letters, digits"),
        ("ALLOW_ORIGINS", "chat.example.com", "must be origins such as https://chat.example.com"),
        ("ALLOW_ORIGINS", "https://chat.example.com/", "must be origins such as"),
        ("ALLOW_ORIGINS", "https://a.example,,https://b.example", "must be origins such as"),
        ("HALF_CLOSE", "perhaps", "must be one of auto, wait, leave"),
        ("MAX_STREAMS", "-1", "must be 0 or more"),
    ],
)
def test_who_may_use_the_gateway_is_said_in_a_form_that_works(name: str, value: str, said: str) -> None:
    """Acceptance H105, H106."""
    with pytest.raises(SettingsError) as told:
        load({}, {f"VERBATIM_{name}": value}, None)
    assert f"VERBATIM_{name} {said}" in str(told.value)
    assert name != "RELAY_TOKEN" or value not in str(told.value)
    for good in ("https://chat.example.com, http://intern:3000", "*", "null", "app://x", "http://[::1]:80"):
        assert load({}, {"VERBATIM_ALLOW_ORIGINS": good}, None).allow_origins == good
    assert "canary" not in repr(load({}, {"VERBATIM_RELAY_TOKEN": "canary-of-16-letters"}, None))


def test_a_short_token_is_refused_where_it_is_written() -> None:
    with pytest.raises(SettingsError, match="VERBATIM_VIEWER_TOKEN must have at least 16 characters"):
        load({}, {"VERBATIM_VIEWER_TOKEN": "short"}, None)
    assert load({}, {"VERBATIM_VIEWER_TOKEN": "x" * 16}, None).viewer_token == "x" * 16
