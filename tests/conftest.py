"""What holds for every test: the event loop is never blocked by our code, no thread outlives its test, and how hypothesis runs."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

# No deadline: two cores shared with whatever else runs say nothing about one example. `make fuzz` takes the second profile.
settings.register_profile("usual", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=20_000, derandomize=False)
settings.load_profile("usual")

POOLS = ("asyncio_", "AnyIO worker thread", "ThreadPoolExecutor", "execnet")
"""Names of threads that belong to a loop, a pool or the test runner, and wait there for the next piece of work."""


@pytest.fixture(scope="session")
def watch() -> BlockBuster:
    # Only calls made below these two rooms count: a test may read a file, and the archive's threads live for the disk.
    watch = BlockBuster(scanned_modules=["gateway", "dashboard"], excluded_modules=["gateway.settings"])
    # A short lock around a counter is no wait; whether it happens to be held just now would be a matter of luck.
    del watch.functions["threading.Lock.acquire"]
    return watch


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop(request: pytest.FixtureRequest, watch: BlockBuster) -> Iterator[None]:
    """In an async test, a call that waits for disk, network or clock inside the loop fails where it is made."""
    if not inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    watch.activate()
    try:
        yield
    finally:
        watch.deactivate()


@pytest.fixture(autouse=True)
def no_thread_stays_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        left = [thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith(POOLS)]
        if not left:
            return
        time.sleep(0.01)
    pytest.fail(f"threads left behind: {left}")
