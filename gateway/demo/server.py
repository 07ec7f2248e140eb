"""The demo upstream as a server, in a thread of its own for as long as a block lasts. Ending on signals is the caller's business."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from gateway.demo.api import app

__all__ = ["running"]

START_LIMIT = 10.0
"""Seconds a server thread may take to listen."""


@contextmanager
def running(host: str = "127.0.0.1", port: int = 0, pace: float = 1.0) -> Iterator[str]:
    """The demo upstream in a thread of its own for as long as the block lasts; gives its base URL.

    Blocks for as long as the start takes. Raises OSError when the address cannot be bound.
    """
    listener = _listen(host, port)
    bound = listener.getsockname()
    server = _server(pace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="demo-upstream", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_LIMIT
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        if not server.started:
            raise OSError("the demo upstream did not start")
        yield f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setblocking(False)
    return listener


def _server(pace: float) -> uvicorn.Server:
    # Quiet, because `demo-abort` makes uvicorn complain of an unfinished response, which is the point of it.
    config = uvicorn.Config(
        app(pace),
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
