"""Reasoning that a model writes before its answer, between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sgl_grammars.tools.formats import held_back

__all__ = ["REASONING", "ReasoningFormat", "ReasoningParser", "find_reasoning"]


@dataclass(frozen=True)
class ReasoningFormat:
    """`begin` stands at the very start of an answer that has reasoning, `end` after it; both are special tokens."""

    begin: str
    end: str

    def parse(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer of a finished text."""
        parser = ReasoningParser(self)
        parts = [*parser.push(text), *parser.finish()]
        return (
            "".join(part for thought, part in parts if thought),
            "".join(part for thought, part in parts if not thought),
        )


REASONING: Sequence[ReasoningFormat] = (
    ReasoningFormat("<|think|>", "<|/think|>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
)


def find_reasoning(special: Iterable[str]) -> ReasoningFormat | None:
    """The format of a model with these special tokens; None if it has none."""
    names = set(special)
    return next((item for item in REASONING if item.begin in names and item.end in names), None)


class ReasoningParser:
    """Splits an answer that arrives in pieces. Marks are never shown; what may become one is held back."""

    def __init__(self, form: ReasoningFormat) -> None:
        self._form = form
        self._state = "start"
        self._buffer = ""

    def push(self, text: str) -> list[tuple[bool, str]]:
        """Pieces of text, each with whether it is reasoning."""
        self._buffer += text
        parts: list[tuple[bool, str]] = []
        if self._state == "start":
            self._start()
        if self._state == "reasoning":
            self._think(parts)
        if self._state == "answer" and self._buffer:
            parts.append((False, self._buffer))
            self._buffer = ""
        return parts

    def finish(self) -> list[tuple[bool, str]]:
        """What was held back, when the answer is over."""
        rest, self._buffer = self._buffer, ""
        return [(self._state == "reasoning", rest)] if rest else []

    def _start(self) -> None:
        begin = self._form.begin
        if self._buffer.startswith(begin):
            self._buffer, self._state = self._buffer[len(begin) :], "reasoning"
        elif not begin.startswith(self._buffer):
            self._state = "answer"

    def _think(self, parts: list[tuple[bool, str]]) -> None:
        end = self._form.end
        place = self._buffer.find(end)
        shown = place if place >= 0 else len(self._buffer) - held_back(self._buffer, end)
        if shown:
            parts.append((True, self._buffer[:shown]))
        self._buffer = self._buffer[shown:]
        if place >= 0:
            self._buffer, self._state = self._buffer[len(end) :], "answer"
