"""Which texts a schema for property names allows, as an automaton; and property facts that JSON Schema cannot say.

`SOME` is our own keyword, made by negation only: ``{"someProperty": {"names": N, "value": V}}`` holds for objects with
at least one property whose name satisfies N and whose value satisfies V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgl_grammars.automaton.dfa import Dfa
from sgl_grammars.schema.formats import PATTERN_FORMATS
from sgl_grammars.schema.languages import EVERY, NotSayable, both, but_not, lengths, texts, texts_in
from sgl_grammars.schema.load import Schema

__all__ = ["SOME", "allows_name", "language", "other_names", "some_property"]

SOME = "someProperty"
Resolve = Callable[[dict[str, Any]], Schema]
_IGNORED = frozenset("title description default examples $comment comment deprecated $schema $id id".split())


def some_property(names: Schema, value: Schema) -> Schema:
    """An object with a property whose name satisfies `names` and whose value satisfies `value`."""
    if names is False or value is False:
        return False
    return {"type": "object", SOME: {"names": names, "value": value}}


def other_names(schema: dict[str, Any]) -> Schema:
    """The names that `additionalProperties` of `schema` speaks about."""
    parts: list[Schema] = []
    if schema.get("properties"):
        parts.append({"not": {"enum": list(schema["properties"])}})
    parts += [{"not": {"pattern": pattern}} for pattern in schema.get("patternProperties", ())]
    return {"allOf": parts} if parts else True


def allows_name(names: Schema, name: str, resolve: Resolve) -> bool | None:
    """Whether `names` allows `name`; None if that cannot be found out."""
    try:
        return _holds(names, name, resolve, 0)
    except NotSayable:
        return None


def _holds(names: Schema, name: str, resolve: Resolve, depth: int) -> bool:
    if isinstance(names, bool):
        return names
    if depth > 16:
        raise NotSayable("references nest too deeply")
    if "$ref" in names:
        return _holds(resolve(names), name, resolve, depth + 1)
    for keyword, value in names.items():
        if keyword in _IGNORED:
            continue
        if keyword == "not":
            held = not _holds(value, name, resolve, depth + 1)
        elif keyword == "allOf":
            held = all(_holds(part, name, resolve, depth + 1) for part in value)
        elif keyword == "anyOf":
            held = any(_holds(part, name, resolve, depth + 1) for part in value)
        elif keyword in ("enum", "const"):
            held = name in (value if keyword == "enum" else [value])
        else:
            held = _fact(keyword, value, resolve, depth).matches(name.encode())
        if not held:
            return False
    return True


def language(names: Schema, resolve: Resolve, depth: int = 0) -> Dfa:
    """The texts that satisfy `names`. Raises `NotSayable`."""
    if isinstance(names, bool):
        return EVERY if names else but_not(EVERY, EVERY)
    if depth > 16:
        raise NotSayable("references nest too deeply")
    if "$ref" in names:
        return language(resolve(names), resolve, depth + 1)
    found = EVERY
    for keyword, value in names.items():
        if keyword in _IGNORED:
            continue
        found = both(found, _fact(keyword, value, resolve, depth + 1))
    return found


def _fact(keyword: str, value: Any, resolve: Resolve, depth: int) -> Dfa:
    if keyword == "type":
        return EVERY if "string" in ([value] if isinstance(value, str) else value) else but_not(EVERY, EVERY)
    if keyword == "pattern":
        return texts(value)
    if keyword == "format" and value in PATTERN_FORMATS:
        return texts(PATTERN_FORMATS[value])
    if keyword in ("enum", "const"):
        values = value if keyword == "enum" else [value]
        return texts_in(one for one in values if isinstance(one, str))
    if keyword == "minLength":
        return lengths(int(value), None)
    if keyword == "maxLength":
        return lengths(0, int(value))
    if keyword == "not":
        return but_not(EVERY, language(value, resolve, depth))
    if keyword == "allOf":
        found = EVERY
        for part in value:
            found = both(found, language(part, resolve, depth))
        return found
    if keyword == "anyOf":
        left = EVERY
        for part in value:
            left = but_not(left, language(part, resolve, depth))
        return but_not(EVERY, left)
    raise NotSayable(f"{keyword!r} of names is not regular")
