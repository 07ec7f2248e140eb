"""The relay's tests run on the loop that production runs on, and those of the conformance suite over both paths to an upstream.

A route with `http2` towards a plain origin takes the second path and speaks HTTP/1.1 there, so one set of scripted origins serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import relayrig
import uvloop

SUITE = {"test_requests", "test_responses", "test_streams", "test_cancel", "test_errors", "test_exposure", "test_control"}
"""The modules of the conformance suite; the others look inside the wire or at what the second path has not (websockets)."""

WIRE_ONLY = {
    "test_host_becomes_the_upstream_s_authority": "the second path writes Host first, whatever its place was",
    "test_harmless_trailers_stay_trailers": "the second path drops trailers",
    "test_a_websocket_may_ask_as_any_call_may": "the second path has no websockets",
    "test_early_hints_come_before_the_answer": "the second path drops interim responses",
    "test_a_flood_of_interim_responses_is_cut": "the second path drops interim responses",
    "test_an_upstream_s_own_continue_comes_through_once": "the second path drops interim responses",
    "test_an_ambiguous_answer_reaches_no_one": "the second path's parser reads bare line feeds and folded lines as what they mean",
    "test_a_broken_chunk_breaks_the_client_s_answer": "the second path's parser reads bare line feeds as line ends",
    "test_an_early_refusal_of_an_upload_reaches_the_client": "the second path reads an answer when the request is out",
    "test_an_expectation_can_be_refused_by_the_upstream": "the second path reads an answer when the request is out",
    "test_an_upload_larger_than_the_dial_s_buffer_waits_and_stays_bounded": "the second path dials inside",
    "test_a_dial_is_made_once_however_long_it_takes": "the second path dials inside",
    "test_a_client_that_leaves_while_the_upstream_is_dialled_stops_the_dial": "the second path dials inside",
}
"""What the second path cannot, or does elsewhere, and why."""


FRONTED = {"test_responses", "test_streams", "test_cancel", "test_websocket"}
"""The modules that run through the TLS front as well."""

PLAIN_ONLY = {
    "test_an_upload_larger_than_the_dial_s_buffer_waits_and_stays_bounded": "counts what the client has not sent, which TLS does not tell",
    "test_three_hundred_streams_run_at_once": "takes long; nothing about TLS in it",
    "test_large_messages_cross_both_ways": "takes long; one such message crosses in test_front",
}
"""What does not run through the TLS front, and why."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        name = metafunc.definition.originalname
        both = metafunc.module.__name__.rpartition(".")[2] in SUITE and name not in WIRE_ONLY
        fronted = metafunc.module.__name__.rpartition(".")[2] in FRONTED and name not in PLAIN_ONLY
        metafunc.parametrize("path", ["wire", *(["second"] if both else []), *(["front"] if fronted else [])], indirect=True)


@pytest.fixture(autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way requests take: the wire, the second path to the upstream, or the wire with TLS before the gateway."""
    monkeypatch.setattr(relayrig, "SECOND_PATH", request.param == "second")
    monkeypatch.setattr(relayrig, "FRONT", request.param == "front")
    return str(request.param)
