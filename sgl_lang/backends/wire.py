"""What programs on a server have in common, whatever carries their events."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sgl_lang.backends.base import Listener, Session
from sgl_lang.backends.http import HttpLoop
from sgl_lang.errors import SglError
from sgl_lang.tree import End, ErrorInfo, Event, Failed, Finished, Operation, ProgramOptions

__all__ = ["WireSession", "failure", "opening", "started"]


class WireSession(Session):
    """One program on a server: its last event is told once. All fields are used on the loop's thread only."""

    def __init__(self, http: HttpLoop, options: ProgramOptions, listener: Listener) -> None:
        self._http = http
        self._options = options
        self._listener = listener
        self._over = False

    def send(self, operations: Sequence[Operation]) -> None:
        self._http.call_soon(self._enqueue, tuple(operations))

    def cancel(self) -> None:
        self._http.call_soon(self._cancel)

    def _enqueue(self, operations: tuple[Operation, ...]) -> None:
        raise NotImplementedError

    def _cancel(self) -> None:
        raise NotImplementedError

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


def failure(error: SglError) -> Failed:
    """The last event of a program that failed."""
    return Failed(error=ErrorInfo.of(error))


def opening(options: ProgramOptions, operations: Sequence[Operation]) -> dict[str, object]:
    """What begins a program. With an `End` among its first operations it is whole, and the server adds the end."""
    whole = End() in operations
    first = [item for item in operations if not (whole and item == End())]
    return {"options": options, "operations": first, "open": not whole}


def started(data: bytes) -> str | None:
    """The id in a program's first event, which is not an event of the program itself; else None."""
    found = msgspec.json.decode(data)
    if not isinstance(found, dict) or found.get("type") != "program":
        return None
    return str(found["id"])
