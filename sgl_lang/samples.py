"""Texts that satisfy a constraint, for tests without a model: the shortest sensible ones, always the same."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from sgl_grammars.spec import Choice, Constraint, JsonSchema, Regex, StructuralTag
from sgl_lang.errors import InvalidRequest

if sys.version_info >= (3, 11):
    from re import _parser as regex_parser  # type: ignore[attr-defined]
else:
    import sre_parse as regex_parser

_FORMATS = {
    "date": "2024-05-03", "date-time": "2024-05-03T10:00:00Z", "time": "10:00:00Z", "duration": "P1D",
    "email": "a@example.org", "uuid": "00000000-0000-4000-8000-000000000000", "uri": "https://example.org",
    "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "hostname": "example.org",
}  # fmt: skip


def sample(constraint: Constraint | None, name: str | None = None) -> str:
    """A text that `constraint` allows; raises `InvalidRequest` for grammars, which need a scripted answer."""
    if constraint is None:
        return f"<{name or 'text'}>"
    if isinstance(constraint, Choice):
        return constraint.choices[0]
    if isinstance(constraint, Regex):
        return regex_sample(constraint.pattern)
    if isinstance(constraint, JsonSchema):
        schema = json.loads(constraint.schema)
        value = schema_sample(schema, schema, name or "text")
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(constraint, StructuralTag):
        tag = constraint.tags[0]
        begin, end = (tag.begin, tag.end) if constraint.at_least else ("", "")
        return begin + sample(tag.content if begin else None, name) + end
    raise InvalidRequest(
        f"there is no sample for {type(constraint).__name__}", place=name, hint="script an answer for it"
    )


def schema_sample(schema: Any, root: Any, name: str = "text") -> Any:
    """A value that is valid under a JSON schema (the keywords that types produce)."""
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema:
        return schema_sample(_resolve(schema["$ref"], root), root, name)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return schema_sample(schema[key][0], root, name)
    kind = schema.get("type", "object" if "properties" in schema else None)
    return _typed_sample(kind[0] if isinstance(kind, list) else kind, schema, root, name)


def _resolve(ref: str, root: Any) -> Any:
    found = root
    for part in ref.removeprefix("#").split("/"):
        found = found[part] if part else found
    return found


def _typed_sample(kind: Any, schema: dict[str, Any], root: Any, name: str) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        wanted = schema.get("required", properties)
        return {key: schema_sample(properties.get(key, {}), root, key) for key in wanted}
    if kind == "array":
        fixed = schema.get("prefixItems", [])
        values = [schema_sample(item, root, name) for item in fixed]
        while len(values) < schema.get("minItems", 0 if fixed else 1):
            values.append(schema_sample(schema.get("items", {}), root, name))
        return values
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "boolean":
        return True
    return _string(schema, name) if kind == "string" else None


def _number(schema: dict[str, Any]) -> Any:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
    high = schema.get("maximum", low)
    step = schema.get("multipleOf", 1)
    value = min(max(low, 0 if low <= 0 <= high else low), high)
    return value if value % step == 0 else (value // step + 1) * step


def _string(schema: dict[str, Any], name: str) -> str:
    if "pattern" in schema:
        return regex_sample(schema["pattern"])
    text = str(_FORMATS.get(schema.get("format", ""), name))
    return text[: schema.get("maxLength", len(text))].ljust(schema.get("minLength", 0), "x")


def regex_sample(pattern: str) -> str:
    """A short text that matches `pattern`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _sequence(regex_parser.parse(pattern))


def _sequence(parsed: Any) -> str:
    return "".join(_part(str(operation), argument) for operation, argument in parsed)


def _part(operation: str, argument: Any) -> str:
    if operation == "LITERAL":
        return chr(argument)
    if operation == "NOT_LITERAL":
        return "a" if argument != ord("a") else "b"
    if operation == "ANY":
        return "a"
    if operation == "IN":
        return _class(argument)
    if operation == "BRANCH":
        return _sequence(argument[1][0])
    if operation == "SUBPATTERN":
        return _sequence(argument[-1])
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        times = argument[0] if argument[1] == 1 else max(1, argument[0])
        return str(_sequence(argument[2]) * times)
    if operation == "AT":
        return ""
    raise InvalidRequest(f"there is no sample for {operation} in a regex", hint="script an answer for it")


_CATEGORIES = {"CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ", "CATEGORY_NOT_SPACE": "a"}


def _class(items: Any) -> str:
    if str(items[0][0]) == "NEGATE":
        refused = _members(items[1:])
        return next(chr(code) for code in (*range(97, 123), *range(32, 0x3000)) if chr(code) not in refused)
    operation, argument = str(items[0][0]), items[0][1]
    if operation == "RANGE":
        return chr(max(argument[0], min(97, argument[1])))
    return _CATEGORIES.get(str(argument), "a") if operation == "CATEGORY" else chr(argument)


def _members(items: Any) -> set[str]:
    found: set[str] = set()
    for operation, argument in items:
        if str(operation) == "RANGE":
            found.update(chr(code) for code in range(argument[0], min(argument[1], 0x3000) + 1))
        elif str(operation) == "LITERAL":
            found.add(chr(argument))
        else:
            found.update(_CATEGORIES.get(str(argument), ""))
    return found
