"""Rewriting a schema into keywords that grammar engines enforce, and naming what cannot be.

The result uses `type enum const anyOf allOf $ref properties patternProperties additionalProperties required items
prefixItems minItems maxItems minLength maxLength pattern format`, the number bounds and `multipleOf`, and nothing
else; references all point into one flat ``$defs``. Annotations vanish. Everything else is expressed by these or raises
`Unenforceable`:

| keyword | becomes |
| --- | --- |
| `enum`/`const` beside anything | the values that satisfy the rest, tried one by one |
| `oneOf` | `anyOf` where the options are disjoint, else each option without its rivals |
| `not` | the negated facts (see `algebra`) |
| `if`/`then`/`else` | (if and then) or (not if and else) |
| `dependentRequired`, `dependentSchemas`, `dependencies` | absent, or present with what follows |
| `uniqueItems` | arrays of different values of a small finite set |
| `contains` | one of the first items, for bounded arrays |
| `minProperties`, `maxProperties` | combinations of the declared properties |
| `propertyNames` | declared names tried, other names by pattern |
| `format` | a pattern where the engine does not know it |
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import jsonschema

from sgl_grammars.schema.algebra import (
    NoNegation,
    all_of,
    any_of,
    closed_names,
    disjoint,
    negate,
    other_texts,
    prune,
    values_of,
)
from sgl_grammars.schema.formats import NATIVE_FORMATS, PATTERN_FORMATS, UNENFORCED_FORMATS
from sgl_grammars.schema.load import Schema, dialect
from sgl_grammars.schema.patterns import ecma
from sgl_grammars.schema.resolve import References
from sgl_lang.errors import InvalidConstraint, UnsupportedFeature

MAX_COMBINATIONS = 300
MAX_ENUM = 100_000
CONTAINS_POSITIONS = 16

PLAIN = (
    "minLength maxLength pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf required "
    "minItems maxItems"
).split()
REFUSED = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef")


class Unenforceable(InvalidConstraint):
    """`keyword` at `place` cannot be enforced as it stands."""

    def __init__(self, keyword: str, place: str, why: str) -> None:
        super().__init__(
            f"{keyword!r} cannot be enforced here: {why}",
            place=place,
            hint="rewrite it, or pass strict=false to have it reported instead",
        )
        self.keyword = keyword


class Rewriter:
    """Rewrites one document. `unenforced` collects ``place: keyword`` where not `strict`."""

    def __init__(self, root: Schema, *, strict: bool = True) -> None:
        self.root = root
        self.strict = strict
        self.unenforced: list[str] = []
        self._references = References(root)
        cls = dialect(root)
        self._validator = cls(root, format_checker=cls.FORMAT_CHECKER)
        self._siblings_count = cls in (
            jsonschema.Draft201909Validator,
            jsonschema.Draft202012Validator,
        )
        self._definitions: dict[str, Schema] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []

    def run(self) -> Schema:
        top = self.rewrite(self.root, "json_schema")
        if isinstance(top, bool) or not self._definitions:
            return top
        return {**top, "$defs": self._definitions}

    # -------------------------------------------------------------------------------------------- one subschema

    def rewrite(self, schema: Schema, place: str) -> Schema:
        if isinstance(schema, bool):
            return schema
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema, place)
        finite = self._finite(schema, place)
        if finite is not None:
            return finite
        parts: list[Schema] = [self._plain(schema, place)]
        for keyword, rule in _RULES.items():
            if keyword in schema:
                parts.append(self._apply(rule, keyword, schema, place))
        for keyword in REFUSED:
            if schema.get(keyword, True) not in (True, {}):
                self._give_up(keyword, place, "the keyword depends on what other subschemas saw")
        return all_of(parts)

    def _apply(self, rule: Any, keyword: str, schema: dict[str, Any], place: str) -> Schema:
        try:
            result: Schema = rule(self, schema, f"{place}.{keyword}")
            return result
        except NoNegation as error:
            return self._give_up(keyword, place, f"the opposite of {error.keyword!r} has no schema")

    def _give_up(self, keyword: str, place: str, why: str) -> Schema:
        if self.strict:
            raise Unenforceable(keyword, f"{place}.{keyword}", why)
        self.unenforced.append(f"{place}.{keyword}")
        return True

    def _resolve(self, schema: dict[str, Any]) -> Schema:
        target = self._references.target(schema["$ref"], "json_schema")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return all_of([target, rest]) if rest and self._siblings_count else target

    def _reference(self, schema: dict[str, Any], place: str) -> Schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        target = self._references.target(schema["$ref"], f"{place}.$ref")
        if isinstance(target, bool):
            pointed: Schema = target
        else:
            pointed = {"$ref": f"#/$defs/{self._define(target, f'{place}.$ref')}"}
        if not rest or not self._siblings_count:
            return pointed
        return all_of([pointed, self.rewrite(rest, place)])

    def _define(self, target: dict[str, Any], place: str) -> str:
        name = self._names.get(id(target))
        if name is None:
            name = self._names[id(target)] = f"d{len(self._names)}"
            self._kept.append(target)
            self._definitions[name] = True
            self._definitions[name] = self.rewrite(target, place)
        return name

    # -------------------------------------------------------------------------------------------- finite values

    def _finite(self, schema: dict[str, Any], place: str) -> Schema | None:
        """Where the values are listed, the rest of the schema only chooses among them."""
        values = self._listed(schema, 0)
        if values is None:
            return None
        if len(values) > MAX_ENUM:
            raise InvalidConstraint(f"more than {MAX_ENUM} values", place=f"{place}.enum")
        try:
            check = self._validator.evolve(schema=schema)
            kept = [value for value in values if check.is_valid(value)]
        except Exception as error:
            raise InvalidConstraint(f"cannot be evaluated: {str(error)[:200]}", place=place) from None
        return {"enum": kept} if kept else False

    def _listed(self, schema: Schema, depth: int) -> list[Any] | None:
        if isinstance(schema, bool) or depth > 8:
            return None
        if "$ref" in schema:
            return self._listed(self._resolve(schema), depth + 1)
        if "const" in schema or "enum" in schema:
            return values_of(schema)
        for part in schema.get("allOf", ()):
            found = self._listed(part, depth + 1)
            if found is not None:
                return found
        for keyword in ("anyOf", "oneOf"):
            options = [self._listed(option, depth + 1) for option in schema.get(keyword, ())]
            if options and all(option is not None for option in options):
                return _unique([value for option in options for value in option or ()])
        return None

    # ------------------------------------------------------------------------------------------- plain keywords

    def _plain(self, schema: dict[str, Any], place: str) -> Schema:
        result: dict[str, Any] = {}
        if "type" in schema:
            result["type"] = schema["type"]
        for keyword in PLAIN:
            if keyword in schema:
                result[keyword] = schema[keyword]
        if "pattern" in result:
            result["pattern"] = ecma(result["pattern"])
        _numeric_bounds(result)
        if isinstance(result.get("required"), list):
            result["required"] = list(dict.fromkeys(result["required"]))
        self._object(schema, result, place)
        self._array(schema, result, place)
        self._format(schema, result, place)
        return result

    def _object(self, schema: dict[str, Any], result: dict[str, Any], place: str) -> None:
        if isinstance(schema.get("properties"), dict):
            result["properties"] = {
                name: self.rewrite(value, f"{place}.properties.{name}")
                for name, value in schema["properties"].items()
            }
        if schema.get("patternProperties"):
            result["patternProperties"] = {
                ecma(name): self.rewrite(value, f"{place}.patternProperties.{name}")
                for name, value in schema["patternProperties"].items()
            }
        if "additionalProperties" in schema:
            result["additionalProperties"] = self.rewrite(
                schema["additionalProperties"], f"{place}.additionalProperties"
            )

    def _array(self, schema: dict[str, Any], result: dict[str, Any], place: str) -> None:
        prefix, items = schema.get("prefixItems"), schema.get("items")
        if isinstance(items, list):
            prefix, items = items, schema.get("additionalItems")
        if prefix:
            result["prefixItems"] = [
                self.rewrite(item, f"{place}.prefixItems.{index}") for index, item in enumerate(prefix)
            ]
        if items is not None:
            result["items"] = self.rewrite(items, f"{place}.items")

    def _format(self, schema: dict[str, Any], result: dict[str, Any], place: str) -> None:
        name = schema.get("format")
        if name in NATIVE_FORMATS:
            result["format"] = name
        elif name in PATTERN_FORMATS:
            pattern = {"type": "string", "pattern": PATTERN_FORMATS[name]}
            others = {"type": ["null", "boolean", "number", "array", "object"]}
            result["allOf"] = [any_of([pattern, others])]
        elif name in UNENFORCED_FORMATS:
            self._give_up("format", place, f"the format {name!r} is not regular")

    # ---------------------------------------------------------------------------------------------- combinators

    def _all(self, schema: dict[str, Any], place: str) -> Schema:
        return all_of(self.rewrite(part, f"{place}.{i}") for i, part in enumerate(schema["allOf"]))

    def _any(self, schema: dict[str, Any], place: str) -> Schema:
        return any_of(self.rewrite(part, f"{place}.{i}") for i, part in enumerate(schema["anyOf"]))

    def _one(self, schema: dict[str, Any], place: str) -> Schema:
        options: list[Schema] = schema["oneOf"]
        context: Schema = {k: v for k, v in schema.items() if k in ("type", "properties", "required")}
        exclusive = []
        for index, option in enumerate(options):
            rivals = [
                rival
                for other, rival in enumerate(options)
                if other != index and not disjoint(option, rival, self._resolve) and option is not False
            ]
            rivals = [r for r in rivals if not disjoint(all_of([option, context]), r, self._resolve)]
            names = closed_names(all_of([option, context, *self._closed(schema)]), self._resolve)
            around = self._merged(option, context)
            without = (
                prune(negate(rival, self._resolve, within=names), around, self._resolve) for rival in rivals
            )
            alone = all_of([option, *without])
            exclusive.append(self.rewrite(alone, f"{place}.{index}"))
        return any_of(exclusive)

    def _merged(self, option: Schema, context: Schema) -> Schema:
        """What an object must be at least: the option with what stands beside the `oneOf`, one level deep."""
        if isinstance(option, dict) and "$ref" in option:
            option = self._resolve(option)
        if isinstance(option, bool) or isinstance(context, bool):
            return option
        required = [*context.get("required", ()), *option.get("required", ())]
        properties = {**context.get("properties", {}), **option.get("properties", {})}
        return {**context, **option, "required": required, "properties": properties}

    @staticmethod
    def _closed(schema: dict[str, Any]) -> list[Schema]:
        if schema.get("additionalProperties") is not False:
            return []
        keys = ("properties", "patternProperties", "additionalProperties")
        return [{key: schema[key] for key in keys if key in schema}]

    def _not(self, schema: dict[str, Any], place: str) -> Schema:
        wrong = schema["not"]
        if wrong == {"type": "integer"}:
            # a number with a fraction: an exponent-free decimal whose fraction is not all zeros
            return self._give_up("not", place, "a number that is no integer has no schema")
        names = closed_names({key: value for key, value in schema.items() if key != "not"}, self._resolve)
        return self.rewrite(negate(wrong, self._resolve, within=names), place)

    def _if(self, schema: dict[str, Any], place: str) -> Schema:
        if "then" not in schema and "else" not in schema:
            return True
        condition = schema["if"]
        then, other = schema.get("then", True), schema.get("else", True)
        met = all_of([condition, then])
        unmet = all_of([negate(condition, self._resolve), other])
        return any_of([self.rewrite(met, place), self.rewrite(unmet, place)])

    # ------------------------------------------------------------------------------------------------- objects

    def _dependencies(self, schema: dict[str, Any], place: str) -> Schema:
        keyword = place.rsplit(".", 1)[1]
        parts: list[Schema] = []
        for name, wanted in schema[keyword].items():
            absent: Schema = {"properties": {name: False}}
            if isinstance(wanted, list):
                present: Schema = {"required": [name, *wanted]}
                if not wanted:
                    continue
            else:
                present = all_of([{"required": [name]}, self.rewrite(wanted, f"{place}.{name}")])
            parts.append(any_of([absent, present]))
        return all_of(parts)

    def _names_rule(self, schema: dict[str, Any], place: str) -> Schema:
        names: Schema = schema["propertyNames"]
        if names is True or names == {}:
            return True
        if names is False:
            return any_of([{"type": list(_NOT_OBJECT)}, {"type": "object", "maxProperties": 0}])
        declared = list(schema.get("properties", {}))
        check = self._validator.evolve(schema=names)
        wrong = [name for name in declared if not check.is_valid(name)]
        parts: list[Schema] = [{"properties": {name: False}} for name in wrong]
        if schema.get("additionalProperties", True) is False and not schema.get("patternProperties"):
            return all_of(parts)
        pattern = self._name_pattern(self.rewrite(names, place), place)
        parts.append({"patternProperties": {pattern: True}, "additionalProperties": False})
        return all_of(parts)

    def _name_pattern(self, names: Schema, place: str) -> str:
        if isinstance(names, dict):
            names = {key: value for key, value in names.items() if key != "type"}
            if set(names) == {"pattern"}:
                return str(names["pattern"])
            if set(names) == {"enum"}:
                texts = [value for value in names["enum"] if isinstance(value, str)]
                return f"^(?:{'|'.join(_escape(text) for text in texts)})$"
            if set(names) <= {"minLength", "maxLength"} and names:
                return rf"^[\s\S]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
        self._give_up(
            "propertyNames", place.rsplit(".", 1)[0], "only pattern, enum and lengths of names can be"
        )
        return r"^[\s\S]*$"

    def _count(self, schema: dict[str, Any], place: str) -> Schema:
        """`minProperties` / `maxProperties` by cases over the declared properties."""
        keyword = place.rsplit(".", 1)[1]
        if keyword == "maxProperties" and "minProperties" in schema:
            return True  # both are handled together
        low, high = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        required = list(schema.get("required", ()))
        declared = [
            name
            for name in dict.fromkeys([*schema.get("properties", {}), *required])
            if schema.get("properties", {}).get(name, True) is not False
        ]
        optional = [name for name in declared if name not in required]
        if low <= len(required) and high == math.inf:
            return True
        if not optional:
            return any_of([{"type": list(_NOT_OBJECT)}, self._counted(schema, place)])
        closed = schema.get("additionalProperties", True) is False and not schema.get("patternProperties")
        if closed:
            return self._closed_count(required, optional, low, high, place)
        return self._open_count(schema, required, optional, low, high, place)

    def _counted(self, schema: dict[str, Any], place: str) -> Schema:
        """The bounds beside the properties they count, where the engine can count by itself."""
        kept = {key: value for key, value in schema.items() if key in _OBJECT}
        result = self._plain({"type": "object", **kept}, place)
        assert isinstance(result, dict)
        return {**result, **{key: value for key, value in schema.items() if key in _COUNTS}}

    def _closed_count(
        self, required: list[str], optional: list[str], low: int, high: float, place: str
    ) -> Schema:
        if len(required) > high or len(required) + len(optional) < low:
            return {"type": list(_NOT_OBJECT)}
        need = max(0, low - len(required))
        parts: list[Schema] = []
        if need:
            combos = self._combinations(optional, need, place)
            parts.append(any_of({"required": list(combo)} for combo in combos))
        if high < len(required) + len(optional):
            leave_out = len(required) + len(optional) - int(high)
            combos = self._combinations(optional, leave_out, place)
            parts.append(any_of({"properties": dict.fromkeys(combo, False)} for combo in combos))
        return all_of(parts)

    def _open_count(
        self,
        schema: dict[str, Any],
        required: list[str],
        optional: list[str],
        low: int,
        high: float,
        place: str,
    ) -> Schema:
        """Open objects: at least one more property, declared or not."""
        keyword = place.rsplit(".", 1)[1]
        if high != math.inf or low - len(required) != 1 or schema.get("patternProperties"):
            return self._give_up(
                keyword, place.rsplit(".", 1)[0], "the object is open and has optional properties"
            )
        some: list[Schema] = [{"required": [name]} for name in optional]
        if not required:
            other = self.rewrite(schema.get("additionalProperties", True), place)
            some.append(
                {
                    "patternProperties": {other_texts(optional): other},
                    "additionalProperties": False,
                    "minProperties": 1,
                }
            )
        return any_of([*some, {"type": list(_NOT_OBJECT)}])

    def _combinations(self, names: list[str], size: int, place: str) -> list[tuple[str, ...]]:
        if math.comb(len(names), size) > MAX_COMBINATIONS:
            keyword = place.rsplit(".", 1)[1]
            raise Unenforceable(keyword, place, f"more than {MAX_COMBINATIONS} combinations of properties")
        return list(itertools.combinations(names, size))

    # -------------------------------------------------------------------------------------------------- arrays

    def _unique(self, schema: dict[str, Any], place: str) -> Schema:
        if schema["uniqueItems"] is False or schema.get("maxItems", math.inf) <= 1:
            return True
        items = schema.get("items")
        values = None if not isinstance(items, dict) else self._listed(items, 0)
        if values is None and isinstance(items, dict) and items.get("type") == "boolean":
            values = [False, True]
        if values is None:
            return self._give_up("uniqueItems", place.rsplit(".", 1)[0], "the items are not of a finite set")
        check = self._validator.evolve(schema=items)
        values = _unique([value for value in values if check.is_valid(value)])
        most = min(len(values), schema.get("maxItems", len(values)))
        count = sum(math.perm(len(values), size) for size in range(most + 1))
        if count > 2500:
            return self._give_up(
                "uniqueItems", place.rsplit(".", 1)[0], f"{count} arrays would have to be listed"
            )
        arrays = [list(some) for size in range(most + 1) for some in itertools.permutations(values, size)]
        return any_of([{"enum": arrays}, {"type": ["null", "boolean", "number", "string", "object"]}])

    def _contains(self, schema: dict[str, Any], place: str) -> Schema:
        least, most = schema.get("minContains", 1), schema.get("maxContains")
        if least == 0 and most is None:
            return True
        if least != 1 or most is not None or "prefixItems" in schema or isinstance(schema.get("items"), list):
            return self._give_up(
                "contains", place.rsplit(".", 1)[0], "only one contained item, without prefixItems"
            )
        wanted = self.rewrite(schema["contains"], place)
        last = min(CONTAINS_POSITIONS, schema.get("maxItems", CONTAINS_POSITIONS))
        options: list[Schema] = [
            {"type": "array", "prefixItems": [*[True] * index, wanted], "minItems": index + 1}
            for index in range(last)
        ]
        return any_of([*options, {"type": ["null", "boolean", "number", "string", "object"]}])


_OBJECT = ("properties", "patternProperties", "additionalProperties", "required")
_COUNTS = ("minProperties", "maxProperties")
_NOT_OBJECT = ("null", "boolean", "number", "string", "array")

_RULES: dict[str, Any] = {
    "allOf": Rewriter._all,
    "anyOf": Rewriter._any,
    "oneOf": Rewriter._one,
    "not": Rewriter._not,
    "if": Rewriter._if,
    "dependentRequired": Rewriter._dependencies,
    "dependentSchemas": Rewriter._dependencies,
    "dependencies": Rewriter._dependencies,
    "propertyNames": Rewriter._names_rule,
    "minProperties": Rewriter._count,
    "maxProperties": Rewriter._count,
    "uniqueItems": Rewriter._unique,
    "contains": Rewriter._contains,
}


def _numeric_bounds(result: dict[str, Any]) -> None:
    """Draft 4's boolean exclusive bounds as numbers."""
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(result.get(flag), bool):
            exclusive = result.pop(flag)
            if exclusive and bound in result:
                result[flag] = result.pop(bound)


def _unique(values: list[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(json.dumps(value, sort_keys=True), value)
    return list(seen.values())


def _escape(text: str) -> str:
    return "".join("\\" + c if c in r"\^$.|?*+()[]{}/" else c for c in text)


def rewrite(root: Schema, *, strict: bool) -> tuple[Schema, tuple[str, ...]]:
    """Rewrite a checked schema; returns it with what is not enforced. Raises `InvalidConstraint`."""
    rewriter = Rewriter(root, strict=strict)
    try:
        return rewriter.run(), tuple(rewriter.unenforced)
    except RecursionError:
        raise UnsupportedFeature("references nest too deeply", place="json_schema") from None
