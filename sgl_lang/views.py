"""What there is to show of a program: its branches and nodes, with what came back for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sgl_lang.tree import (
    ROOT,
    BranchId,
    Chat,
    Extend,
    Fill,
    Fork,
    Gen,
    Image,
    Join,
    Node,
    NodeId,
    Placed,
    Ready,
    RequestTree,
    RoleBegin,
    RoleEnd,
    Select,
    Text,
    Tokens,
    Usage,
    Value,
)

if TYPE_CHECKING:
    from sgl_lang.execution import Execution


@dataclass(frozen=True)
class NodeView:
    """A node, the text that stands there (None: not known), and its counts. Times in seconds since the start."""

    branch: BranchId
    node: Node
    text: str | None
    usage: Usage = field(default_factory=Usage)
    tokens: int | None = None
    start: float | None = None
    end: float | None = None
    error: str | None = None
    line: str | None = None

    @property
    def generated(self) -> bool:
        return isinstance(self.node, (Gen, Select))

    @property
    def name(self) -> str:
        return getattr(self.node, "name", None) or ""

    @property
    def kind(self) -> str:
        return type(self.node).__name__.lower()


@dataclass
class BranchView:
    """A branch: its nodes, and after how many of them it forked into which branches."""

    id: BranchId
    parent: BranchId | None
    depth: int
    nodes: list[NodeView] = field(default_factory=list)
    forks: list[tuple[int, tuple[BranchId, ...]]] = field(default_factory=list)


@dataclass
class ProgramView:
    """All branches of a program, in the order in which they were made."""

    name: str
    branches: dict[BranchId, BranchView]
    usage: Usage | None = None

    def nodes(self) -> Iterator[NodeView]:
        for branch in self.branches.values():
            yield from branch.nodes


class _Known:
    """What an execution knows about nodes; nothing, for a tree that was not run."""

    def __init__(self, execution: Execution | None) -> None:
        self.ready: dict[NodeId, Ready] = dict(execution.ready) if execution else {}
        self.placed: dict[NodeId, Placed] = {}
        self.times: dict[NodeId, float] = {}
        self.execution = execution
        for at, event in execution.events if execution else ():
            if isinstance(event, Placed):
                self.placed[event.node] = event
            if isinstance(event, (Placed, Ready)):
                self.times[event.node] = at

    def view(self, branch: BranchId, node: Node) -> NodeView:
        ready, placed = self.ready.get(node.id), self.placed.get(node.id)
        usage = ready.usage if ready else Usage()
        end = self.times.get(node.id)
        place = self.execution.places.get(node.id) if self.execution else None
        return NodeView(
            branch=branch,
            node=node,
            text=self._text(node, ready, placed),
            usage=usage
            if placed is None
            else Usage(prompt_tokens=placed.tokens, cached_tokens=placed.cached),
            tokens=len(ready.tokens) if ready else placed.tokens if placed else None,
            start=None if end is None else max(0.0, end - usage.total_s),
            end=end,
            error=self.execution.node_error(node.id) if self.execution else None,
            line=None if place is None else str(place),
        )

    def _text(self, node: Node, ready: Ready | None, placed: Placed | None) -> str | None:
        if ready is not None:
            return ready.text
        if isinstance(node, Text):
            return node.text
        if isinstance(node, Value):
            source = self.ready.get(node.of)
            return None if source is None else source.text
        if placed is not None:
            return placed.text
        if isinstance(node, Chat):
            return node.messages
        return "" if isinstance(node, (RoleBegin, RoleEnd, Join, Image, Tokens)) else None


def view_of(tree: RequestTree, execution: Execution | None = None, name: str = "program") -> ProgramView:
    """What there is to show of `tree`, and of its run if there was one."""
    known = _Known(execution)
    for operation in tree.operations:
        if isinstance(operation, Fill) and operation.node not in known.ready:
            known.ready[operation.node] = Ready(branch=ROOT, node=operation.node, text=operation.text)
    branches = {ROOT: BranchView(ROOT, None, 0)}
    for operation in tree.operations:
        if isinstance(operation, Extend):
            branch = branches[operation.branch]
            branch.nodes += [known.view(operation.branch, node) for node in operation.nodes]
        elif isinstance(operation, Fork):
            parent = branches[operation.branch]
            parent.forks.append((len(parent.nodes), operation.children))
            for child in operation.children:
                branches[child] = BranchView(child, parent.id, parent.depth + 1)
    return ProgramView(name, branches, execution.usage if execution else None)
