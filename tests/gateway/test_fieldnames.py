"""What follows from names alone: the same for the same names, however often they come, and nothing kept that is a secret or without end."""

from __future__ import annotations

import pytest

from gateway import fieldnames
from gateway.fieldnames import Names, names_of
from gateway.redaction import redact_headers

KEY = b"sk-proj-" + b"A1b2" * 12
FIELDS = [(b"Host", b"h"), (b"X-Api-Key", KEY), (b"Accept", b"*/*"), (b"accept", b"a"), (b"x-anything", b"v")]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fieldnames, "_known", {})


def test_the_same_names_are_looked_at_once() -> None:
    names = names_of(FIELDS)
    assert names_of([(name, b"another") for name, _ in FIELDS]) is names
    assert (names.given[3], names.lower[0], names.places[b"accept"]) == (b"accept", b"host", (2, 3))
    assert names.suspects == (1, 4)
    assert not names.tells
    assert names_of([*FIELDS, (b"Session-Id", b"s")]).tells


def test_what_is_looked_at_by_name_is_redacted_as_when_all_is() -> None:
    for fields in (FIELDS, [(b"Authorization", b"Bearer " + KEY), *FIELDS], [(b"x-unknown", b"https://u:p@h/?api_key=" + KEY)]):
        assert redact_headers(fields, "x", names_of(fields).suspects) == redact_headers(fields, "x")


def test_a_name_that_is_a_secret_is_not_remembered() -> None:
    fields = [(KEY, b"v"), *FIELDS]
    names = names_of(fields)
    assert names.suspects is None
    assert not fieldnames._known
    assert KEY not in str(redact_headers(fields, "x", names.suspects)).encode()


def test_names_that_could_not_be_judged_are_judged_again_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: bytes) -> None:
        raise RuntimeError

    monkeypatch.setattr("gateway.redaction._classify", fails)
    fields = [(b"x-never-judged-before", b"value")]
    assert Names((b"x-never-judged-before",)).suspects is None
    assert b"value" not in redact_headers(fields, "x", names_of(fields).suspects)[0][0]


def test_names_without_end_fill_no_memory() -> None:
    for number in range(3 * fieldnames.KNOWN):
        names_of([(b"x-%d" % number, b"")])
    assert len(fieldnames._known) <= fieldnames.KNOWN
    names_of([(b"x" * (fieldnames.SHORT + 1), b"")])
    assert all(sum(map(len, names)) <= fieldnames.SHORT for names in fieldnames._known)
