"""Constraints -> byte automata: which constraints are regular, and how each is built."""

from __future__ import annotations

import json

from sgl_grammars.automaton import combine
from sgl_grammars.automaton.dfa import Dfa
from sgl_grammars.automaton.limits import Budget, NotRegular
from sgl_grammars.automaton.regex import compile_pattern
from sgl_grammars.automaton.schema import schema_dfa
from sgl_grammars.spec import Choice, Constraint, JsonSchema, Regex
from sgl_lang.errors import InvalidConstraint

__all__ = ["build_dfa"]


def build_dfa(constraint: Constraint, budget: Budget) -> Dfa:
    """The automaton of a constraint's texts. Raises `NotRegular`, `TooLarge` or `InvalidConstraint`."""
    if isinstance(constraint, Regex):
        dfa, name = compile_pattern(constraint.pattern, budget), "regex"
    elif isinstance(constraint, Choice):
        dfa, name = combine.words([choice.encode() for choice in constraint.choices], budget), "choice"
    elif isinstance(constraint, JsonSchema):
        dfa, name = schema_dfa(json.loads(constraint.schema), constraint.layout, budget), "json_schema"
    else:
        raise NotRegular(
            f"constraints of kind {constraint.__struct_config__.tag!r} are not built as automata"
        )
    if dfa.is_empty:
        raise InvalidConstraint("no text satisfies it", place=name)
    return dfa
