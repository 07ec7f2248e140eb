"""The providers' own SDKs, straight at an upstream and then through Verbatim: the same results, and an archive that is what crossed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aimock
import pytest
from audit import audit
from rig import Tap, gateway
from sdk_calls import CALLS, KEY, Bases, Flavour, Models, clients, settled

from gateway import demo

PREFIXES = (b"/openai", b"/anthropic", b"/gemini")
pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
    ),  # openai's own, with websockets 17
    pytest.mark.filterwarnings("ignore:FUNCTION_CALL is not a valid FinishReason:UserWarning"),  # aimock's word, unknown to Google's SDK
    pytest.mark.parametrize("flavour", ["sync", "async"]),
]


def run(bases: Bases, flavour: Flavour, models: Models) -> dict[str, Any]:
    """Every call, one after the other, in this thread and with a loop of its own: the sync clients block theirs."""

    async def calls() -> dict[str, Any]:
        async with clients(bases, flavour, models) as sdk:
            return {name: await call(sdk, models) for name, call in CALLS.items()}

    return asyncio.run(calls())


@asynccontextmanager
async def corridor(upstream_port: int, folder: Path) -> AsyncIterator[tuple[str, Tap, Tap, Path]]:
    """client -> front tap -> gateway -> back tap -> upstream; the gateway has stopped and the taps are quiet once the block is left."""
    async with AsyncExitStack() as stack:
        back = await stack.enter_async_context(Tap(upstream_port))
        running = await stack.enter_async_context(gateway(folder, dict.fromkeys(("openai", "anthropic", "gemini"), back.url)))
        front = await stack.enter_async_context(Tap(running.port))
        yield front.url, front, back, running.archive


async def compared(upstream_port: int, folder: Path, flavour: Flavour, models: Models, *, exact: bool) -> None:
    direct = await asyncio.to_thread(run, Bases.of(f"http://127.0.0.1:{upstream_port}"), flavour, models)
    async with corridor(upstream_port, folder) as (url, front, back, archive):
        through = await asyncio.to_thread(run, Bases.through(url), flavour, models)
    for name in CALLS:
        assert settled(through[name]) == settled(direct[name]), name
    if exact:
        assert {name: without_dates(through[name]) for name in CALLS} == {name: without_dates(direct[name]) for name in CALLS}
    archived = audit(front, back, archive, prefixes=PREFIXES, secret=KEY)
    assert len(archived) >= len(CALLS)


def without_dates(value: Any) -> Any:
    """The one thing a deterministic upstream does not repeat is the Date header (and the id that we add beside it)."""
    if isinstance(value, dict):
        return {key: without_dates(inner) for key, inner in value.items() if key not in {"date", "x-verbatim-id"}}
    return [without_dates(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def demo_port() -> Iterator[int]:
    with demo.running(pace=0) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def aimock_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if why := aimock.missing():
        pytest.skip(why)
    with aimock.running(tmp_path_factory.mktemp("aimock")) as port:
        yield port


async def test_every_sdk_gets_from_the_demo_through_verbatim_what_it_gets_directly(
    demo_port: int, flavour: Flavour, tmp_path: Path
) -> None:
    await compared(demo_port, tmp_path, flavour, Models(), exact=True)


async def test_every_sdk_gets_from_aimock_through_verbatim_what_it_gets_directly(
    aimock_port: int, flavour: Flavour, tmp_path: Path
) -> None:
    await compared(aimock_port, tmp_path, flavour, Models(gemini_version="v1beta"), exact=False)
