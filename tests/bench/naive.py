"""The relay everybody writes first, Starlette and httpx: `python naive.py PORT ORIGIN`. A yardstick, not an example."""

from __future__ import annotations

import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

port, origin = map(int, sys.argv[1:3])
unlimited = httpx.Limits(max_connections=None)  # the default pool of 100 would fail the 101st stream
client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{origin}", timeout=None, limits=unlimited)


async def relay(request: Request) -> StreamingResponse:
    headers = [(name, value) for name, value in request.headers.raw if name not in (b"host", b"connection")]
    content = request.stream() if request.method == "POST" else None
    outgoing = client.build_request(request.method, f"{request.url.path}?{request.url.query}", headers=headers, content=content)
    answer = await client.send(outgoing, stream=True)
    hop_by_hop = ("connection", "transfer-encoding")
    kept = {name: value for name, value in answer.headers.items() if name not in hop_by_hop}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))


app = Starlette(routes=[Route("/{path:path}", relay, methods=["GET", "POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, backlog=4096, timeout_keep_alive=75)
