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

__all__ = ["Mailbox", "ProgramStream", "is_last"]


def is_last(event: Event) -> bool:
    """Nothing follows `event` in its program."""
    return isinstance(event, Finished) or (isinstance(event, Failed) and event.branch is None)


class Mailbox:
    """Carries events of all programs to one event loop; however many arrive, the loop is woken once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[ProgramStream, Event]] = deque()
        self._waking = False

    def post(self, stream: ProgramStream, event: Event) -> None:
        """Called on the engine's thread. Raises `RuntimeError` if the loop is closed."""
        self._arrived.append((stream, event))
        if not self._waking:
            self._waking = True
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False
        while self._arrived:
            stream, event = self._arrived.popleft()
            stream.take(event)


class ProgramStream:
    """A program on the engine, read by one task.

    Use it as a context manager: leaving it before the last event cancels the program, whatever the reason (an error, a
    client that hung up). A reader that leaves more than `most` events unread has its program cancelled, so that it
    cannot fill the memory.
    """

    def __init__(
        self, client: EngineClient, options: ProgramOptions, mailbox: Mailbox, *, most: int = 100_000
    ) -> None:
        """Raises `Overloaded` or `EngineFailure`. Must be made on the mailbox's event loop."""
        self._client = client
        self._mailbox = mailbox
        self._unread: list[Event] = []
        self._most = most
        self._wake = asyncio.Event()
        self._over = False
        self.id = client.open(options, self._listen)

    @property
    def over(self) -> bool:
        """The last event was read (or nobody reads any more)."""
        return self._over

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
        self._unread.clear()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events, the last one included."""
        async for events in self.batches():
            for event in events:
                yield event

    async def batches(self) -> AsyncIterator[list[Event]]:
        """All events, as many at a time as have arrived; the last one ends the last batch."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            events, self._unread = self._unread, []
            if not events:
                continue
            last = is_last(events[-1])
            self._over = self._over or last
            yield events
            if last:  # not `_over`: `take` may have ended the program meanwhile, and its last event is still to come
                return

    def take(self, event: Event) -> None:
        """Called on the event loop by the mailbox."""
        if self._over:
            return
        if len(self._unread) >= self._most:
            self.cancel()
            self._over = True
            error = Overloaded(f"the client left more than {self._most} events unread", hint="read faster")
            self._unread = [Failed(error=ErrorInfo.of(error))]
        else:
            self._unread.append(event)
        self._wake.set()

    def _listen(self, event: Event) -> None:
        """Called on the engine's thread."""
        try:
            self._mailbox.post(self, event)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._client.cancel(self.id)
