"""Walks a program's operations on the client, for backends that only complete text (and for the fake one).

It keeps what each branch holds, knows which node each branch is at, and asks a *worker* for the text of a
`Gen` or `Select` by a `Want`; the worker answers by `deliver` or `fail`, at once or later, on any thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sgl_lang.backends.base import Listener, Session
from sgl_lang.errors import Cancelled, InvalidRequest, ProgramError, SglError
from sgl_lang.tree import (
    ROOT,
    BranchDone,
    BranchId,
    Cancel,
    Chat,
    Delta,
    End,
    ErrorInfo,
    Event,
    Extend,
    Failed,
    Fill,
    Finished,
    Fork,
    Gen,
    Hole,
    Image,
    Join,
    Node,
    NodeId,
    Operation,
    Placed,
    ProgramOptions,
    Ready,
    RoleBegin,
    RoleEnd,
    Select,
    Text,
    Tokens,
    Usage,
    Value,
)


class Piece(NamedTuple):
    """Part of what a branch holds. `kind`: text, generated, begin, end, image, chat."""

    kind: str
    text: str
    node: NodeId
    role: str = ""
    call_id: str | None = None
    tools: str | None = None


@dataclass
class Want:
    """A node to be answered, and what its branch holds before it."""

    branch: BranchId
    node: Gen | Select
    pieces: tuple[Piece, ...]
    options: ProgramOptions
    following: tuple[Node, ...] = ()
    """What is known already to come after it on its branch."""

    @property
    def name(self) -> str | None:
        return self.node.name

    @property
    def text(self) -> str:
        """Everything before the node, message marks left out."""
        return "".join(piece.text for piece in self.pieces if piece.kind in ("text", "generated"))

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Definitions of the tools that the conversation has, in OpenAI's form."""
        found = next((piece.tools for piece in self.pieces if piece.tools is not None), None)
        definitions: list[dict[str, Any]] = [] if found is None else json.loads(found)
        return definitions

    @property
    def in_message(self) -> bool:
        """The node stands inside a message that has not ended."""
        marks = [piece.kind for piece in self.pieces if piece.kind in ("begin", "end")]
        return bool(marks) and marks[-1] == "begin"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation before the node; text outside of messages is left out. The open message comes
        last.
        """
        found: list[dict[str, Any]] = []
        inside = False
        for piece in self.pieces:
            if piece.kind == "chat":
                found += json.loads(piece.text)
            elif piece.kind in ("begin", "end"):
                inside = piece.kind == "begin"
                if inside:
                    found.append(_begun(piece))
            elif inside:
                _add_content(found[-1], piece)
        return found


def _begun(piece: Piece) -> dict[str, Any]:
    message = {"role": piece.role, "content": ""}
    return message if piece.call_id is None else {**message, "tool_call_id": piece.call_id}


def _add_content(message: dict[str, Any], piece: Piece) -> None:
    """Content is text; with an image in it, a list of parts."""
    if piece.kind != "image" and isinstance(message["content"], str):
        message["content"] += piece.text
        return
    if isinstance(message["content"], str):
        message["content"] = [{"type": "text", "text": message["content"]}] if message["content"] else []
    part = {"type": "text", "text": piece.text}
    if piece.kind == "image":
        part = {"type": "image_url", "image_url": {"url": piece.text}}  # type: ignore[dict-item]
    message["content"].append(part)


@dataclass
class _Branch:
    id: BranchId
    pieces: list[Piece] = field(default_factory=list)
    base: int = 0
    nodes: list[Node] = field(default_factory=list)
    at: int = 0
    asked: NodeId | None = None
    ended: bool = False
    done: bool = False
    error: ErrorInfo | None = None
    children: list[BranchId] = field(default_factory=list)
    forks: list[tuple[int, BranchId]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.error is not None or (self.ended and self.at >= len(self.nodes))


class InterpretedSession(Session):
    """One program, interpreted. `ask` is called for every wanted node, outside of the lock."""

    def __init__(
        self,
        options: ProgramOptions,
        listener: Listener,
        ask: Callable[[Want], None],
        count_known: Callable[[str], int] = lambda text: 0,
    ) -> None:
        """`count_known` counts the tokens of known text, where the worker does not report them."""
        self._options = options
        self._listener = listener
        self._ask = ask
        self._count = count_known
        self._branches: dict[BranchId, _Branch] = {ROOT: _Branch(ROOT)}
        self._texts: dict[NodeId, str] = {}
        self._failed: dict[NodeId, ErrorInfo] = {}
        self._where: dict[NodeId, BranchId] = {}
        self._wants: list[Want] = []
        self._events: list[Event] = []
        self._usage = Usage()
        self._over = False
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._telling = threading.RLock()
        self.cancelled = threading.Event()

    # ---------------------------------------------------------------------------------------- from the client

    def send(self, operations: Sequence[Operation]) -> None:
        with self._lock:
            for operation in operations:
                if self._over:
                    return
                try:
                    self._apply(operation)
                except SglError as error:
                    self._end_program(error)
            self._walk()
        self._tell()

    def cancel(self) -> None:
        self.cancelled.set()
        with self._lock:
            self._end_program(Cancelled("the program was cancelled"))
        self._tell()

    # ---------------------------------------------------------------------------------------- from the worker

    def delta(self, want: Want, text: str) -> None:
        """More text of a node."""
        with self._lock:
            if self._options.stream and text and self._waits_for(want):
                self._events.append(Delta(branch=want.branch, node=want.node.id, text=text))
        self._tell()

    def deliver(self, want: Want, ready: Ready) -> None:
        """The result of a node."""
        with self._lock:
            if not self._waits_for(want):
                return
            branch = self._branches[want.branch]
            self._texts[ready.node] = ready.text
            self._usage = add_usage(self._usage, ready.usage)
            branch.pieces.append(Piece("generated", ready.text, ready.node))
            branch.at, branch.asked = branch.at + 1, None
            self._events.append(ready)
            self._walk()
        self._tell()

    def fail(self, want: Want, error: SglError) -> None:
        """The failure of a node; ends its branch."""
        with self._lock:
            if self._waits_for(want):
                self._fail_node(self._branches[want.branch], want.node.id, ErrorInfo.of(error))
                self._walk()
        self._tell()

    def _waits_for(self, want: Want) -> bool:
        branch = self._branches[want.branch]
        return not self._over and branch.error is None and branch.asked == want.node.id

    # ------------------------------------------------------------------------------------------ operations

    def _apply(self, operation: Operation) -> None:
        if isinstance(operation, Extend):
            branch = self._branch(operation.branch)
            branch.nodes += operation.nodes
            for node in operation.nodes:
                if node.id in self._where:
                    raise InvalidRequest(f"node {node.id} exists already", place="extend")
                self._where[node.id] = branch.id
        elif isinstance(operation, Fork):
            parent = self._branch(operation.branch)
            for child in operation.children:
                if child in self._branches:
                    raise InvalidRequest(f"branch {child} exists already", place="fork")
                self._branches[child] = _Branch(child)
                parent.forks.append((len(parent.nodes), child))
                parent.children.append(child)
                self._branches[child].at = -1  # not begun
        elif isinstance(operation, Fill):
            self._texts[operation.node] = operation.text
        elif isinstance(operation, End):
            branches = (
                self._branches.values() if operation.branch is None else [self._branch(operation.branch)]
            )
            for branch in branches:
                branch.ended = True
        elif isinstance(operation, Cancel):
            if operation.branch is None:
                raise Cancelled("the program was cancelled")
            self._cancel_branch(self._branch(operation.branch))

    def _branch(self, branch: BranchId) -> _Branch:
        if branch not in self._branches:
            raise InvalidRequest(f"unknown branch {branch}", place="operation")
        return self._branches[branch]

    def _cancel_branch(self, branch: _Branch) -> None:
        if not branch.finished:
            self._fail_branch(branch, ErrorInfo(code=Cancelled.code, message="the branch was cancelled"))
        for child in branch.children:
            self._cancel_branch(self._branches[child])

    # ------------------------------------------------------------------------------------------ walking

    def _walk(self) -> None:
        """Go on with every branch as far as it can; then see whether the program is over."""
        moved = not self._over
        while moved:
            moved = False
            for branch in list(self._branches.values()):
                while branch.error is None and branch.at >= 0 and self._step(branch):
                    moved = True
        if not self._over and all(branch.finished for branch in self._branches.values()):
            self._over = True
            total = time.monotonic() - self._started
            self._events.append(Finished(usage=add_usage(self._usage, Usage(total_s=total))))

    def _step(self, branch: _Branch) -> bool:
        """One node of `branch`; False if it has to wait."""
        if self._begin_children(branch):
            return True
        if branch.at >= len(branch.nodes):
            if branch.ended and not branch.done:
                branch.done = True
                self._events.append(BranchDone(branch=branch.id))
            return False
        node = branch.nodes[branch.at]
        if isinstance(node, (Gen, Select)):
            self._want(branch, node)
            return False
        pieces = self._pieces(branch, node)
        if pieces is None:
            return False
        if self._options.trace:
            text = "".join(piece.text for piece in pieces)
            self._events.append(
                Placed(branch=branch.id, node=node.id, text=text, tokens=self._count(text), cached=0)
            )
        self._usage = add_usage(
            self._usage, Usage(prompt_tokens=sum(self._count(piece.text) for piece in pieces))
        )
        branch.pieces += pieces
        branch.at += 1
        return True

    def _begin_children(self, branch: _Branch) -> bool:
        begun = [pair for pair in branch.forks if pair[0] <= branch.at]
        for pair in begun:
            branch.forks.remove(pair)
            child = self._branches[pair[1]]
            if child.error is None:
                child.pieces = list(branch.pieces)
                child.base = len(child.pieces)
                child.at = 0
        return bool(begun)

    def _want(self, branch: _Branch, node: Gen | Select) -> None:
        if branch.asked is None:
            branch.asked = node.id
            self._wants.append(
                Want(
                    branch.id, node, tuple(branch.pieces), self._options, tuple(branch.nodes[branch.at + 1 :])
                )
            )

    def _pieces(self, branch: _Branch, node: Node) -> list[Piece] | None:
        """What a known node adds to its branch; None if it is not known yet (or its branch failed)."""
        if isinstance(node, Text):
            return [Piece("text", node.text, node.id)]
        if isinstance(node, Chat):
            return [Piece("chat", node.messages, node.id)]
        if isinstance(node, RoleBegin):
            return [Piece("begin", "", node.id, node.role, node.call_id, node.tools)]
        if isinstance(node, RoleEnd):
            return [Piece("end", "", node.id)]
        if isinstance(node, Image):
            return [Piece("image", node.url, node.id)]
        if isinstance(node, Tokens):
            raise InvalidRequest("token ids mean nothing to this backend", place="tokens")
        if isinstance(node, Join):
            return self._joined(branch, node)
        assert isinstance(node, (Value, Hole))
        return self._known_text(branch, node)

    def _known_text(self, branch: _Branch, node: Value | Hole) -> list[Piece] | None:
        source = node.of if isinstance(node, Value) else node.id
        if source in self._failed:
            self._fail_node(branch, node.id, self._failed[source])
            return None
        text = self._texts.get(source)
        if text is None and source in self._where:
            error = self._branches[self._where[source]].error
            if error is not None:
                self._fail_node(branch, node.id, error)
        return None if text is None else [Piece("text", text, node.id)]

    def _joined(self, branch: _Branch, node: Join) -> list[Piece] | None:
        children = [self._branches[child] for child in node.branches]
        failed = [child for child in children if child.error is not None]
        done = [child for child in children if child.finished and child.error is None]
        enough = len(children) if node.first is None else min(node.first, len(children))
        if len(children) - len(failed) < enough:
            self._fail_node(branch, node.id, _first_real(failed))
            return None
        if len(done) < enough:
            return None
        for child in children:
            if child not in done:
                self._cancel_branch(child)
        if node.mode == "gather":
            return []
        return [piece for child in done for piece in child.pieces[child.base :]]

    # ------------------------------------------------------------------------------------------ endings

    def _fail_node(self, branch: _Branch, node: NodeId, error: ErrorInfo) -> None:
        self._failed[node] = error
        self._events.append(Failed(error=error, branch=branch.id, node=node))
        self._stop_branch(branch, error)

    def _fail_branch(self, branch: _Branch, error: ErrorInfo) -> None:
        self._events.append(Failed(error=error, branch=branch.id))
        self._stop_branch(branch, error)

    def _stop_branch(self, branch: _Branch, error: ErrorInfo) -> None:
        """Children that were not begun yet fail with their parent."""
        branch.error = error
        for _, child in branch.forks:
            if self._branches[child].error is None:
                self._fail_branch(self._branches[child], error)

    def _end_program(self, error: SglError) -> None:
        if not self._over:
            self._over = True
            self._events.append(Failed(error=ErrorInfo.of(error)))

    def _tell(self) -> None:
        """Hand events to the listener, in order, and wants to the worker; neither under the lock."""
        with self._telling:
            while True:
                with self._lock:
                    events, self._events = self._events, []
                    wants, self._wants = self._wants, []
                if not events and not wants:
                    return
                for event in events:
                    self._listener(event)
                for want in wants:
                    self._ask(want)


def _first_real(failed: list[_Branch]) -> ErrorInfo:
    errors = [branch.error for branch in failed if branch.error is not None]
    real = [error for error in errors if error.code != Cancelled.code]
    return (real or errors or [ErrorInfo(code=ProgramError.code, message="nothing to join")])[0]


def count(text: str) -> int:
    """Words, as a stand-in for tokens where there is no tokenizer."""
    return len(text.split())


def add_usage(one: Usage, two: Usage) -> Usage:
    """The sum of two usages, field by field."""
    return Usage(**{name: getattr(one, name) + getattr(two, name) for name in Usage.__struct_fields__})


def words(text: str) -> Iterator[str]:
    """`text` in pieces that end after a blank."""
    start = 0
    for at, char in enumerate(text):
        if char == " ":
            yield text[start : at + 1]
            start = at + 1
    if start < len(text):
        yield text[start:]
