"""Several backends in order: where one fails, or cannot do a node, the next goes on with what is known so far."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from sgl_grammars.tools import ToolFormat
from sgl_lang.backends.base import NODES, Backend, Capabilities, Listener, Session
from sgl_lang.errors import Cancelled, InvalidRequest, SglError, UnsupportedFeature, from_code
from sgl_lang.tree import (
    BranchDone,
    BranchId,
    Delta,
    ErrorInfo,
    Event,
    Extend,
    Failed,
    Gen,
    Node,
    NodeId,
    Operation,
    ProgramOptions,
    Ready,
    Select,
    Text,
    Value,
)

__all__ = ["Fallback"]


class _AnyOf(Capabilities, frozen=True):
    """What at least one of several backends can do."""

    members: tuple[Capabilities, ...] = ()

    def check(self, node: Node) -> None:
        refused: SglError | None = None
        for member in self.members:
            try:
                member.check(node)
            except UnsupportedFeature as error:
                refused = error
            else:
                return
        if refused is not None:
            raise refused


class Fallback(Backend):
    """`sgl.Fallback([a, b])`: run on a; on an error that another attempt can help, or a node a cannot do, go on with b.

    Values that were generated already stay; the next backend gets them as known text.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        if not backends:
            raise InvalidRequest("needs at least one backend", place="Fallback")
        self.backends = tuple(backends)
        members = tuple(backend.capabilities for backend in backends)
        self.capabilities = _AnyOf("fallback", nodes=frozenset(NODES.values()), members=members)

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        return _FallbackSession(self.backends, options, listener)

    def info(self) -> dict[str, Any]:
        return {"name": "fallback", "backends": [backend.info() for backend in self.backends]}

    def tool_format(self) -> ToolFormat | None:
        return next((style for style in (backend.tool_format() for backend in self.backends) if style), None)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


class _FallbackSession(Session):
    """One program; `_lock` guards the fields and is not held while a backend is called."""

    def __init__(self, backends: tuple[Backend, ...], options: ProgramOptions, listener: Listener) -> None:
        self._backends = backends
        self._options = options
        self._listener = listener
        self._operations: list[Operation] = []
        self._texts: dict[NodeId, str] = {}
        self._given: dict[NodeId, str] = {}  # what the backend at hand got as text, as it was known before
        self._done: set[BranchId] = set()
        self._at = 0
        self._session: Session | None = None
        self._over = False
        self._switching = False
        self._lock = threading.RLock()
        self._sending = threading.RLock()

    def send(self, operations: Sequence[Operation]) -> None:
        with self._sending:
            self._operations += operations
            try:
                if self._session is None:
                    self._start()
                elif self._first_able(operations, self._at) != self._at:
                    self._switch(
                        UnsupportedFeature(f"{self._backends[self._at].capabilities.name} cannot do it")
                    )
                else:
                    self._session.send([self._with_known(operation) for operation in operations])
            except SglError as error:
                self._end(error)

    def cancel(self) -> None:
        with self._sending:
            if self._session is not None:
                self._session.cancel()
            self._end(Cancelled("the program was cancelled"))

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    # ------------------------------------------------------------------------------------------ switching

    def _start(self) -> None:
        """Open a session on the first backend from `_at` on that can do all, and hand over what is known."""
        while True:
            self._at = self._first_able(self._operations, self._at)
            self._switching = False
            self._given = dict(self._texts)
            try:
                self._session = self._backends[self._at].open(
                    self._options, partial(self._on_event, self._at)
                )
            except SglError as error:
                if not self._may_go_on(error):
                    raise
                self._at += 1
                continue
            self._session.send([self._with_known(operation) for operation in self._operations])
            return

    def _first_able(self, operations: Sequence[Operation], start: int) -> int:
        refused: SglError | None = None
        for at in range(start, len(self._backends)):
            try:
                for operation in operations:
                    for node in operation.nodes if isinstance(operation, Extend) else ():
                        self._backends[at].capabilities.check(node)
            except UnsupportedFeature as error:
                refused = error
            else:
                return at
        raise refused or UnsupportedFeature("no backend is left", place="Fallback")

    def _may_go_on(self, error: SglError) -> bool:
        return (error.retryable or isinstance(error, UnsupportedFeature)) and self._at + 1 < len(
            self._backends
        )

    def _switch(self, reason: SglError) -> None:
        old, self._session = self._session, None
        self._switching = True
        self._at += 1
        if old is not None:
            old.cancel()
            old.close()
        try:
            self._start()
        except SglError as error:
            error.__cause__ = reason
            self._end(error)

    def _with_known(self, operation: Operation) -> Operation:
        if not isinstance(operation, Extend):
            return operation
        return Extend(branch=operation.branch, nodes=tuple(self._known(node) for node in operation.nodes))

    def _known(self, node: Node) -> Node:
        source = node.of if isinstance(node, Value) else node.id if isinstance(node, (Gen, Select)) else None
        if source is None or source not in self._given:
            return node
        return Text(id=node.id, text=self._given[source])

    # ------------------------------------------------------------------------------------------ events

    def _on_event(self, at: int, event: Event) -> None:
        with self._lock:
            if self._over or self._switching or at != self._at:
                return
            if isinstance(event, Ready):
                self._texts[event.node] = event.text
            if isinstance(event, BranchDone):
                if event.branch in self._done:
                    return
                self._done.add(event.branch)
            if isinstance(event, Failed):
                error = from_code(event.error.code, event.error.message)
                if self._may_go_on(error):
                    self._switching = True
                    # never on the backend's own thread: it may hold locks, or be the one that has to answer
                    threading.Thread(target=self._switch_from, args=(at, error), daemon=True).start()
                    return
        if not isinstance(event, Delta) or event.node not in self._given:
            self._listener(event)

    def _switch_from(self, at: int, reason: SglError) -> None:
        with self._sending:
            if at == self._at and not self._over:
                self._switch(reason)

    def _end(self, error: SglError) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._listener(Failed(error=ErrorInfo.of(error)))
