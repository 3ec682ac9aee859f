"""The regular expressions that `Regex` means: Rust/Python syntax without look-around, anchored at both ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgl_lang.errors import InvalidConstraint

__all__ = ["plain_pattern"]

_SURROGATES = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_GROUP = re.compile(r"\(\?(?:P?<\w+>|[a-zA-Z-]*:)|\(\?[a-zA-Z-]+\)|\((?!\?)")
_REPEAT = re.compile(r"[*+?]|\{\d*,?\d*\}")


@dataclass
class _Group:
    """Where we are in one group: can only the text's start be here (`start`), was it so where the group began
    (`opened`), has this option or any option of the group ended the text (`ended`, `any_ended`), and was a start
    anchor dropped in it (`anchored`)."""

    opened: bool
    start: bool
    ended: bool = False
    any_ended: bool = False
    anchored: bool = False


def plain_pattern(pattern: str) -> str:
    r"""`pattern` without the anchors that say nothing: the whole text is matched anyway.

    ``^`` may stand where only the start of the text can be, ``$`` where only its end can be. Elsewhere engines ignore
    them or differ, so they are refused, like look-around and back-references. Raises `InvalidConstraint` with the
    offset. The classes ``\d``, ``\w``, ``\s`` are those of Unicode, as in Python.
    """
    pattern = _SURROGATES.sub(_join_surrogates, pattern)
    kept: list[str] = []
    stack = [_Group(opened=True, start=True)]
    index = 0
    while index < len(pattern):
        part = _part(pattern, index)
        if part in ("^", r"\A"):
            _start_anchor(stack[-1], part, index)
        elif part in ("$", r"\Z", r"\z"):
            stack[-1].ended = stack[-1].any_ended = True
        else:
            _walk(stack, pattern, part, index)
            kept.append(part)
        index += len(part)
    return "".join(kept)


def _part(pattern: str, index: int) -> str:
    """The next piece with a meaning of its own: an escape, a class, the head of a group, a repeat, a character."""
    character = pattern[index]
    if character == "\\":
        return _escape(pattern, index)
    if character == "[":
        return pattern[index : _class_end(pattern, index)]
    match = _GROUP.match(pattern, index) or _REPEAT.match(pattern, index)
    if match:
        return match[0]
    if character == "(":
        raise InvalidConstraint(
            f"{pattern[index : index + 4]!r}: look-around and this kind of group cannot be enforced",
            place=_at(index),
        )
    return character


def _escape(pattern: str, index: int) -> str:
    part = pattern[index : index + 2]
    if len(part) == 1:
        raise InvalidConstraint("a single backslash at the end", place=_at(index))
    if part[1] in "bB<>":
        raise InvalidConstraint(f"{part} (word boundary) cannot be enforced", place=_at(index))
    if part[1] in "123456789":
        raise InvalidConstraint(f"{part} (back-reference) cannot be enforced", place=_at(index))
    return part


def _class_end(pattern: str, index: int) -> int:
    """The offset after the class that begins at `index`; classes may nest."""
    depth, position = 0, index
    while position < len(pattern):
        character = pattern[position]
        if character == "[":
            depth += 1
            opening = re.match(r"\[\^?\]?", pattern[position:])
            position += len(opening[0]) if opening else 1
            continue
        if character == "]":
            depth -= 1
            if not depth:
                return position + 1
        position += 2 if character == "\\" else 1
    raise InvalidConstraint("character class is not closed", place=_at(index))


def _start_anchor(group: _Group, part: str, index: int) -> None:
    if not group.start:
        raise InvalidConstraint(
            f"{part} in the middle of a pattern cannot be enforced",
            place=_at(index),
            hint="patterns match the whole text; anchors are only allowed at its start and end",
        )
    group.anchored = True


def _walk(stack: list[_Group], pattern: str, part: str, index: int) -> None:
    """Follow one piece through the groups."""
    group = stack[-1]
    if part.startswith("(?") and part.endswith(")"):  # flags only
        return
    if part.startswith("("):
        _no_more(group, index)
        stack.append(_Group(opened=group.start, start=group.start))
    elif part == "|":
        group.start, group.ended = group.opened, False
    elif part == ")" and len(stack) > 1:
        _close(stack, pattern, index)
    elif part == ")":
        raise InvalidConstraint("bracket without an opening one", place=_at(index))
    elif _REPEAT.fullmatch(part):
        if group.ended and part not in "?":
            _no_more(group, index)
    else:
        _no_more(group, index)
        group.start = False


def _close(stack: list[_Group], pattern: str, index: int) -> None:
    inner = stack.pop()
    outer = stack[-1]
    repeat = _REPEAT.match(pattern, index + 1)
    if repeat and repeat[0] not in ("?", "{0,1}", "{1}") and (inner.anchored or inner.any_ended):
        raise InvalidConstraint("an anchor inside of a repeated group cannot be enforced", place=_at(index))
    if repeat and inner.any_ended:
        raise InvalidConstraint("an anchor inside of an optional group cannot be enforced", place=_at(index))
    outer.start = False
    outer.anchored |= inner.anchored
    outer.ended |= inner.any_ended
    outer.any_ended |= inner.any_ended


def _no_more(group: _Group, index: int) -> None:
    if group.ended:
        raise InvalidConstraint(
            "something follows an end anchor",
            place=_at(index),
            hint="patterns match the whole text; anchors are only allowed at its start and end",
        )


def _at(index: int) -> str:
    return f"regex at offset {index}"


def _join_surrogates(match: re.Match[str]) -> str:
    high, low = int(match[1], 16), int(match[2], 16)
    return re.escape(chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)))
