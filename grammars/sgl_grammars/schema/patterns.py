r"""Patterns of ECMA-262, which JSON Schema uses, in the dialect of the grammar engine."""

from __future__ import annotations


def ecma(pattern: str) -> str:
    r"""The same language with `\s` and `\S` as ECMA-262 means them: U+FEFF is white space there."""
    out: list[str] = []
    inside = False
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\" and at + 1 < len(pattern):
            out.append(_escape(pattern[at : at + 2], inside))
            at += 2
            continue
        if character == "[" and not inside:
            inside = True
        elif character == "]" and inside:
            inside = False
        out.append(character)
        at += 1
    return "".join(out)


def _escape(pair: str, inside: bool) -> str:
    if pair == r"\s":
        return r"\s\uFEFF" if inside else r"[\s\uFEFF]"
    if pair == r"\S" and not inside:
        return r"[^\s\uFEFF]"
    return pair
