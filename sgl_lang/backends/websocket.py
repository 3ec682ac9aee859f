"""Our server over a WebSocket: one socket carries all programs of a `Remote`, told apart by tags.

The socket is opened by the first program and again after it was lost; the programs that it carried then fail.
Everything here runs on the thread of the backend's `HttpLoop`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from sgl_lang.backends.base import Listener
from sgl_lang.backends.http import HttpLoop, refusal
from sgl_lang.backends.wire import WireSession, failure, opening
from sgl_lang.errors import Cancelled, ConnectionFailed, EngineFailure, SglError, UnsupportedFeature
from sgl_lang.tree import ErrorInfo, Event, Operation, ProgramOptions

__all__ = ["SocketLink", "SocketSession"]

_PATH = "/v1/programs/ws"
_LONGEST_MESSAGE = 64 << 20
_SILENCE_S = 60.0
"""A server that answers no ping for so long is gone."""
_EVENT: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class _Message(msgspec.Struct):
    """What the server sends: events of one program, or why a message was refused."""

    tag: str | None = None
    events: list[msgspec.Raw] = []
    error: ErrorInfo | None = None


_messages = msgspec.json.Decoder(_Message)


class SocketLink:
    """The socket of one backend."""

    def __init__(self, http: HttpLoop, headers: dict[str, str], connect_timeout_s: float) -> None:
        """Raises `UnsupportedFeature` if the package ``websockets`` is missing."""
        try:
            import websockets.asyncio.client as client
            import websockets.exceptions as errors
        except ImportError as error:
            raise UnsupportedFeature(
                "the package websockets is not installed",
                place="transport",
                hint='pip install "sgl-lang[server]", or transport="http"',
            ) from error
        self._client, self._errors = client, errors
        self.http = http
        self._headers = headers
        self._timeout_s = connect_timeout_s
        self._sessions: dict[str, SocketSession] = {}
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._count = 0

    def join(self, session: SocketSession) -> str:
        """A tag for a new program."""
        self._count += 1
        tag = str(self._count)
        self._sessions[tag] = session
        return tag

    def leave(self, tag: str) -> None:
        self._sessions.pop(tag, None)

    def post(self, message: dict[str, Any]) -> None:
        """Send `message`, when the socket is there."""
        if self._task is None:
            self._unsent = asyncio.Queue()
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._unsent.put_nowait(msgspec.json.encode(message).decode())

    async def _run(self) -> None:
        """The life of one socket; its end is told to all programs on it."""
        try:
            await self._exchange()
            error: SglError = self._lost("the server closed the socket")
        except SglError as refused:
            error = refused
        except asyncio.CancelledError:
            error = Cancelled("the backend was closed")
        except self._errors.InvalidStatus as refused:
            error = refusal(refused.response.status_code, bytes(refused.response.body or b""))
        except (OSError, asyncio.TimeoutError, self._errors.WebSocketException) as broken:
            error = self._lost(str(broken) or type(broken).__name__)
        except Exception as broken:
            error = EngineFailure(f"{type(broken).__name__}: {broken}")
        self._task = None
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.fail(error)

    def _lost(self, reason: str) -> ConnectionFailed:
        return ConnectionFailed(reason, place=self.http.base_url, hint=self.http.hint)

    async def _exchange(self) -> None:
        connection = self._client.connect(
            "ws" + self.http.base_url.removeprefix("http") + _PATH,
            additional_headers=self._headers,
            open_timeout=self._timeout_s,
            close_timeout=2,
            ping_timeout=_SILENCE_S,
            max_size=_LONGEST_MESSAGE,
            compression=None,
        )
        async with connection as socket:
            sender = asyncio.get_running_loop().create_task(self._send(socket))
            try:
                async for data in socket:
                    self._deliver(data)
            finally:
                sender.cancel()

    async def _send(self, socket: Any) -> None:
        """Forward messages in order. The reader notices when the socket is gone."""
        try:
            while True:
                await socket.send(await self._unsent.get())
        except self._errors.ConnectionClosed:
            return

    def _deliver(self, data: str | bytes) -> None:
        message = _messages.decode(data)
        session = None if message.tag is None else self._sessions.get(message.tag)
        if session is None:  # a program that the client has left
            return
        try:
            for event in message.events:
                session.hear(event)
            if message.error is not None:
                session.give_up(message.error.to_error())
        except Exception as error:  # of this program only
            session.give_up(EngineFailure(f"{type(error).__name__}: {error}"))


class SocketSession(WireSession):
    """One program on a socket."""

    def __init__(self, link: SocketLink, options: ProgramOptions, listener: Listener) -> None:
        super().__init__(link.http, options, listener)
        self._link = link
        self._tag: str | None = None
        self._started = False

    def hear(self, data: msgspec.Raw) -> None:
        """An event; the first one carries the program's id, of which a socket has no need."""
        if not self._started:
            self._started = True
            return
        self._tell(_EVENT.decode(data))
        if self._over:
            self._leave()

    def fail(self, error: SglError) -> None:
        """End the program here."""
        self._end(failure(error))

    def give_up(self, error: SglError) -> None:
        """End the program, here and on the server."""
        self._stop()
        self.fail(error)

    def _enqueue(self, operations: tuple[Operation, ...]) -> None:
        if self._over:
            return
        if self._tag is None:
            self._tag = self._link.join(self)
            self._link.post({"type": "begin", "tag": self._tag, **opening(self._options, operations)})
        else:
            self._link.post({"type": "operations", "tag": self._tag, "operations": operations})

    def _cancel(self) -> None:
        if not self._over:
            self.give_up(Cancelled("the program was cancelled"))

    def _stop(self) -> None:
        if self._tag is not None:
            self._link.post({"type": "cancel", "tag": self._tag})
            self._leave()

    def _leave(self) -> None:
        if self._tag is not None:
            self._link.leave(self._tag)
