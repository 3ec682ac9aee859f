"""Reasoning before an answer, and quotations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from sgl_grammars.spec import Choice
from sgl_lang import sampling as sampling_keywords
from sgl_lang.errors import InvalidRequest
from sgl_lang.expr import GenExpr, Handle
from sgl_lang.sampling import SamplingKeywords
from sgl_lang.tree import Gen, Text
from sgl_lang.types import TEXT, TypeForm

if TYPE_CHECKING:
    from sgl_lang.state import ProgramState

__all__ = ["ThinkExpr", "copy_from", "think"]

_MOST_SPANS = 1000


class ThinkExpr(Handle[str]):
    """Free text between the model's thinking marks; made by `think`."""

    __slots__ = ("marks", "sampling")

    def __init__(self, name: str | None, sampling: Mapping[str, Any], marks: tuple[str, str] | None) -> None:
        super().__init__(name, TEXT)
        self.sampling = sampling
        self.marks = marks

    def apply(self, state: ProgramState) -> None:
        execution = state.execution
        begin, end = self.marks or execution.think_marks()
        state.add_node(Text(id=execution.new_node(), text=begin, special=True))
        fields = {
            **self.sampling,
            "stop": (*self.sampling.get("stop", ()), end),
            "skip_special_tokens": False,
        }
        params = sampling_keywords.params(fields, execution.options.sampling)
        state.generate(self, Gen(id=execution.new_node(), name=self.name, sampling=params))
        state.add_node(Text(id=execution.new_node(), text=end, special=True))


def think(
    name: str | None = None, *, marks: tuple[str, str] | None = None, **sampling: Unpack[SamplingKeywords]
) -> ThinkExpr:
    """Let the model reason, unconstrained, between its own thinking marks; what follows can be constrained.

    ``s += sgl.assistant(sgl.think("why", max_tokens=200) + sgl.gen("answer", int))``. `marks`: begin and end, where the
    backend does not know those of its model. The value is the reasoning without marks.
    """
    return ThinkExpr(name, sampling_keywords.normalised(sampling), marks)


def copy_from(
    source: str | Sequence[str], name: str | None = None, **sampling: Unpack[SamplingKeywords]
) -> GenExpr[str]:
    """Quote one span of `source` (its sentences and lines, or the spans given) word for word.

    The model chooses; as soon as only one span is left, the rest of it is forced: prefilled, not decoded.
    """
    spans = _sentences(source) if isinstance(source, str) else [str(span) for span in source]
    unique = tuple(dict.fromkeys(span for span in spans if span))
    if not 1 <= len(unique) <= _MOST_SPANS:
        raise InvalidRequest(
            f"must hold 1 to {_MOST_SPANS} spans, got {len(unique)}", place="copy_from(source)"
        )
    form: TypeForm[str] = TypeForm("quotation", Choice(unique), str)
    return GenExpr(name, form, sampling_keywords.normalised(sampling))


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
