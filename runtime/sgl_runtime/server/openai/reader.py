"""Reads an answer as it arrives: reasoning, text and tool calls as OpenAI's deltas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sgl_grammars.tools import Call, ReasoningFormat, ReasoningParser, ToolCallParser, ToolFormat, ToolPart
from sgl_runtime.server.serving import new_id

__all__ = ["AnswerReader"]


class AnswerReader:
    """One answer. A format that is None is not looked for."""

    def __init__(self, reasoning: ReasoningFormat | None, tools: ToolFormat | None) -> None:
        self._reasoning = None if reasoning is None else ReasoningParser(reasoning)
        self._tools = None if tools is None else ToolCallParser(tools)

    @property
    def calls(self) -> list[Call]:
        """The calls that are complete."""
        return [] if self._tools is None else self._tools.calls

    def push(self, text: str) -> list[dict[str, Any]]:
        """The deltas that `text` completes."""
        if self._reasoning is None:
            return self._answer(text)
        return self._split(self._reasoning.push(text))

    def finish(self) -> list[dict[str, Any]]:
        """The deltas of what was held back."""
        deltas = [] if self._reasoning is None else self._split(self._reasoning.finish())
        return deltas if self._tools is None else [*deltas, *map(_delta, self._tools.finish())]

    def message(self, text: str) -> dict[str, Any]:
        """The whole message of a finished answer."""
        deltas = [*self.push(text), *self.finish()]
        content = "".join(delta.get("content", "") for delta in deltas)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas)
        if thoughts:
            message["reasoning_content"] = thoughts
        if self.calls:
            message["content"] = content or None
            message["tool_calls"] = [_call(call.name, call.arguments) for call in self.calls]
        return message

    def _split(self, parts: Iterable[tuple[bool, str]]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for thought, text in parts:
            deltas += [{"reasoning_content": text}] if thought else self._answer(text)
        return deltas

    def _answer(self, text: str) -> list[dict[str, Any]]:
        if self._tools is None:
            return [{"content": text}] if text else []
        return [_delta(part) for part in self._tools.push(text)]


def _delta(part: ToolPart) -> dict[str, Any]:
    """A parsed piece: a call's id and name come once, its arguments in fragments."""
    if part.kind == "text":
        return {"content": part.text}
    if part.kind == "call":
        return {"tool_calls": [{"index": part.index, **_call(part.text, "")}]}
    return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": new_id("call"), "type": "function", "function": {"name": name, "arguments": arguments}}
