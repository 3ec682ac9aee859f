"""From the engine's thread into asyncio: one program as an asynchronous stream of events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from typing_extensions import Self

from sgl_lang.errors import Overloaded
from sgl_lang.tree import ErrorInfo, Event, Failed, Finished, Operation, ProgramOptions
from sgl_runtime.engine.client import EngineClient

__all__ = ["ProgramStream", "is_last"]


def is_last(event: Event) -> bool:
    """Nothing follows `event` in its program."""
    return isinstance(event, Finished) or (isinstance(event, Failed) and event.branch is None)


class ProgramStream:
    """A program on the engine, read by one task.

    Use it as a context manager: leaving it before the last event cancels the program, whatever the reason
    (an error, a client that hung up). A reader that leaves more than `most` events unread has its program
    cancelled, so that it cannot fill the memory.
    """

    def __init__(self, client: EngineClient, options: ProgramOptions, *, most: int = 100_000) -> None:
        """Raises `Overloaded` or `EngineFailure`. Must be made on a running event loop."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Event] = deque()
        self._most = most
        self._wake = asyncio.Event()
        self._waking = False
        self._over = False
        self._slow = False
        self.id = client.open(options, self._listen)

    def send(self, operations: Sequence[Operation]) -> None:
        self._client.send(self.id, operations)

    def cancel(self) -> None:
        if not self._over:
            self._client.cancel(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        self._over = True

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events, the last one included."""
        while True:
            event = await self.next()
            yield event
            if is_last(event):
                return

    async def next(self) -> Event:
        """The next event; must not be called after the last one."""
        while not self._arrived:
            self._wake.clear()
            if not self._arrived:
                await self._wake.wait()
        if self._slow:
            self._over = True
            error = Overloaded(f"the client left more than {self._most} events unread", hint="read faster")
            return Failed(error=ErrorInfo.of(error))
        event = self._arrived.popleft()
        self._over = is_last(event)
        return event

    def _listen(self, event: Event) -> None:
        """Called on the engine's thread; one wake-up of the loop serves all events until it runs."""
        if self._over or self._slow:
            return
        if len(self._arrived) >= self._most:
            self._slow = True
            self._client.cancel(self.id)
        self._arrived.append(event)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._awake)
            except RuntimeError:  # the loop is closed: nobody reads any more
                self._slow = True
                self._client.cancel(self.id)

    def _awake(self) -> None:
        self._waking = False
        self._wake.set()
