"""Our server over HTTP or a WebSocket. One thread with one event loop serves all programs of a `Remote`.

Over HTTP a program is ``POST /v1/programs`` with what is known so far; its events come back as server-sent events, the
first of which carries the program's id. What comes later goes to ``POST /v1/programs/{id}/operations``; ``DELETE``
cancels. The WebSocket is in `websocket`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import httpx
import msgspec

from sgl_grammars.tools import FORMATS, ToolFormat
from sgl_lang.backends.base import Backend, Capabilities, Listener, Session
from sgl_lang.backends.http import HttpLoop
from sgl_lang.backends.websocket import SocketLink, SocketSession
from sgl_lang.backends.wire import WireSession, failure, opening, started
from sgl_lang.errors import Cancelled, ConnectionFailed, EngineFailure, InvalidRequest, SglError
from sgl_lang.tree import Event, Operation, ProgramOptions

__all__ = ["Remote", "RemoteSession"]

_EVENTS = msgspec.json.Decoder(Event)


class Remote(Backend):
    """`sgl.Remote("http://host:30000", api_key=...)`: runs programs on a server started by `sgl serve`."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: dict[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        tool_format: str | None = None,
        transport: Literal["http", "websocket"] = "http",
        network: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`base_url` with or without ``/v1``. `tool_format`: a name in `sgl_grammars.tools.FORMATS`. `transport`: what
        carries programs, a request each or one WebSocket for all (needs the ``[server]`` extra). `network` replaces
        httpx's network (tests).
        """
        if transport not in ("http", "websocket"):
            raise InvalidRequest(f"must be 'http' or 'websocket', got {transport!r}", place="transport")
        self.capabilities = Capabilities("remote")
        self._tool_format = tool_format
        sent = {**(headers or {}), **({} if api_key is None else {"Authorization": f"Bearer {api_key}"})}
        self._http = HttpLoop(
            base_url.rstrip("/").removesuffix("/v1"),
            sent,
            connect_timeout_s,
            network,
            hint="is the server running? `sgl serve` starts one",
        )
        self._link: SocketLink | None = None
        if transport == "websocket":
            try:
                self._link = SocketLink(self._http, sent, connect_timeout_s)
            except SglError:
                self._http.close()
                raise

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        if self._http.closed:
            raise ConnectionFailed("this backend was closed", place=self._http.base_url)
        if self._link is not None:
            return SocketSession(self._link, options, listener)
        return RemoteSession(self._http, options, listener)

    def info(self) -> dict[str, Any]:
        models: list[dict[str, Any]] = self._http.wait(self._http.request("GET", "/v1/models"))["data"]
        return models[0]

    def tool_format(self) -> ToolFormat | None:
        """As given to the constructor, or as the server says."""
        if self._tool_format is None:
            self._tool_format = self.info().get("tool_format")
        return None if self._tool_format is None else FORMATS.get(self._tool_format)

    def flush_cache(self) -> None:
        self._http.wait(self._http.request("POST", "/flush_cache"))

    def close(self) -> None:
        """Cancel what runs and stop the thread."""
        self._http.close()


class RemoteSession(WireSession):
    """One program over HTTP."""

    def __init__(self, http: HttpLoop, options: ProgramOptions, listener: Listener) -> None:
        super().__init__(http, options, listener)
        self._queue: asyncio.Queue[tuple[Operation, ...]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._path: str | None = None

    def _enqueue(self, operations: tuple[Operation, ...]) -> None:
        self._queue.put_nowait(operations)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _cancel(self) -> None:
        if self._task is None:
            self._end(failure(Cancelled("the program was cancelled")))
        else:
            self._task.cancel()

    async def _run(self) -> None:
        """The program's life; whatever happens, its last event is told."""
        try:
            await self._exchange()
            self._end(failure(EngineFailure("the server closed the stream before the program ended")))
        except SglError as error:
            self._end(failure(error))
        except asyncio.CancelledError:
            await self._delete()
            self._end(failure(Cancelled("the program was cancelled")))
        except Exception as error:
            self._end(failure(EngineFailure(f"{type(error).__name__}: {error}")))

    async def _exchange(self) -> None:
        body = opening(self._options, await self._queue.get())
        sender: asyncio.Task[None] | None = None
        try:
            async for data in self._http.events("/v1/programs", body):
                if self._path is None and (program := started(data)) is not None:
                    self._path = f"/v1/programs/{program}"
                    if body["open"]:
                        sender = asyncio.get_running_loop().create_task(self._send_later())
                elif data != b"[DONE]":
                    self._tell(_EVENTS.decode(data))
        finally:
            if sender is not None:
                sender.cancel()

    async def _send_later(self) -> None:
        """Forward operations in order; a refusal ends the program."""
        try:
            while True:
                operations = await self._queue.get()
                await self._http.request("POST", f"{self._path}/operations", {"operations": operations})
        except SglError as error:
            self._end(failure(error))
            if self._task is not None:
                self._task.cancel()

    async def _delete(self) -> None:
        """Tell the server, for a moment; it also notices that the stream was closed."""
        if self._path is not None and not self._over:
            try:
                await asyncio.wait_for(self._http.request("DELETE", self._path), 5)
            except (SglError, asyncio.TimeoutError, TimeoutError):
                return
