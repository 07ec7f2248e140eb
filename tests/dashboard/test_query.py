"""What a list may be asked for."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from dashboard.query import STATUSES, Filter


def test_a_filter_asks_for_the_same_again() -> None:
    query = {"route": " openai ", "status": "4XX", "text": "needle", "limit": "20", "session": "s", "user": "u", "tag": "t", "unknown": "x"}
    asked = Filter.of(query)
    assert asked == Filter("openai", "4xx", "needle", "", 20, "s", "u", "t")
    assert asked.called == {"session": "s", "user": "u", "tag": "t"}
    assert Filter.of({"tag": "t"}).narrows
    assert asked.narrows
    assert Filter.of(asked.query()) == asked
    assert asked.query(before="x")["before"] == "x"
    assert Filter.of({}) == Filter()
    assert Filter().query() == {}
    assert not Filter().narrows


@pytest.mark.parametrize(
    "query", [{"status": "600"}, {"status": "2"}, {"status": "ok"}, {"before": "../.."}, {"limit": "-1"}, {"limit": "\u0665"}]
)
def test_a_filter_that_cannot_be_read_says_what_could(query: dict[str, str]) -> None:
    with pytest.raises(HTTPException) as caught:
        Filter.of(query)
    assert caught.value.status_code == 400
    assert len(caught.value.detail) > 20


def test_every_status_on_offer_can_be_asked_for() -> None:
    for status, _ in STATUSES:
        assert Filter.of({"status": status}).status == status
