"""Our server over HTTP. One thread with one event loop serves all programs of a `Remote`.

A program is ``POST /v1/programs`` with what is known so far; its events come back as server-sent events, the first of
which carries the program's id. What comes later goes to ``POST /v1/programs/{id}/operations``; ``DELETE`` cancels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from sgl_grammars.tools import FORMATS, ToolFormat
from sgl_lang.backends.base import Backend, Capabilities, Listener, Session
from sgl_lang.backends.http import HttpLoop
from sgl_lang.errors import Cancelled, ConnectionFailed, EngineFailure, SglError
from sgl_lang.tree import (
    End,
    ErrorInfo,
    Event,
    Failed,
    Finished,
    Operation,
    ProgramOptions,
)

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`base_url` with or without ``/v1``. `tool_format`: a name in `sgl_grammars.tools.FORMATS`. `transport`
        replaces the network (tests).
        """
        self.capabilities = Capabilities("remote")
        self._tool_format = tool_format
        self._http = HttpLoop(
            base_url.rstrip("/").removesuffix("/v1"),
            {**(headers or {}), **({} if api_key is None else {"Authorization": f"Bearer {api_key}"})},
            connect_timeout_s,
            transport,
            hint="is the server running? `sgl serve` starts one",
        )

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        if self._http.closed:
            raise ConnectionFailed("this backend was closed", place=self._http.base_url)
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


class RemoteSession(Session):
    """One program on a server. All fields are used on the loop's thread only."""

    def __init__(self, http: HttpLoop, options: ProgramOptions, listener: Listener) -> None:
        self._http = http
        self._options = options
        self._listener = listener
        self._queue: asyncio.Queue[tuple[Operation, ...]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._path: str | None = None
        self._over = False

    def send(self, operations: Sequence[Operation]) -> None:
        self._http.call_soon(self._enqueue, tuple(operations))

    def cancel(self) -> None:
        self._http.call_soon(self._cancel)

    def _enqueue(self, operations: tuple[Operation, ...]) -> None:
        self._queue.put_nowait(operations)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _cancel(self) -> None:
        if self._task is None:
            self._end(_failure(Cancelled("the program was cancelled")))
        else:
            self._task.cancel()

    async def _run(self) -> None:
        """The program's life; whatever happens, its last event is told."""
        try:
            await self._exchange()
            self._end(_failure(EngineFailure("the server closed the stream before the program ended")))
        except SglError as error:
            self._end(_failure(error))
        except asyncio.CancelledError:
            await self._delete()
            self._end(_failure(Cancelled("the program was cancelled")))
        except Exception as error:
            self._end(_failure(EngineFailure(f"{type(error).__name__}: {error}")))

    async def _exchange(self) -> None:
        operations = await self._queue.get()
        whole = End() in operations  # then the server adds the end
        body = {
            "options": self._options,
            "operations": [item for item in operations if not (whole and item == End())],
            "open": not whole,
        }
        sender: asyncio.Task[None] | None = None
        try:
            async for data in self._http.events("/v1/programs", body):
                if self._path is None and (program := _program_id(data)) is not None:
                    self._path = f"/v1/programs/{program}"
                    if not whole:
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
            self._end(_failure(error))
            if self._task is not None:
                self._task.cancel()

    async def _delete(self) -> None:
        """Tell the server, for a moment; it also notices that the stream was closed."""
        if self._path is not None and not self._over:
            try:
                await asyncio.wait_for(self._http.request("DELETE", self._path), 5)
            except (SglError, asyncio.TimeoutError, TimeoutError):
                return

    def _tell(self, event: Event) -> None:
        if isinstance(event, Finished) or (
            isinstance(event, Failed) and event.branch is None and event.node is None
        ):
            self._end(event)
        elif not self._over:
            self._listener(event)

    def _end(self, event: Event) -> None:
        if not self._over:
            self._over = True
            self._listener(event)


def _failure(error: SglError) -> Failed:
    return Failed(error=ErrorInfo.of(error))


def _program_id(data: bytes) -> str | None:
    """The id in the first event, which is not an event of the program itself."""
    found = msgspec.json.decode(data)
    if not isinstance(found, dict) or found.get("type") != "program":
        return None
    return str(found["id"])
