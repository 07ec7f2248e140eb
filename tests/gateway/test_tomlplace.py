"""A key's line is found for error messages."""

from __future__ import annotations

import pytest

from gateway.tomlplace import line_of

TEXT = """\
# port = 0
port = 1
"host" = "x"

[routes.a]   # a comment
upstream = "b = 1"
[routes."b c"]
upstream = "x"
[ routes . d ]
http2 = true
[e]
f.g = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (["port"], 2),
        (["host"], 3),
        (["routes", "a", "upstream"], 6),
        (["routes", "a", "proxy"], 5),
        (["routes", "b c", "upstream"], 8),
        (["routes", "d", "http2"], 10),
        (["e", "f", "g"], 12),
        (["e", "f"], 12),
        (["routes"], 5),
        (["b"], None),
        (["none", "such"], None),
    ],
)
def test_a_keys_line_is_found(path: list[str], line: int | None) -> None:
    assert line_of(TEXT, path) == line


def test_any_text_is_survived() -> None:
    assert line_of("[[[\n= = \x00\n]", ["x"]) is None
