"""What counting routes adds to a request: `python benchmarks/asgi_requests.py [--times N]`.

Requests to an ASGI application in this process, without a network: blocks of a hundred in turns,
with `CarbontrackMiddleware(routes=True)` and without, so that the machine's drift meets both alike.
The yardstick is a middleware that does nothing but await the application. CPU time of the thread;
medians of the blocks, with their quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from fastapi import FastAPI  # noqa: E402 - path set

from carbontrack import Tracker  # noqa: E402
from carbontrack.integrations.asgi import CarbontrackMiddleware  # noqa: E402
from carbontrack.testing import FakeMeter  # noqa: E402

BLOCK = 100
PATHS = {"bare": "/", "async def": "/a/1", "def": "/d/1", "body": "/b"}


async def bare(_scope: Any, _receive: Any, send: Any) -> None:
    """The smallest application."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def application() -> FastAPI:
    """Three routes that do nothing."""
    app = FastAPI()

    @app.get("/a/{n}")
    async def a(n: int) -> int:
        return n

    @app.get("/d/{n}")
    def d(n: int) -> int:
        return n

    @app.post("/b")
    async def b(given: dict[str, int]) -> int:
        return given["n"]

    return app


class Nothing:
    """A middleware that does nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


async def block(app: Any, path: str, method: str) -> float:
    """Microseconds of CPU time that a request takes, on the mean of a block."""
    body = {"type": "http.request", "body": b'{"n": 1}', "more_body": False}

    async def receive() -> Any:
        return body

    async def send(message: Any) -> None:
        pass

    began_s = time.thread_time()
    for _ in range(BLOCK):
        headers = [(b"content-type", b"application/json")] if method == "POST" else []
        await app({"type": "http", "method": method, "path": path, "headers": headers,
                   "query_string": b"", "root_path": "", "asgi": {"spec_version": "2.3"}},
                  receive, send)  # fmt: skip
    return (time.thread_time() - began_s) / BLOCK * 1e6


async def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=60)
    times = parser.parse_args().times
    with Tracker(meters=[FakeMeter()], attribution="process") as tracker:
        print("| application | without | nothing | counted | added by counting | quartiles |")
        print("|---|---|---|---|---|---|")
        for name, path in PATHS.items():
            inner = bare if name == "bare" else application()
            apps = {
                "without": inner,
                "nothing": Nothing(inner),
                "counted": CarbontrackMiddleware(inner, routes=True, tracker=tracker),
            }
            found: dict[str, list[float]] = {kind: [] for kind in apps}
            method = "POST" if name == "body" else "GET"
            for _ in range(times + 3):
                for kind, app in apps.items():
                    found[kind].append(await block(app, path, method))
            found = {kind: values[3:] for kind, values in found.items()}  # warm
            added = [a - b for a, b in zip(found["counted"], found["without"], strict=True)]
            mid = [f"{median(values):.1f}" for values in found.values()]
            low, _, high = quantiles(added, n=4)
            cells = [name, *mid, f"{median(added):.1f}", f"{low:.1f} to {high:.1f}"]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    asyncio.run(main())
