"""The syntax tree of patterns: frozen nodes, and smart constructors that keep it small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from sgl_grammars.automaton.charset import Charset

__all__ = [
    "EMPTY",
    "Alternatives",
    "Anchor",
    "Chars",
    "Node",
    "Repeat",
    "Sequence",
    "alternatives",
    "sequence",
]


@dataclass(frozen=True)
class Chars:
    """One character of `set`; the empty set matches nothing."""

    set: Charset


@dataclass(frozen=True)
class Sequence:
    """The parts one after the other; without parts, the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """`part` from `low` to `high` times (None: any number)."""

    part: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Anchor:
    """The beginning (``^``) or the end (``$``) of the text."""

    end: bool


Node = Union[Chars, Sequence, Alternatives, Repeat, Anchor]  # noqa: UP007 - forward reference in older Pythons

EMPTY = Sequence(())


def sequence(parts: list[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Sequence) else [part])
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def alternatives(parts: list[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Alternatives) else [part])
    unique = list(dict.fromkeys(flat))
    return unique[0] if len(unique) == 1 else Alternatives(tuple(unique))
