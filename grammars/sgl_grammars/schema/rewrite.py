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
from collections.abc import Iterable
from typing import Any

import jsonschema

from sgl_grammars.automaton.dfa import Dfa
from sgl_grammars.schema.algebra import (
    UNSAID,
    all_of,
    any_of,
    closed_names,
    disjoint,
    negate,
    other_texts,
    property_schema,
    prune,
    values_of,
)
from sgl_grammars.schema.evaluate import evaluator
from sgl_grammars.schema.formats import NATIVE_FORMATS, PATTERN_FORMATS, UNENFORCED_FORMATS
from sgl_grammars.schema.languages import (
    EVERY,
    NotSayable,
    both,
    but_not,
    pattern_of,
    texts,
    texts_in,
    union,
)
from sgl_grammars.schema.load import Schema, dialect
from sgl_grammars.schema.merge import Merger
from sgl_grammars.schema.names import SOME, allows_name, language
from sgl_grammars.schema.opposites import between_multiples, other_text
from sgl_grammars.schema.patterns import ecma
from sgl_grammars.schema.resolve import References
from sgl_lang.errors import InvalidConstraint, UnsupportedFeature

MAX_COMBINATIONS = 300
MAX_ENUM = 100_000
MAX_SIZE = 150
MAX_STEPS = 1_500
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


class Unsayable(Unenforceable):
    """The opposite of a fact has no schema. As one of several options it is left out: what remains is still valid."""


class Rewriter:
    """Rewrites one document. `unenforced` collects ``place.keyword`` where not `strict`.

    `narrowed` collects places where the result holds only a part of the valid values, never an invalid one: an option
    that comes from a negation and cannot be said is left out, an undeclared property is asked for by a pattern that all
    others then follow, numbers between multiples are listed near zero only.
    """

    def __init__(self, root: Schema, *, strict: bool = True) -> None:
        self.root = root
        self.strict = strict
        self.unenforced: list[str] = []
        self.narrowed: list[str] = []
        self._references = References(root)
        cls = dialect(root)
        self._validator = evaluator(cls)(root, format_checker=cls.FORMAT_CHECKER)
        self._steps = 0
        self._most_steps = MAX_STEPS + 2 * _size(root)
        self._around: tuple[dict[str, Any], ...] = ()
        self._siblings_count = cls in (
            jsonschema.Draft201909Validator,
            jsonschema.Draft202012Validator,
        )
        self._definitions: dict[str, Schema] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []

    def run(self) -> Schema:
        top = self.rewrite(self.root, "json_schema")
        merger = Merger(self._definitions)
        top = merger.flatten(top)
        definitions = {name: merger.flatten(one) for name, one in self._definitions.items()}
        if isinstance(top, bool) or not definitions:
            return top
        return {**top, "$defs": definitions}

    # -------------------------------------------------------------------------------------------- one subschema

    def rewrite(self, schema: Schema, place: str) -> Schema:
        """Rewrite what stands for a value of its own: a property, an item, the whole."""
        return self._within((), schema, place)

    def _same(self, schema: Schema, place: str, *beside: Schema) -> Schema:
        """Rewrite what speaks of the same value as the schema around it, and as `beside`."""
        more = tuple(one for one in beside if isinstance(one, dict))
        return self._within((*self._around, *more), schema, place)

    def _within(self, around: tuple[dict[str, Any], ...], schema: Schema, place: str) -> Schema:
        if isinstance(schema, bool):
            return schema
        self._steps += 1
        if self._steps > self._most_steps:
            raise UnsupportedFeature("the schema unfolds to too many parts", place=place)
        before = self._around
        self._around = (*around, schema)
        try:
            return self._rewrite(schema, place)
        finally:
            self._around = before

    def _rewrite(self, schema: dict[str, Any], place: str) -> Schema:
        if isinstance(schema.get("$ref"), str):
            return self._reference(schema, place)
        finite = self._finite(schema, place)
        if finite is not None:
            return finite
        parts: list[Schema] = [self._plain(schema, place)]
        for keyword, rule in _RULES.items():
            if keyword in schema:
                parts.append(rule(self, schema, f"{place}.{keyword}"))
        for keyword in REFUSED:
            if schema.get(keyword, True) not in (True, {}):
                self._give_up(keyword, place, "the keyword depends on what other subschemas saw")
        return all_of(parts)

    def _options(self, options: Iterable[Schema], place: str, *, numbered: bool = False) -> Schema:
        """The union of what can be said of `options`; without those that a negation made and nothing can say."""
        said: list[Schema] = []
        lost: Unsayable | None = None
        strict, self.strict = self.strict, True
        try:
            for index, option in enumerate(options):
                try:
                    said.append(self._same(option, f"{place}.{index}" if numbered else place))
                except Unsayable as error:
                    lost = error
        finally:
            self.strict = strict
        result = any_of(said)
        if lost is not None and result is False:
            raise lost
        if lost is not None:
            self.narrowed.append(place)
        return result

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
        return all_of([pointed, self._same(rest, place, target)])

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
            result["pattern"] = self._pattern(result["pattern"], place)
        _numeric_bounds(result)
        if isinstance(result.get("required"), list):
            result["required"] = list(dict.fromkeys(result["required"]))
        self._object(schema, result, place)
        self._array(schema, result, place)
        self._format(schema, result, place)
        return result

    def _pattern(self, pattern: str, place: str) -> str:
        """The pattern for the engine; one with a negative look-ahead at its start by way of an automaton."""
        if "(?!" not in pattern:
            return ecma(pattern)
        try:
            return pattern_of(texts(pattern))
        except NotSayable as error:
            self._give_up("pattern", place, str(error))
            return ""

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
        parts: list[Schema] = [self._inlined(part) for part in schema["allOf"]]
        return all_of(
            self._same(part, f"{place}.{index}", *parts[:index], *parts[index + 1 :])
            for index, part in enumerate(parts)
        )

    def _inlined(self, part: Schema) -> Schema:
        """The target in place of a reference whose meaning depends on what stands around it."""
        if isinstance(part, dict) and set(part) == {"$ref"}:
            target = self._resolve(part)
            if isinstance(target, dict) and _LOOKING_AROUND & set(target) and "$ref" not in target:
                return target
        return part

    def _any(self, schema: dict[str, Any], place: str) -> Schema:
        return self._options(schema["anyOf"], place, numbered=True)

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
            around = self._merged(option, context)
            rivals = [r for r in rivals if not disjoint(all_of([option, context]), r, self._resolve)]
            rivals = [r for r in rivals if not disjoint(around, r, self._resolve)]
            names = closed_names(all_of([option, *self._around]), self._resolve)
            without = (
                self._lighter(prune(negate(rival, self._resolve, within=names), around, self._resolve), place)
                for rival in rivals
            )
            alone = all_of([option, *without])
            exclusive.append(self._same(alone, f"{place}.{index}"))
        return any_of(exclusive)

    def _lighter(self, union: Schema, place: str) -> Schema:
        """A union without its largest options where it is too large to be multiplied out."""
        if isinstance(union, bool) or "anyOf" not in union or _size(union) <= MAX_SIZE:
            return union
        kept: list[Schema] = []
        left = MAX_SIZE
        for option in sorted(union["anyOf"], key=_size):
            left -= _size(option)
            if kept and left < 0:
                break
            kept.append(option)
        self.narrowed.append(place)
        return {**union, "anyOf": [option for option in union["anyOf"] if option in kept]}

    def _merged(self, option: Schema, context: Schema) -> Schema:
        """What an object must be at least: the option with what stands beside the `oneOf`, one level deep."""
        if isinstance(option, dict) and "$ref" in option:
            option = self._resolve(option)
        if isinstance(option, bool) or isinstance(context, bool):
            return option
        required = [*context.get("required", ()), *option.get("required", ())]
        properties = {**context.get("properties", {}), **option.get("properties", {})}
        return {**context, **option, "required": required, "properties": properties}

    def _not(self, schema: dict[str, Any], place: str) -> Schema:
        wrong = schema["not"]
        if isinstance(wrong, dict) and _is_atom(wrong):
            return self._atom(wrong, place)
        around: list[Schema] = [{**one, "not": {}} if one is schema else one for one in self._around]
        names = closed_names(all_of(around), self._resolve)
        opposite = negate(wrong, self._resolve, within=names)
        return self._same(opposite, place)

    def _atom(self, fact: dict[str, Any], place: str) -> Schema:
        """The opposite of one fact that algebra leaves as it is."""
        said = self._opposite(fact, place)
        if said is not None:
            return said
        keyword = next((key for key in fact if key != UNSAID), "not")
        why = f"the opposite of {keyword!r} has no schema"
        if self.strict:
            raise Unsayable("not", place, why)
        return self._give_up("not", place.removesuffix(".not"), why)

    def _opposite(self, fact: dict[str, Any], place: str) -> Schema | None:
        if UNSAID in fact:
            return None
        if set(fact) in ({"pattern"}, {"format"}):
            said = other_text(fact, self._facts())
            return False if said == {"enum": []} else said
        said, complete = between_multiples(fact.get("multipleOf", 1), *self._bounds())
        if not complete:
            self.narrowed.append(place)
        return said if "multipleOf" in fact else any_of([{"type": list(_NOT_NUMBER)}, said])

    def _bounds(self) -> tuple[float | None, float | None]:
        """The least and the largest number that the schemas around allow."""
        facts = self._facts()
        low = [fact[key] for fact in facts for key in ("minimum", "exclusiveMinimum") if key in fact]
        high = [fact[key] for fact in facts for key in ("maximum", "exclusiveMaximum") if key in fact]
        return max(low, default=None), min(high, default=None)

    def _if(self, schema: dict[str, Any], place: str) -> Schema:
        if "then" not in schema and "else" not in schema:
            return True
        condition = schema["if"]
        then, other = schema.get("then", True), schema.get("else", True)
        met = all_of([condition, then])
        unmet = all_of([negate(condition, self._resolve), other])
        return self._options([met, unmet], place)

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
                present = all_of([{"required": [name]}, self._same(wanted, f"{place}.{name}")])
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

    def _some(self, schema: dict[str, Any], place: str) -> Schema:
        """Some property with a name of one kind and a wrong value: a declared one, or by a pattern for all others."""
        wanted = schema[SOME]
        facts = self._facts()
        declared = _declared(facts)
        options: list[Schema] = [
            {"type": "object", "required": [name], "properties": {name: wanted["value"]}}
            for name in declared
            if allows_name(wanted["names"], name, self._resolve)
            and not any(
                disjoint(wanted["value"], property_schema(fact, name), self._resolve) for fact in facts
            )
        ]
        if closed_names(all_of({**fact, "allOf": []} for fact in facts), self._resolve) is None:
            options += self._undeclared(facts, declared, place)
        if not options:
            raise Unsayable("not", place, "no property that is known to be possible breaks it")
        return self._options(options, place)

    def _undeclared(self, facts: list[dict[str, Any]], declared: list[str], place: str) -> list[Schema]:
        """Objects all of whose properties are what every `SOME` around asks for."""
        self.narrowed.append(place)
        if declared:
            return []
        wanted = [fact[SOME] for fact in facts if SOME in fact]
        value = all_of(one["value"] for one in wanted)
        try:
            names = EVERY
            for one in wanted:
                names = both(names, language(one["names"], self._resolve))
            for fact in facts:
                names = self._possible(names, fact, value)
            pattern = pattern_of(names)
        except NotSayable:
            return []
        return [
            {
                "type": "object",
                "patternProperties": {pattern: value},
                "additionalProperties": False,
                "minProperties": 1,
            }
        ]

    def _possible(self, names: Dfa, fact: dict[str, Any], value: Schema) -> Dfa:
        """`names` without those that `fact` lets have no such value."""
        if "propertyNames" in fact:
            names = both(names, language(fact["propertyNames"], self._resolve))
        covered = texts_in(fact.get("properties", ()))
        for pattern, schema in fact.get("patternProperties", {}).items():
            if disjoint(schema, value, self._resolve):
                names = but_not(names, texts(pattern))
            covered = union(covered, texts(pattern))
        if "additionalProperties" in fact and disjoint(fact["additionalProperties"], value, self._resolve):
            names = both(names, covered)
        return names

    def _facts(self) -> list[dict[str, Any]]:
        """The schemas that the value at hand satisfies, all of them, as far as they are plain to see."""
        found: list[dict[str, Any]] = []
        todo: list[Schema] = list(self._around)
        while todo and len(found) < 64:
            fact = todo.pop(0)
            if not isinstance(fact, dict) or fact in found:
                continue
            if "$ref" in fact:
                todo.append(self._resolve(fact))
            else:
                found.append(fact)
                todo.extend(fact.get("allOf", ()))
        return found

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
_LOOKING_AROUND = frozenset({"not", "oneOf", "if", "minProperties", "maxProperties"})
_NOT_NUMBER = ("null", "boolean", "string", "array", "object")
_ATOM = frozenset({"pattern", "format", "multipleOf"})
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
    SOME: Rewriter._some,
}


def _numeric_bounds(result: dict[str, Any]) -> None:
    """Draft 4's boolean exclusive bounds as numbers."""
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(result.get(flag), bool):
            exclusive = result.pop(flag)
            if exclusive and bound in result:
                result[flag] = result.pop(bound)


def _declared(facts: list[dict[str, Any]]) -> list[str]:
    """The property names that `facts` mention and none of them rules out."""
    names = [name for fact in facts for name in (*fact.get("properties", ()), *fact.get("required", ()))]
    return [
        name
        for name in dict.fromkeys(names)
        if not any(fact.get("properties", {}).get(name) is False for fact in facts)
    ]


def _is_atom(fact: dict[str, Any]) -> bool:
    """One fact that `negate` leaves as a `not`."""
    return UNSAID in fact or fact == {"type": "integer"} or (len(fact) == 1 and not _ATOM.isdisjoint(fact))


def _size(schema: Any) -> int:
    """Values in a schema, itself included."""
    if isinstance(schema, dict):
        return 1 + sum(map(_size, schema.values()))
    return 1 + sum(map(_size, schema)) if isinstance(schema, list) else 1


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
        return rewriter.run(), tuple(dict.fromkeys(rewriter.unenforced))
    except RecursionError:
        raise UnsupportedFeature("references nest too deeply", place="json_schema") from None
