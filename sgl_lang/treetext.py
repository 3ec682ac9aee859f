"""The exact text form of a request tree: a line per node or operation, in stream order.

::

    0 role_begin user                 a node of branch 0 (ids only where something refers to them)
    0 text "Hello"
    0 gen #3 city max_tokens=16 regex="[A-Z][a-z]+"
    0 fork 1 2
    1 value #3
    0 join 1 2 gather
    end                               of the program
"""

from __future__ import annotations

import json
from typing import Any

from sgl_lang.tree import (
    Cancel,
    Chat,
    End,
    Extend,
    Fill,
    Fork,
    Gen,
    Hole,
    Image,
    Join,
    Node,
    Operation,
    RequestTree,
    RoleBegin,
    RoleEnd,
    SamplingParams,
    Select,
    Text,
    Tokens,
    Value,
)

_DEFAULTS = SamplingParams()


def tree_text(tree: RequestTree) -> str:
    """All of `tree` but its options, exactly; equal texts mean equal programs up to unreferenced node ids."""
    return "".join(f"{line}\n" for operation in tree.operations for line in operation_lines(operation))


def operation_lines(operation: Operation) -> list[str]:
    if isinstance(operation, Extend):
        return [f"{operation.branch} {node_text(node)}" for node in operation.nodes]
    if isinstance(operation, Fork):
        return [f"{operation.branch} fork {_ids(operation.children)}"]
    if isinstance(operation, Fill):
        return [f"fill #{operation.node} {_quoted(operation.text)}"]
    word = "end" if isinstance(operation, End) else "cancel"
    assert isinstance(operation, (End, Cancel))
    return [word if operation.branch is None else f"{operation.branch} {word}"]


def node_text(node: Node) -> str:
    """One node on one line."""
    if isinstance(node, Text):
        return f"text {_quoted(node.text)}{' special' if node.special else ''}"
    if isinstance(node, Gen):
        return f"gen #{node.id}{_name(node.name)}{_sampling(node.sampling)}{_constraint(node.constraint)}"
    if isinstance(node, Select):
        options = "" if node.temperature == 0 else f" temperature={node.temperature:g}"
        options += "" if node.seed is None else f" seed={node.seed}"
        choices = json.dumps(node.choices, ensure_ascii=False)
        return f"select #{node.id}{_name(node.name)} {choices} {node.method}{options}"
    if isinstance(node, Value):
        return f"value #{node.of}"
    if isinstance(node, Join):
        first = "" if node.first is None else f" first={node.first}"
        return f"join {_ids(node.branches)} {node.mode}{first}"
    return _other_text(node)


def _other_text(node: Node) -> str:
    if isinstance(node, RoleBegin):
        extra = "".join(
            f" {key}={_quoted(value)}"
            for key, value in (("name", node.name), ("call_id", node.call_id), ("tools", node.tools))
            if value is not None
        )
        return f"role_begin {node.role}{extra}"
    if isinstance(node, RoleEnd):
        return "role_end"
    if isinstance(node, Hole):
        return f"hole #{node.id}{_name(node.name)} lease={node.lease_s:g}"
    if isinstance(node, Tokens):
        return f"tokens {_ids(node.ids)}"
    if isinstance(node, Image):
        return f"image {_quoted(node.url)}"
    assert isinstance(node, Chat)
    return f"chat {node.messages}{'' if node.tools is None else f' tools={node.tools}'}"


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(str(item) for item in ids)


def _name(name: str | None) -> str:
    return "" if name is None else f" {name}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _sampling(params: SamplingParams) -> str:
    changed = [name for name in params.__struct_fields__ if getattr(params, name) != getattr(_DEFAULTS, name)]
    return "".join(f" {name}={_plain(getattr(params, name))}" for name in changed)


def _plain(value: Any) -> str:
    return json.dumps(dict(value) if hasattr(value, "items") else value, ensure_ascii=False)


def _constraint(constraint: Any) -> str:
    if constraint is None:
        return ""
    import msgspec

    fields = msgspec.to_builtins(constraint)
    kind = fields.pop("type")
    first, *rest = fields.items()
    extra = "".join(f" {key}={_plain(value)}" for key, value in rest)
    return f" {kind}={_plain(first[1])}{extra}"
