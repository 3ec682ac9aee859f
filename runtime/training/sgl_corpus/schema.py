"""Properties of a record, and the many ways a prompt spells out a schema: JSON Schema, key lists, skeletons, classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import words
from .core import Json, Rng, capital, compact, spaced
from .domains import Fact
from .values import noun

ABSENT: Json = ...
"""The value of a property that the text does not state."""


@dataclass(frozen=True, slots=True)
class Prop:
    """A property of an object: `inner` holds the properties of an object or of a list's items."""

    key: str
    schema: Mapping[str, Json]
    hint: str
    value: Json
    nullable: bool = False
    required: bool = True
    inner: tuple[Prop, ...] = ()
    is_list: bool = False


def prop_of(fact: Fact) -> Prop:
    return Prop(fact.key, fact.schema, fact.hint, fact.value.json)


def object_json(props: tuple[Prop, ...] | list[Prop]) -> dict[str, Json]:
    """The answer: keys in schema order; absent values are null where that is allowed and left out elsewhere."""
    out: dict[str, Json] = {}
    for prop in props:
        if prop.value is ABSENT:
            if prop.nullable:
                out[prop.key] = None
        elif prop.inner and not prop.is_list:
            out[prop.key] = object_json(prop.inner)
        else:
            out[prop.key] = prop.value
    return out


def camel(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(capital(part) for part in tail)


def restyle(rng: Rng, props: list[Prop]) -> list[Prop]:
    """One spelling for all keys: mostly snake_case, sometimes camelCase, Title Case or words."""
    roll = rng.below(20)
    if roll < 14:
        return props
    style = (
        camel
        if roll < 18
        else (lambda k: capital(k.replace("_", " ")))
        if roll == 18
        else (lambda k: k.replace("_", " "))
    )

    def walk(items: tuple[Prop, ...]) -> tuple[Prop, ...]:
        out = []
        for p in items:
            value = p.value
            if p.is_list and p.inner and value is not ABSENT:
                value = [{style(k): v for k, v in row.items()} for row in value]
            out.append(replace(p, key=style(p.key), value=value, inner=walk(p.inner)))
        return tuple(out)

    return list(walk(tuple(props)))


def class_name(key: str) -> str:
    return "".join(capital(part) for part in re.split(r"[_ ]", key))


def title_of(key: str) -> str:
    """The title pydantic gives a field."""
    return key.replace("_", " ").title()


@dataclass(slots=True)
class _Pydantic:
    """Spells a JSON Schema the way pydantic's `model_json_schema` does."""

    rng: Rng
    describe: bool
    defs: dict[str, Json]

    def node(self, prop: Prop) -> dict[str, Json]:
        if prop.inner:
            name = class_name(prop.key) + ("Item" if prop.is_list and self.rng.chance(0.5) else "")
            self.defs[name] = self.model(name, prop.inner)
            ref = {"$ref": f"#/$defs/{name}"}
            return {"items": ref, "type": "array"} if prop.is_list else ref
        if "enum" in prop.schema and self.rng.chance(0.5):
            name = class_name(prop.key)
            self.defs[name] = {"enum": prop.schema["enum"], "title": name, "type": "string"}
            return {"$ref": f"#/$defs/{name}"}
        return dict(prop.schema)

    def field(self, prop: Prop) -> dict[str, Json]:
        node = self.node(prop)
        if prop.nullable:
            node = {"anyOf": [node, {"type": "null"}], "default": None}
        if self.describe:
            node["description"] = describe(self.rng, prop)
        if "$ref" not in node:
            node["title"] = title_of(prop.key)
        return dict(sorted(node.items()))

    def model(self, name: str, props: tuple[Prop, ...]) -> dict[str, Json]:
        out: dict[str, Json] = {"properties": {p.key: self.field(p) for p in props}}
        required = [p.key for p in props if p.required and not p.nullable]
        if required:
            out["required"] = required
        return {**out, "title": name, "type": "object"}


def describe(rng: Rng, prop: Prop) -> str:
    label = prop.key.replace("_", " ")
    return rng.choice(
        (
            f"The {label}",
            f"{capital(label)} as stated in the text",
            f"{capital(label)} of the record",
            f"{label} ({prop.hint or 'see the text'})",
        )
    )


def pydantic_schema(rng: Rng, title: str, props: list[Prop]) -> dict[str, Json]:
    maker = _Pydantic(rng, rng.chance(0.12), {})
    model = maker.model(title, tuple(props))
    return {"$defs": dict(sorted(maker.defs.items())), **model} if maker.defs else model


def plain_node(rng: Rng, prop: Prop, describe_it: bool) -> dict[str, Json]:
    if prop.inner and prop.is_list:
        node: dict[str, Json] = {"type": "array", "items": plain_object(rng, prop.inner, False)}
    elif prop.inner:
        node = plain_object(rng, prop.inner, False)
    else:
        node = {"type": prop.schema.get("type", "string"), **prop.schema}
    if prop.nullable and isinstance(node["type"], str):
        node["type"] = [node["type"], "null"]
        if "enum" in node:
            node["enum"] = [*node["enum"], None]
    if describe_it:
        node["description"] = describe(rng, prop)
    return node


def plain_object(rng: Rng, props: tuple[Prop, ...] | list[Prop], describe_it: bool) -> dict[str, Json]:
    """A hand-written JSON Schema: everything inline."""
    node: dict[str, Json] = {
        "type": "object",
        "properties": {p.key: plain_node(rng, p, describe_it) for p in props},
    }
    required = [p.key for p in props if p.required]
    if required and (len(required) < len(props) or rng.chance(0.8)):
        node["required"] = required
    if rng.chance(0.25):
        node["additionalProperties"] = False
    return node


def json_schema(rng: Rng, title: str, props: list[Prop]) -> str:
    """A JSON Schema as text (mostly compact)."""
    schema = (
        pydantic_schema(rng, title, props) if rng.chance(0.6) else plain_object(rng, props, rng.chance(0.2))
    )
    return compact(schema) if rng.chance(0.75) else spaced(schema)


def _hint(prop: Prop) -> str:
    if prop.inner and prop.is_list:
        return "list of {" + ", ".join(p.key for p in prop.inner) + "}"
    if prop.inner:
        return "object with " + ", ".join(p.key for p in prop.inner)
    return prop.hint


def _typed(prop: Prop) -> str:
    extra = " or null" if prop.nullable else "" if prop.required else ", optional"
    return f"{prop.key} ({_hint(prop)}{extra})"


def _skeleton(prop: Prop) -> str:
    if prop.inner:
        body = "{" + ",".join(_skeleton(p) for p in prop.inner) + "}"
        value = f"[{body}]" if prop.is_list else body
    else:
        value = prop.hint
    return f'"{prop.key}":{value}' + ("|null" if prop.nullable else "")


_PYTHON = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


def _python_type(prop: Prop) -> str:
    if prop.inner:
        name = class_name(prop.key)
        base = f"list[{name}]" if prop.is_list else name
    elif "enum" in prop.schema:
        base = "Literal[" + ", ".join(f'"{o}"' for o in prop.schema["enum"]) + "]"
    elif prop.schema.get("format") == "date":
        base = "date"
    elif prop.is_list or prop.schema.get("type") == "array":
        base = f"list[{_PYTHON.get(prop.schema['items']['type'], 'str')}]"
    else:
        base = _PYTHON.get(prop.schema.get("type", "string"), "str")
    return f"{base} | None = None" if prop.nullable else base


def python_class(title: str, props: tuple[Prop, ...] | list[Prop]) -> str:
    blocks = [python_class(class_name(p.key), p.inner) for p in props if p.inner]
    body = "\n".join(f"    {p.key.replace(' ', '_')}: {_python_type(p)}" for p in props)
    return "\n\n".join([*blocks, f"class {title}:\n{body}"])


def keys_are_identifiers(props: list[Prop]) -> bool:
    return all(p.key.isidentifier() and all(q.key.isidentifier() for q in p.inner) for p in props)


def informal(rng: Rng, title: str, props: list[Prop]) -> str:
    """A short list of keys, as people write it. Absent values must be recoverable: nullable ones say so."""
    roll = rng.below(10)
    bare_ok = all(not p.nullable and p.required for p in props)
    if roll < 3 and bare_ok and not any(p.inner for p in props):
        return ", ".join(p.key for p in props)
    if roll < 6:
        return ", ".join(_typed(p) for p in props)
    if roll < 7 and all(p.required for p in props):
        return "{" + ",".join(_skeleton(p) for p in props) + "}"
    if roll < 8 and keys_are_identifiers(props) and all(p.required or p.nullable for p in props):
        return python_class(title, props)
    if roll < 9:
        return "\n" + "\n".join(f"- {_typed(p)}" for p in props)
    return "; ".join(_typed(p) for p in props)


def record_title(rng: Rng, nouns: tuple[str, ...]) -> str:
    """A class name for a record."""
    base = rng.choice(nouns) if nouns else noun(rng)
    tail = rng.choice(("", "", "", " record", " info", " data", " details"))
    return class_name(base + tail)


GROUPS = ("contact", "details", "info", "delivery", "payment", "event", "location", "header", "meta", "data", "summary", "profile",
          "schedule", "source", *words.LABEL_MODIFIERS[:40])  # fmt: skip
