"""The line for people: what it says of ordinary, cut, repeated, unanswered and spoilt exchanges."""

from __future__ import annotations

from typing import Any

import pytest

from archive.forwarding import forwarding


def crossed(received: int, forwarded: int | None = None, *, sent: bool = True) -> dict[str, Any]:
    return {"names": ["a", "a" if sent else None], "differ": [], "size": [received, received if forwarded is None else forwarded]}


def proof(request: Any, response: Any, *, differences: tuple[str, ...] = (), retried: int = 0) -> dict[str, Any]:
    return {"transparency": {"differences": list(differences), "retried": retried, "request": request, "response": response}}


@pytest.mark.parametrize(
    ("line", "origin", "said"),
    [
        (proof(crossed(5), crossed(7)), "upstream", "Forwarded unchanged, both ways"),
        (proof(crossed(5), crossed(7), retried=99), "upstream", "Forwarded unchanged, both ways, at the second try"),
        (
            proof(crossed(1000, 500), crossed(7, 6)),
            "upstream",
            "Forwarded unchanged, both ways, as far as it went: 500 of 1,000 bytes of the request, 6 of 7 bytes of the response",
        ),
        (proof(crossed(5), crossed(7)), "gateway", "Request forwarded unchanged, answered by the gateway itself"),
        (proof(crossed(5, 0, sent=False), crossed(7)), "gateway", "Nothing was forwarded, answered by the gateway itself"),
        (proof(crossed(5), None), None, "Request forwarded unchanged, no answer came"),
    ],
)
def test_an_unchanged_exchange_is_one_sentence(line: dict[str, Any], origin: str | None, said: str) -> None:
    found = forwarding([{"transparency": None}, line], origin=origin)
    assert found is not None
    assert (found.sentence, found.differences) == (said, ())


def test_what_differs_is_listed() -> None:
    found = forwarding([proof(crossed(5), crossed(7), differences=("response headers: header via was added",))], origin="upstream")
    assert found is not None
    assert (found.sentence, found.differences) == ("Not forwarded unchanged", ("response headers: header via was added",))


def test_older_and_running_exchanges_say_nothing() -> None:
    assert forwarding([{}, {"transparency": None}], origin=None) is None
