"""From a Python type to a constraint, and from generated text back to a value of that type.

| type | text that is generated |
| --- | --- |
| `str` | free text |
| `int`, `float`, `bool`, `Decimal`, `date`, `time`, `datetime`, `UUID` | bare: ``42``, ``2024-05-03`` |
| `Literal` and `Enum` | one of the values, bare |
| `Annotated[str, Field(pattern=...)]` and the like | bare text |
| the rest (Pydantic, dataclass, TypedDict, list, dict, tuple, Union, Optional, ...) | JSON of its schema |

What a schema cannot say (a Pydantic validator, 30 February) is checked after generation: `ValidationFailed`.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, TypeVar

import pydantic

from sgl_grammars.spec import ANY_JSON, COMPACT, Choice, Constraint, JsonSchema, Layout, Regex
from sgl_lang.errors import InvalidConstraint, InvalidRequest, ValidationFailed

__all__ = ["TypeForm", "form_of", "json_form", "schema_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class TypeForm(Generic[T]):
    """How values of a type are written: `constraint` for the text, `decode` for the way back."""

    name: str
    constraint: Constraint | None
    decode: Callable[[str], T]

    def value(self, text: str) -> T:
        """The value of generated `text`; raises `ValidationFailed`."""
        try:
            return self.decode(text)
        except (ValueError, TypeError, AssertionError, ArithmeticError) as error:
            raise ValidationFailed(
                f"{_short(text)} is not a valid {self.name}: {_reason(error)}",
                hint="`retry=n` generates again up to n times",
            ) from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _reason(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        return "; ".join(_pydantic_reason(item) for item in error.errors(include_url=False))
    return str(error)


def _pydantic_reason(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    return f"{where}: {item['msg']}" if where else str(item["msg"])


def _text(text: str) -> str:
    return text


TEXT: TypeForm[str] = TypeForm("text", None, _text)

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_BARE: dict[type, Constraint | None] = {
    str: None,
    int: Regex(r"-?(0|[1-9][0-9]{0,17})"),
    float: Regex(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?"),
    bool: Choice(("true", "false")),
    decimal.Decimal: Regex(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,10})?"),
    datetime.date: Regex(_DATE),
    datetime.time: Regex(f"{_TIME}{_ZONE}?"),
    datetime.datetime: Regex(f"{_DATE}T{_TIME}{_ZONE}?"),
    uuid.UUID: Regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
}


def form_of(kind: Any, layout: Layout = COMPACT) -> TypeForm[Any]:
    """The form of a Python type; raises `InvalidRequest` for what is not a type."""
    try:
        return _cached_form(kind, layout)
    except TypeError as error:  # unhashable, e.g. Annotated with a list in it
        if "unhashable" not in str(error):
            raise
        return _form(kind, layout)


@lru_cache(maxsize=1024)
def _cached_form(kind: Any, layout: Layout) -> TypeForm[Any]:
    return _form(kind, layout)


def _form(kind: Any, layout: Layout) -> TypeForm[Any]:
    if kind in _BARE:
        return _bare_form(kind)
    if typing.get_origin(kind) is Literal:
        return _literal_form(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice_form(kind.__name__, {_plain(member.value): member for member in kind})
    if kind is Any:
        return TypeForm("JSON value", ANY_JSON, json.loads)
    if _is_constrained_text(kind):
        return _constrained_text_form(kind)
    return _json_type_form(kind, layout)


def _bare_form(kind: type) -> TypeForm[Any]:
    if kind is str:
        return TEXT
    if kind is bool:
        return _choice_form("bool", {"true": True, "false": False})
    adapter = _adapter(kind)
    return TypeForm(kind.__name__, _BARE[kind], lambda text: adapter.validate_python(text.strip()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _literal_form(kind: Any) -> TypeForm[Any]:
    values = typing.get_args(kind)
    if len({_plain(value) for value in values}) != len(values):
        raise InvalidRequest(f"{type_name(kind)} has two values that are written alike", place="gen")
    return _choice_form(type_name(kind), {_plain(value): value for value in values})


def _choice_form(name: str, values: dict[str, Any]) -> TypeForm[Any]:
    def decode(text: str) -> Any:
        if text not in values:
            raise ValueError(f"not one of {', '.join(values)}")
        return values[text]

    return TypeForm(name, Choice(tuple(values)), decode)


def _is_constrained_text(kind: Any) -> bool:
    return typing.get_origin(kind) is Annotated and typing.get_args(kind)[0] is str


def _constrained_text_form(kind: Any) -> TypeForm[Any]:
    """`Annotated[str, ...]`: a pattern is enforced as it is; else the length; the rest is validated."""
    adapter: pydantic.TypeAdapter[Any] = _adapter(kind)
    schema = adapter.json_schema()
    constraint: Constraint | None = None
    if "pattern" in schema:
        constraint = Regex(_anchored(schema["pattern"]))
    elif "minLength" in schema or "maxLength" in schema:
        constraint = Regex(rf"[\s\S]{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}")
    return TypeForm("text", constraint, adapter.validate_python)


def _anchored(pattern: str) -> str:
    """JSON Schema searches, `Regex` matches the whole text: anchor each alternative as far as it is."""
    branches = [_anchored_branch(branch) for branch in _alternatives(pattern)]
    return branches[0] if len(branches) == 1 else "|".join(f"({branch})" for branch in branches)


def _anchored_branch(pattern: str) -> str:
    left, right = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[left : len(pattern) - right]
    return ("" if left else r"[\s\S]*") + inner + ("" if right else r"[\s\S]*")


def _alternatives(pattern: str) -> list[str]:
    """`pattern` split at the ``|`` outside of groups and classes."""
    parts, depth, in_class, escaped = [""], 0, False, False
    for char in pattern:
        if char == "|" and not (depth or in_class or escaped):
            parts.append("")
            continue
        parts[-1] += char
        if escaped or char == "\\":
            escaped = not escaped
            continue
        in_class = char == "[" or (in_class and char != "]")
        depth += 0 if in_class else {"(": 1, ")": -1}.get(char, 0)
    return parts


def _json_type_form(kind: Any, layout: Layout) -> TypeForm[Any]:
    adapter = _adapter(kind)
    schema = close_objects(_schema(kind, adapter))
    return TypeForm(type_name(kind), JsonSchema(_compact(schema), layout), adapter.validate_json)


def _compact(schema: Any) -> str:
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    try:
        if isinstance(kind, types.FunctionType):
            raise TypeError("a function")
        return pydantic.TypeAdapter(_extended(kind))
    except (pydantic.PydanticUserError, TypeError) as error:
        raise InvalidRequest(
            f"{kind!r} is not a type that can be generated: {str(error).splitlines()[0]}", place="gen"
        ) from error


def _extended(kind: Any) -> Any:
    """Before Python 3.12 Pydantic wants `typing_extensions.TypedDict`; rebuild the plain one."""
    from typing_extensions import TypedDict, is_typeddict

    if not is_typeddict(kind) or type(kind).__module__ == "typing_extensions":
        return kind
    hints = typing.get_type_hints(kind, include_extras=True)
    from typing_extensions import NotRequired

    fields = {
        key: _extended(hint) if key in kind.__required_keys__ else NotRequired[_extended(hint)]
        for key, hint in hints.items()
    }
    return TypedDict(kind.__name__, fields)  # type: ignore[operator]


def _schema(kind: Any, adapter: pydantic.TypeAdapter[Any]) -> dict[str, Any]:
    try:
        return adapter.json_schema()
    except pydantic.PydanticInvalidForJsonSchema as error:
        raise InvalidRequest(
            f"{kind!r} has no JSON schema: {str(error).splitlines()[0]}", place="gen"
        ) from error


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a Python type, objects closed."""
    schema: dict[str, Any] = close_objects(_schema(kind, _adapter(kind)))
    return schema


def close_objects(schema: Any) -> Any:
    """Objects with properties take no others: a type has the fields it has."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close_objects(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def type_name(kind: Any) -> str:
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return kind.__name__
    return str(kind).replace("typing.", "")


def json_form(schema: Any, layout: Layout = COMPACT) -> TypeForm[Any]:
    """The form of an explicit JSON schema: a dict, JSON text, or a type. The value is decoded JSON."""
    if isinstance(schema, (dict, bool)):
        return TypeForm("JSON value", JsonSchema(_compact(schema), layout), json.loads)
    if isinstance(schema, str):
        return TypeForm("JSON value", JsonSchema(_checked_json(schema), layout), json.loads)
    return _json_type_form(schema, layout)


def _checked_json(schema: str) -> str:
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise InvalidConstraint(f"not JSON: {error}", place="json_schema") from None
    if not isinstance(parsed, (dict, bool)):
        raise InvalidConstraint("a JSON schema is an object", place="json_schema")
    return schema
