"""Text and events of a running program, as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from sgl_lang.errors import SglError
from sgl_lang.refs import Ref, Refs, Span
from sgl_lang.tree import Event

if TYPE_CHECKING:
    from sgl_lang.execution import Execution
    from sgl_lang.state import ProgramState


class TextStream:
    """What is new in a growing list of items (constant texts and nodes) since the last look."""

    def __init__(self, execution: Execution, items: list[Any], growing: bool) -> None:
        self._execution = execution
        self._items = items
        self._growing = growing
        self._at = 0
        self._given = 0

    @property
    def over(self) -> bool:
        """Nothing will be added any more, and all was given."""
        return self._at >= len(self._items) and (not self._growing or self._execution.ended)

    def news(self) -> bool:
        return self.over or bool(self._next())

    def take(self) -> list[str]:
        """The new pieces; moves on."""
        pieces = []
        while piece := self._next():
            text, last = piece
            self._given += len(text)
            if last:
                self._at, self._given = self._at + 1, 0
            if text:
                pieces.append(text)
        return pieces

    def _next(self) -> tuple[str, bool] | None:
        """New text of the item at hand, and whether that ends the item; None if there is none."""
        if self._at >= len(self._items):
            return None
        item = self._items[self._at]
        if isinstance(item, str):
            return item, True
        if not isinstance(item, int):  # the begin or end of a message
            return "", True
        try:
            ready = self._execution.outcome(item)
        except SglError:
            self._execution.raise_failure()
            raise
        if ready is not None:
            return ready.text[self._given :], True
        text = self._execution.partial.get(item, "")[self._given :]
        return (text, False) if text else None


def text_iter(state: ProgramState, var: str | None, timeout: float | None) -> Iterator[str]:
    """See `ProgramState.text_iter`. Raises the program's error where the text ends."""
    execution = state.execution
    if var is not None:
        execution.wait_until(lambda: var in state or execution.ended, timeout)
    stream = _stream(state, var)
    while True:
        yield from stream.take()
        if stream.over:
            break
        execution.wait_until(stream.news, timeout)
    _finish(execution, whole=var is None)


async def text_async_iter(state: ProgramState, var: str | None, timeout: float | None) -> AsyncIterator[str]:
    """See `ProgramState.text_async_iter`."""
    execution = state.execution
    if var is not None:
        await execution.wait_until_async(lambda: var in state or execution.ended, timeout)
    stream = _stream(state, var)
    while True:
        for piece in stream.take():
            yield piece
        if stream.over:
            break
        await execution.wait_until_async(stream.news, timeout)
    _finish(execution, whole=var is None)


def _stream(state: ProgramState, var: str | None) -> TextStream:
    if var is None:
        return TextStream(state.execution, state._items, growing=True)
    state.execution.raise_failure()
    value = state.named(var)
    if type(value) is Refs:
        value = value[0]
    items = list(value._nodes()) if type(value) in (Ref, Span) else [str(value)]
    return TextStream(state.execution, items, growing=False)


def _finish(execution: Execution, whole: bool) -> None:
    execution.raise_failure()
    if whole:
        execution.wait_done()
        execution.raise_unseen()


async def async_events(execution: Execution, timeout: float | None) -> AsyncIterator[Event]:
    """See `ProgramState.async_events`."""
    seen = 0
    while True:
        over = execution.done  # asked first: what comes with the end is still given
        while seen < len(execution.events):
            yield execution.events[seen][1]
            seen += 1
        if over:
            break
        await execution.wait_until_async(partial(_more_events, execution, seen), timeout)
    execution.raise_failure()


def _more_events(execution: Execution, seen: int) -> bool:
    return len(execution.events) > seen or execution.done


def events(execution: Execution, timeout: float | None) -> Iterator[Event]:
    """See `ProgramState.events`."""
    seen = 0
    while True:
        over = execution.done  # asked first: what comes with the end is still given
        while seen < len(execution.events):
            yield execution.events[seen][1]
            seen += 1
        if over:
            break
        execution.wait_until(partial(_more_events, execution, seen), timeout)
    execution.raise_failure()
