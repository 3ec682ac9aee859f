"""How model families write tool calls, as data: what stands before, between and after the parts of a call.

A call is ``prefix`` + name + ``middle`` + arguments (a JSON object) + ``suffix``. From that follow the
grammar that makes calls valid while they are generated (`constraint`), and the parser that reads them back
(`ToolCallParser`). Formats whose marks are special tokens need them shown in the text
(`SamplingParams.skip_special_tokens` False).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sgl_grammars.spec import JsonSchema, StructuralTag, Tag

__all__ = ["FORMATS", "Call", "Tool", "ToolCallParser", "ToolFormat", "ToolPart", "find_format", "held_back"]

_LONGEST_NAME = 512
ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True)
class Tool:
    """A tool that may be called. `parameters`: JSON text of the schema of its arguments. `strict`: enforce
    every
    keyword of the schema or refuse it, otherwise enforce what can be."""

    name: str
    parameters: str = ANY_OBJECT
    description: str = ""
    strict: bool = False


@dataclass(frozen=True)
class ToolFormat:
    """One family's way to write calls.

    `trigger`: how `prefix` begins; where it appears in free text, a call must follow. `marks`: special
    tokens whose presence in a vocabulary tells the family. `hint`: a text in the chat template that tells
    it where there are no such tokens. `separator` stands between two calls.
    """

    name: str
    trigger: str
    prefix: str
    middle: str
    suffix: str
    marks: tuple[str, ...] = ()
    hint: str = ""
    separator: str = ""
    parallel: bool = True

    def begin(self, name: str) -> str:
        return self.prefix + name + self.middle

    def tag(self, tool: Tool) -> Tag:
        """The tag that holds a call of `tool`."""
        return Tag(
            begin=self.begin(tool.name),
            content=JsonSchema(schema=tool.parameters, strict=tool.strict),
            end=self.suffix,
        )

    def constraint(
        self,
        tools: Sequence[Tool],
        *,
        choice: Literal["auto", "required"] = "auto",
        at_most: int | None = None,
    ) -> StructuralTag:
        """What holds an answer to valid calls of `tools`.

        ``auto``: free text with any number of calls (`at_most` bounds them). ``required``: calls alone, at
        least one.
        """
        if not self.parallel:
            at_most = 1
        return StructuralTag(
            tags=tuple(self.tag(tool) for tool in tools),
            triggers=(self.trigger,),
            free_text=choice == "auto",
            at_least=0 if choice == "auto" else 1,
            at_most=at_most,
            separator=self.separator,
        )

    def write(self, name: str, arguments: str) -> str:
        """A call as the model would have written it; `arguments` is JSON text."""
        return f"{self.begin(name)}{arguments}{self.suffix}"

    def parse(self, text: str) -> tuple[str, list[Call]]:
        """The free text and the complete calls of a finished answer."""
        parser = ToolCallParser(self)
        parts = [*parser.push(text), *parser.finish()]
        return "".join(part.text for part in parts if part.kind == "text"), parser.calls


SGL_TINY = ToolFormat(
    name="sgl-tiny",
    trigger="<|call|>",
    prefix='<|call|>{"name":"',
    middle='","arguments":',
    suffix="}<|/call|>",
    marks=("<|call|>", "<|/call|>"),
)
HERMES = ToolFormat(
    name="hermes",
    trigger="<tool_call>",
    prefix='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    suffix="}\n</tool_call>",
    separator="\n",
    hint="<tool_call>",
)
LLAMA_JSON = ToolFormat(
    name="llama-json",
    trigger='{"name": "',
    prefix='{"name": "',
    middle='", "parameters": ',
    suffix="}",
    marks=("<|eom_id|>", "<|python_tag|>"),
    parallel=False,
)
MISTRAL_ARGS = ToolFormat(
    name="mistral-args",
    trigger="[TOOL_CALLS]",
    prefix="[TOOL_CALLS]",
    middle="[ARGS]",
    suffix="",
    marks=("[TOOL_CALLS]", "[ARGS]"),
)

FORMATS: Mapping[str, ToolFormat] = {item.name: item for item in (SGL_TINY, MISTRAL_ARGS, LLAMA_JSON, HERMES)}


def find_format(special: Iterable[str], template: str = "") -> ToolFormat | None:
    """The format of a model with these `special` tokens and this chat template; None if none is known."""
    names = set(special)
    for item in FORMATS.values():
        if item.marks and names.issuperset(item.marks):
            return item
        if item.hint and item.hint in template:
            return item
    return None


# ---------------------------------------------------------------------------------------------------------
# parsing


@dataclass(frozen=True)
class Call:
    """A complete call: `arguments` is the JSON text that the model wrote."""

    name: str
    arguments: str

    def value(self) -> Any:
        """The arguments as data. Raises `ValueError` if they are no JSON."""
        return json.loads(self.arguments)


@dataclass(frozen=True)
class ToolPart:
    """A piece of an answer: free text; the beginning of call `index` (`text` is the name); more of its
    arguments.
    """

    kind: Literal["text", "call", "arguments"]
    text: str
    index: int = 0


class ToolCallParser:
    """Splits an answer that arrives in pieces into free text and calls, in time linear in its length.

    Nothing of a call is shown as text, and nothing of the marks as arguments: what may still turn out to be
    a mark is held back. An answer that breaks off inside a call keeps the arguments as far as they came.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._state: Literal["text", "name", "arguments", "suffix", "after"] = "text"
        self._buffer = ""
        self._name = ""
        self._written: list[str] = []
        self._scanner = _ObjectScanner()
        self.calls: list[Call] = []
        self.started = 0

    def push(self, text: str) -> list[ToolPart]:
        """The parts that `text` completes."""
        self._buffer += text
        parts: list[ToolPart] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self) -> list[ToolPart]:
        """What was held back, when the answer is over."""
        rest, self._buffer = self._buffer, ""
        if self._state in ("text", "after"):
            kept = rest if self._state == "text" or rest != self._format.separator else ""
            return [ToolPart("text", kept)] if kept else []
        if self._state == "name":
            return [ToolPart("text", self._format.prefix + rest)]
        return []

    def _advance(self, parts: list[ToolPart]) -> bool:
        """One state's work on the buffer; True if the next state may have work too."""
        step = {
            "text": self._text,
            "name": self._read_name,
            "arguments": self._arguments,
            "suffix": self._suffix,
            "after": self._after,
        }[self._state]
        return step(parts)

    def _text(self, parts: list[ToolPart]) -> bool:
        place = self._buffer.find(self._format.prefix)
        if place < 0:
            self._show(len(self._buffer) - held_back(self._buffer, self._format.prefix), parts)
            return False
        self._show(place, parts)
        self._buffer = self._buffer[len(self._format.prefix) :]
        self._state = "name"
        return True

    def _show(self, end: int, parts: list[ToolPart]) -> None:
        if end:
            parts.append(ToolPart("text", self._buffer[:end]))
            self._buffer = self._buffer[end:]

    def _read_name(self, parts: list[ToolPart]) -> bool:
        place = self._buffer.find(self._format.middle)
        if place < 0:
            if len(self._buffer) <= _LONGEST_NAME:
                return False
            self._buffer, self._state = self._format.prefix + self._buffer, "text"
            self._show(len(self._format.prefix), parts)
            return True
        self._name = self._buffer[:place]
        self._buffer = self._buffer[place + len(self._format.middle) :]
        parts.append(ToolPart("call", self._name, self.started))
        self.started += 1
        self._scanner, self._written = _ObjectScanner(), []
        self._state = "arguments"
        return True

    def _arguments(self, parts: list[ToolPart]) -> bool:
        end = self._scanner.push(self._buffer)
        taken = self._buffer if end is None else self._buffer[:end]
        if taken:
            parts.append(ToolPart("arguments", taken, self.started - 1))
            self._written.append(taken)
        self._buffer = self._buffer[len(taken) :]
        if end is None:
            return False
        self.calls.append(Call(self._name, "".join(self._written)))
        self._state = "suffix"
        return True

    def _suffix(self, parts: list[ToolPart]) -> bool:
        """Skip the suffix; a model that was not held to it may leave it out."""
        suffix = self._format.suffix
        if len(self._buffer) < len(suffix) and suffix.startswith(self._buffer):
            return False
        self._buffer = self._buffer.removeprefix(suffix)
        self._state = "after"
        return True

    def _after(self, parts: list[ToolPart]) -> bool:
        """Between calls: the separator belongs to nobody."""
        separator = self._format.separator
        if separator and len(self._buffer) < len(separator) and separator.startswith(self._buffer):
            return False
        rest = self._buffer.removeprefix(separator)
        if separator and len(rest) < len(self._format.prefix) and self._format.prefix.startswith(rest):
            return False
        if rest.startswith(self._format.prefix):
            self._buffer = rest
        self._state = "text"
        return True


class _ObjectScanner:
    """Finds the end of a JSON object by its braces and strings, character by character."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escaped = False

    def push(self, text: str) -> int | None:
        """The place in `text` after the object's last brace; None if the object goes on."""
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._string:
                self._escaped = character == "\\"
                self._string = character != '"'
            elif character == '"':
                self._string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None


def held_back(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
