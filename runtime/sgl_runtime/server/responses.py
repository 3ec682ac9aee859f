"""Responses that end their work when the client hangs up.

Both kinds race the work against the connection. A program is a context manager inside the work, so
cancelling the work cancels the program.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sgl_lang.errors import EngineFailure, SglError
from sgl_runtime.server.failures import error_body, error_response

__all__ = ["Answer", "Events", "sse"]

log = logging.getLogger(__name__)
PING_S = 15.0
"""A comment is sent after so many silent seconds, so that proxies keep the connection."""


def sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class _Racing(Response):
    """Runs `_serve` until it is done or the client is gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._serve(scope, receive, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await work
            with suppress(asyncio.CancelledError):
                await gone

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class Answer(_Racing):
    """JSON that takes a while: `work` gives the bytes or raises an `SglError`."""

    def __init__(self, work: Callable[[], Awaitable[bytes]]) -> None:
        super().__init__()
        self._work = work

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = Response(await self._work(), media_type="application/json")
        except SglError as error:
            response = error_response(error)
        except Exception as error:
            log.exception("a request failed")
            response = error_response(EngineFailure(f"the server failed: {type(error).__name__}"))
        await response(scope, receive, send)


class Events(_Racing):
    """Server-sent events. What fails before the first one is answered as an ordinary error with its status."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        self._events = events
        self._silent = True

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        pings: asyncio.Task[None] | None = None
        try:
            async for data in self._events:
                if pings is None:
                    await send(_START)
                    pings = asyncio.create_task(self._ping(send))
                self._silent = False
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except SglError as error:
            await self._fail(error, pings is not None, scope, receive, send)
        except Exception as error:
            log.exception("a stream failed")
            failure = EngineFailure(f"the server failed: {type(error).__name__}")
            await self._fail(failure, pings is not None, scope, receive, send)
        finally:
            if pings is not None:
                pings.cancel()
            await self._events.aclose()
        if pings is not None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            self._silent = True
            await asyncio.sleep(PING_S)
            if self._silent:
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})

    async def _fail(self, error: SglError, begun: bool, scope: Scope, receive: Receive, send: Send) -> None:
        if not begun:
            await error_response(error)(scope, receive, send)
            return
        body = sse(msgspec.json.encode(error_body(error)))
        await send({"type": "http.response.body", "body": body, "more_body": True})


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ],
}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
