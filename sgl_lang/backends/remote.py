"""Our server over HTTP. One thread with one event loop serves all programs of a `Remote`.

A program is ``POST /v1/programs`` with what is known so far; its events come back as server-sent events, the first of
which carries the program's id. What comes later goes to ``POST /v1/programs/{id}/operations``; ``DELETE`` cancels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import httpx
import msgspec

from sgl_grammars.tools import FORMATS, ToolFormat
from sgl_lang.backends.base import Backend, Capabilities, Listener, Session
from sgl_lang.errors import Cancelled, ConnectionFailed, EngineFailure, InvalidRequest, SglError, from_code
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
_LONGEST_EVENT = 64 << 20


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
        if not base_url.startswith(("http://", "https://")):
            raise InvalidRequest(f"{base_url!r} is no http or https URL", place="base_url")
        self.capabilities = Capabilities("remote")
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(
            base_url=self.base_url,
            headers={
                **(headers or {}),
                **({} if api_key is None else {"Authorization": f"Bearer {api_key}"}),
            },
            timeout=httpx.Timeout(connect_timeout_s, read=None, write=60.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=transport,
        )
        self._closed = False
        self._tool_format = tool_format
        self._thread = threading.Thread(target=self._loop.run_forever, name="sgl remote", daemon=True)
        self._thread.start()

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        if self._closed:
            raise ConnectionFailed("this backend was closed", place=self.base_url)
        return RemoteSession(self, options, listener)

    def info(self) -> dict[str, Any]:
        models: list[dict[str, Any]] = self._wait(self._request("GET", "/v1/models"))["data"]
        return models[0]

    def tool_format(self) -> ToolFormat | None:
        """As the server says, or as given to the constructor."""
        if self._tool_format is None:
            self._tool_format = self.info().get("tool_format")
        return None if self._tool_format is None else FORMATS.get(self._tool_format)

    def flush_cache(self) -> None:
        self._wait(self._request("POST", "/flush_cache"))

    def close(self) -> None:
        """Cancel what runs and stop the thread."""
        if self._closed:
            return
        self._closed = True
        self._wait(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _shut_down(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    # ------------------------------------------------------------------------------------------ on the loop

    def _wait(self, work: Coroutine[Any, Any, Any], timeout: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def call_soon(self, function: Any, *args: Any) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(function, *args)

    async def _request(self, method: str, path: str, content: bytes | None = None) -> Any:
        try:
            response = await self._client.request(method, path, content=content, headers=_JSON)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refusal(response.status_code, response.content)
        return msgspec.json.decode(response.content) if response.content else None

    async def post(self, path: str, body: Any) -> None:
        await self._request("POST", path, msgspec.json.encode(body))

    async def delete(self, path: str) -> None:
        await self._request("DELETE", path)

    async def events(self, body: Any) -> AsyncIterator[bytes]:
        """Data of the server-sent events that answer ``POST /v1/programs``."""
        try:
            async with self._client.stream(
                "POST", "/v1/programs", content=msgspec.json.encode(body), headers=_JSON
            ) as response:
                if response.is_error:
                    raise _refusal(response.status_code, await response.aread())
                async for data in sse_data(response.aiter_bytes()):
                    yield data
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> SglError:
        reason = str(error) or type(error).__name__
        return ConnectionFailed(
            reason, place=self.base_url, hint="is the server running? `sgl serve` starts one"
        )


_JSON = {"Content-Type": "application/json"}


class RemoteSession(Session):
    """One program on a server. Fields are used on the loop's thread only, but for `_started`."""

    def __init__(self, remote: Remote, options: ProgramOptions, listener: Listener) -> None:
        self._remote = remote
        self._options = options
        self._listener = listener
        self._queue: asyncio.Queue[tuple[Operation, ...]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._path: str | None = None
        self._over = False
        self._cancelled = False

    def send(self, operations: Sequence[Operation]) -> None:
        self._remote.call_soon(self._enqueue, tuple(operations))

    def cancel(self) -> None:
        self._remote.call_soon(self._cancel)

    def _enqueue(self, operations: tuple[Operation, ...]) -> None:
        self._queue.put_nowait(operations)
        if self._task is None and not self._over:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is None:
            self._end(Failed(error=ErrorInfo.of(Cancelled("the program was cancelled"))))
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
        whole = _is_whole(operations)  # then the server adds the end
        body = {
            "options": self._options,
            "operations": [item for item in operations if not (whole and item == End())],
            "open": not whole,
        }
        sender: asyncio.Task[None] | None = None
        try:
            async for data in self._remote.events(body):
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
                await self._remote.post(f"{self._path}/operations", {"operations": operations})
        except SglError as error:
            self._end(_failure(error))
            if self._task is not None:
                self._task.cancel()

    async def _delete(self) -> None:
        """Tell the server, for a moment; it also notices that the stream was closed."""
        if self._path is not None and not self._over:
            try:
                await asyncio.wait_for(self._remote.delete(self._path), 5)
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


def _is_whole(operations: Sequence[Operation]) -> bool:
    return any(isinstance(operation, End) and operation.branch is None for operation in operations)


def _program_id(data: bytes) -> str | None:
    """The id in the first event, which is not an `Event` of the program itself."""
    found = msgspec.json.decode(data)
    if not isinstance(found, dict) or "branch" in found or found.get("type") in ("failed", "finished"):
        return None
    return next(
        (found[key] for key in ("id", "program", "program_id") if isinstance(found.get(key), str)), None
    )


class _Error(msgspec.Struct):
    """The server's error body, in OpenAI's shape; `code` is one of ours."""

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_BY_STATUS = {400: "invalid_request", 401: "invalid_request", 404: "invalid_request", 408: "deadline_exceeded",
              429: "overloaded", 499: "cancelled", 502: "connection_failed", 503: "overloaded"}  # fmt: skip


def _refusal(status: int, body: bytes) -> SglError:
    """The error that a response with an error status stands for."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.MsgspecError:
        error = _Error(message=body[:200].decode("utf-8", "replace"))
    message = error.message or f"the server answered with status {status}"
    found = from_code(error.code, message) if isinstance(error.code, str) else None
    if found is None or type(found) is SglError:
        return from_code(_BY_STATUS.get(status, "engine_failure"), message)
    return found


async def sse_data(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events in a stream of bytes; comments and other fields are skipped."""
    buffer = bytearray()
    data: list[bytes] = []
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) > _LONGEST_EVENT:
            raise EngineFailure(f"the server sent an event of more than {_LONGEST_EVENT} bytes")
        *lines, buffer = buffer.split(b"\n")
        for raw in lines:
            line = bytes(raw).rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
