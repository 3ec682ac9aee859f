"""Reading schemas: what is refused, and where the fault is said to be."""

import json

import pytest

from sgl_grammars.schema import load_schema, rewrite
from sgl_grammars.schema.load import MAX_BYTES, MAX_DEPTH
from sgl_lang.errors import InvalidConstraint


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


REFUSED = {
    "not JSON": ("{", "not JSON"),
    "a list": ("[]", "an object or a boolean"),
    "NaN": ('{"minimum": NaN}', "NaN is not JSON"),
    "infinity": ('{"maximum": -Infinity}', "is not JSON"),
    "out of range": ('{"maximum": 1e999}', "out of range"),
    "NUL": (json.dumps({"const": "a\x00b"}), "NUL"),
    "NUL in a name": (json.dumps({"properties": {"\x00": True}}), "NUL"),
    "lone surrogate": ('{"const": "\\ud800"}', "surrogate"),
    "too deep": (nested(MAX_DEPTH + 1), "deeper"),
    "far too deep": (nested(200_000), "deeper"),
    "too long": (json.dumps({"description": "x" * MAX_BYTES}), "characters"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidConstraint, match=message) as raised:
        load_schema(text)
    assert raised.value.place == "json_schema"


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "text"}, "json_schema.type"),
        ({"properties": {"a": {"minLength": -1}}}, "json_schema.properties.a.minLength"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "required": "a"}, "json_schema.required"),
    ],
)
def test_meta_schema_errors_name_their_place(schema: object, place: str) -> None:
    with pytest.raises(InvalidConstraint) as raised:
        load_schema(json.dumps(schema))
    assert raised.value.place == place


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("https://example.org/other.json", "remote references are not fetched"),
        ("#/$defs/none", "points to nothing"),
        ("#nowhere", "anchor"),
    ],
)
def test_references_that_lead_nowhere(ref: str, message: str) -> None:
    with pytest.raises(InvalidConstraint, match=message) as raised:
        rewrite(load_schema(json.dumps({"properties": {"a": {"$ref": ref}}})), strict=True)
    assert raised.value.place == "json_schema.properties.a.$ref"


def test_a_deep_schema_within_the_limit_is_read() -> None:
    assert load_schema(nested(40)) is not None


def test_a_schema_too_deep_for_its_meta_schema_is_refused() -> None:
    with pytest.raises(InvalidConstraint, match=r"too deeply|deeper"):
        load_schema(nested(MAX_DEPTH - 2))
