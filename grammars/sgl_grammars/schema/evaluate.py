"""Deciding about values while rewriting: a validator that also knows what negation makes.

Negated schemas use keywords of newer drafts and our own `SOME`, whatever the draft of the document is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from sgl_grammars.schema.names import SOME

__all__ = ["evaluator"]

_LENT = ("const", "contains", "exclusiveMinimum", "exclusiveMaximum", "propertyNames", "prefixItems", "if")


@lru_cache(maxsize=16)
def evaluator(cls: Any) -> Any:
    """`cls` with the keywords that negation makes."""
    newest = jsonschema.Draft202012Validator.VALIDATORS
    more = {name: newest[name] for name in _LENT if name not in cls.VALIDATORS}
    extend: Any = jsonschema.validators.extend
    return extend(cls, {**more, SOME: _some})


def _some(validator: Any, some: dict[str, Any], instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    names, values = validator.evolve(schema=some["names"]), validator.evolve(schema=some["value"])
    if not any(names.is_valid(name) and values.is_valid(value) for name, value in instance.items()):
        yield ValidationError(f"no property is as {SOME} asks")
