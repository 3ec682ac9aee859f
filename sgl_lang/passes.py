"""Passes over request trees: each takes a tree and gives one that means the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgl_grammars.spec import Choice
from sgl_lang.tree import (
    ROOT,
    BranchId,
    Cancel,
    Chat,
    End,
    Extend,
    Fill,
    Fork,
    Gen,
    Hole,
    Join,
    Node,
    NodeId,
    Operation,
    RequestTree,
    RoleBegin,
    RoleEnd,
    Select,
    Text,
    Tokens,
    Value,
)

__all__ = ["drop_dead_branches", "merge_text", "optimise", "shared_prefix", "splice_known"]


def optimise(
    tree: RequestTree, *, splice: bool = True, dead_branches: bool = True, merge: bool = True
) -> RequestTree:
    """All passes that are switched on, in the order in which they help each other."""
    if splice:
        tree = splice_known(tree)
    if dead_branches:
        tree = drop_dead_branches(tree)
    return merge_text(tree) if merge else tree


def _with(tree: RequestTree, operations: Sequence[Operation]) -> RequestTree:
    return RequestTree(version=tree.version, options=tree.options, operations=tuple(operations))


# ----------------------------------------------------------------------------------------------------- merge text


def merge_text(tree: RequestTree) -> RequestTree:
    """Adjacent `Extend`s of a branch become one; adjacent constant texts become one node."""
    operations: list[Operation] = []
    for operation in tree.operations:
        last = operations[-1] if operations else None
        if isinstance(operation, Extend) and isinstance(last, Extend) and last.branch == operation.branch:
            operation = Extend(branch=last.branch, nodes=last.nodes + operation.nodes)
            operations.pop()
        if isinstance(operation, Extend):
            operation = Extend(branch=operation.branch, nodes=_merged(operation.nodes))
        operations.append(operation)
    return _with(tree, operations)


def _merged(nodes: Sequence[Node]) -> tuple[Node, ...]:
    merged: list[Node] = []
    for node in nodes:
        last = merged[-1] if merged else None
        if isinstance(node, Text) and isinstance(last, Text) and last.special == node.special:
            merged[-1] = Text(id=last.id, text=last.text + node.text, special=node.special)
        else:
            merged.append(node)
    return tuple(merged)


# ---------------------------------------------------------------------------------------------- splice references


def splice_known(tree: RequestTree, known: Mapping[NodeId, str] | None = None) -> RequestTree:
    """References to text that is known before anything runs become that text.

    Known are `known`, filled holes, selects of one choice, and gens held to one choice.
    """
    texts = {**_known_texts(tree), **(known or {})}

    def spliced(node: Node) -> Node:
        if isinstance(node, Value) and node.of in texts:
            return Text(id=node.id, text=texts[node.of])
        return node

    return _with(
        tree,
        [
            Extend(branch=operation.branch, nodes=tuple(spliced(node) for node in operation.nodes))
            if isinstance(operation, Extend)
            else operation
            for operation in tree.operations
        ],
    )


def _known_texts(tree: RequestTree) -> dict[NodeId, str]:
    texts = {operation.node: operation.text for operation in tree.operations if isinstance(operation, Fill)}
    for _, node in tree.nodes():
        if isinstance(node, Select) and len(node.choices) == 1:
            texts[node.id] = node.choices[0]
        elif (
            isinstance(node, Gen)
            and isinstance(node.constraint, Choice)
            and len(node.constraint.choices) == 1
        ):
            texts[node.id] = node.constraint.choices[0]
    return texts


# ------------------------------------------------------------------------------------------------- dead branches


def drop_dead_branches(tree: RequestTree) -> RequestTree:
    """Branches that generate nothing, and that no join waits for, are left out, with all that was forked from them."""
    dead = _dead_branches(tree)
    operations: list[Operation] = []
    for operation in tree.operations:
        if isinstance(operation, Fork):
            children = tuple(child for child in operation.children if child not in dead)
            if children and operation.branch not in dead:
                operations.append(Fork(branch=operation.branch, children=children))
        elif not isinstance(operation, (Extend, End, Cancel)) or operation.branch not in dead:
            operations.append(operation)
    return _with(tree, operations)


def _dead_branches(tree: RequestTree) -> set[BranchId]:
    parents: dict[BranchId, BranchId] = {}
    alive: set[BranchId] = {ROOT}
    for operation in tree.operations:
        if isinstance(operation, Fork):
            parents.update(dict.fromkeys(operation.children, operation.branch))
    for branch, node in tree.nodes():
        if isinstance(node, (Gen, Select, Hole)):
            alive.add(branch)
        elif isinstance(node, Join):
            alive.update((branch, *node.branches))
    for branch in list(alive):
        while branch in parents:
            branch = parents[branch]
            alive.add(branch)
    return set(parents) - alive


# --------------------------------------------------------------------------------------------------- hoist prefix


def shared_prefix(trees: Sequence[RequestTree]) -> RequestTree | None:
    """The constant beginning that all `trees` have in common, as a program that generates nothing.

    Running it once first puts the prefix into the cache before the programs of a batch ask for it. None if there is
    nothing in common. A text that differs further on is shared up to its last common white space, so that the
    shared part is tokenised as it is in the whole.
    """
    if len(trees) < 2:
        return None
    prefix = _constant_nodes(trees[0])
    for tree in trees[1:]:
        prefix = _common(prefix, _constant_nodes(tree))
    if not prefix:
        return None
    return _with(trees[0], [Extend(branch=ROOT, nodes=tuple(prefix)), End()])


def _constant_nodes(tree: RequestTree) -> list[Node]:
    found: list[Node] = []
    for branch, node in tree.nodes():
        if branch != ROOT:
            continue
        if not isinstance(node, (Text, Tokens, Chat, RoleBegin, RoleEnd)):
            break
        found.append(node)
    return found


def _common(left: list[Node], right: list[Node]) -> list[Node]:
    shared: list[Node] = []
    for one, two in zip(left, right, strict=False):
        if _content(one) == _content(two):
            shared.append(one)
            continue
        if isinstance(one, Text) and isinstance(two, Text) and one.special == two.special:
            text = _common_text(one.text, two.text)
            if text:
                shared.append(Text(id=one.id, text=text, special=one.special))
        break
    return shared


def _content(node: Node) -> Any:
    return (type(node), *(getattr(node, name) for name in node.__struct_fields__ if name != "id"))


def _common_text(left: str, right: str) -> str:
    size = 0
    for one, two in zip(left, right, strict=False):
        if one != two:
            break
        size += 1
    while size and not left[size - 1].isspace():
        size -= 1
    return left[:size].rstrip()
