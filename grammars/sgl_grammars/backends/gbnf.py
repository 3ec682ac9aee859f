"""GBNF (the EBNF dialect of llama.cpp) read by a parser of our own and written as Lark.

Read here rather than by each engine's own reader so that mistakes are found at their line, depth is bounded, and
grammars without any finite text are refused before an engine sees them. Left recursion is fine (the engine behind it
is an Earley parser). A grammar without recursion becomes one terminal: exact, and much faster to match. With recursion
it becomes rules, whose terminals llguidance reads greedily without going back: `is_recursive` lets the caller prefer
another engine.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import NoReturn

from sgl_lang.errors import InvalidConstraint

__all__ = ["Grammar", "is_recursive", "parse", "to_lark"]

MAX_DEPTH = 100
MAX_REPEAT = 20_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RULE = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)[ \t]*::=")
_BLANK = re.compile(r"(?:[ \t]|#[^\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_REPEAT = re.compile(r"\{[ \t]*(\d*)[ \t]*(?:(,)[ \t]*(\d*)[ \t]*)?\}")
_ESCAPES = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    '"': '"',
    "\\": "\\",
    "[": "[",
    "]": "]",
    "'": "'",
    "-": "-",
    "^": "^",
}
_HEX = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Literal:
    text: str


@dataclass(frozen=True)
class CharacterClass:
    """Ranges of characters, both ends included; `negated`: any other character."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool


@dataclass(frozen=True)
class Reference:
    name: str
    offset: int


@dataclass(frozen=True)
class Repeat:
    item: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Row:
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Options:
    items: tuple[Node, ...]


Node = Literal | CharacterClass | Reference | Repeat | Row | Options


@dataclass
class Grammar:
    """Rules by name, in the order of the text."""

    rules: dict[str, Node] = field(default_factory=dict)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        raise InvalidConstraint(message, place=f"ebnf line {line}, column {column}")

    def blanks(self, lines: bool) -> None:
        match = (_BLANK_LINES if lines else _BLANK).match(self.text, self.at)
        self.at = match.end() if match else self.at

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def grammar(self) -> Grammar:
        grammar = Grammar()
        self.blanks(lines=True)
        while self.peek():
            head = _RULE.match(self.text, self.at)
            if head is None:
                self.fail("expected a rule: name ::= ...")
            if head[1] in grammar.rules:
                self.fail(f"rule {head[1]!r} is defined twice")
            self.at = head.end()
            self.blanks(lines=True)
            grammar.rules[head[1]] = self.options(nested=False)
            self.blanks(lines=True)
        return grammar

    def options(self, nested: bool) -> Node:
        items = [self.row(nested)]
        while self._bar(nested):
            self.at += 1
            self.blanks(lines=True)
            items.append(self.row(nested))
        return items[0] if len(items) == 1 else Options(tuple(items))

    def _bar(self, nested: bool) -> bool:
        """Is an option next? It may begin on the next line, too."""
        self.blanks(nested)
        if self.peek() == "|":
            return True
        match = _BLANK_LINES.match(self.text, self.at)
        end = match.end() if match else self.at
        if self.text[end : end + 1] == "|":
            self.at = end
            return True
        return False

    def row(self, nested: bool) -> Node:
        items: list[Node] = []
        while True:
            self.blanks(nested)
            if self.peek() in ("", "|", ")", "\n", "\r") or _RULE.match(self.text, self.at):
                break
            items.append(self.repeats(self.item()))
        return items[0] if len(items) == 1 else Row(tuple(items))

    def item(self) -> Node:
        character = self.peek()
        if character == '"':
            return self.literal()
        if character == "[":
            return self.character_class()
        if character == "(":
            return self.group()
        if character == ".":
            self.at += 1
            return CharacterClass((), negated=True)
        match = _NAME.match(self.text, self.at)
        if match is None:
            self.fail(f"unexpected {character!r}")
        self.at = match.end()
        return Reference(match[0], match.start())

    def group(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        opened = self.at
        self.at += 1
        self.blanks(lines=True)
        node = self.options(nested=True)
        self.blanks(lines=True)
        if self.peek() != ")":
            self.fail("bracket is not closed", opened)
        self.at += 1
        self.depth -= 1
        return node

    def repeats(self, item: Node) -> Node:
        while True:
            self.blanks(lines=False)
            character = self.peek()
            if character == "{":
                item = self.counted(item)
            elif character and character in "*+?":
                self.at += 1
                item = Repeat(item, int(character == "+"), 1 if character == "?" else None)
            else:
                return item

    def counted(self, item: Node) -> Node:
        match = _REPEAT.match(self.text, self.at)
        if match is None or not (match[1] or match[3]):
            self.fail("expected a repeat count like {2}, {2,} or {2,5}")
        low = int(match[1] or 0)
        high = low if match[2] is None else (int(match[3]) if match[3] else None)
        if max(low, high or 0) > MAX_REPEAT or (high is not None and high < low):
            self.fail(f"repeat count {match[0]} is not between 0 and {MAX_REPEAT}")
        self.at = match.end()
        return Repeat(item, low, high)

    def literal(self) -> Node:
        opened = self.at
        self.at += 1
        text: list[str] = []
        while self.peek() != '"':
            if not self.peek() or self.peek() == "\n":
                self.fail("quoted text is not closed", opened)
            text.append(self.character())
        self.at += 1
        return Literal("".join(text))

    def character_class(self) -> Node:
        opened = self.at
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[str, str]] = []
        while self.peek() != "]":
            if not self.peek() or self.peek() == "\n":
                self.fail("character class is not closed", opened)
            low = high = self.character()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.character()
            if low > high:
                self.fail(f"range {low!r}-{high!r} is empty")
            ranges.append((low, high))
        self.at += 1
        if not ranges and not negated:
            self.fail("character class is empty", opened)
        return CharacterClass(tuple(ranges), negated)

    def character(self) -> str:
        character = self.peek()
        self.at += 1
        if character != "\\":
            return character
        kind = self.peek()
        self.at += 1
        if kind in _HEX:
            digits = self.text[self.at : self.at + _HEX[kind]]
            if len(digits) < _HEX[kind] or not re.fullmatch("[0-9a-fA-F]+", digits):
                self.fail(f"\\{kind} needs {_HEX[kind]} hexadecimal digits")
            self.at += len(digits)
            return self.code_point(int(digits, 16))
        if kind not in _ESCAPES:
            self.fail(f"unknown escape \\{kind}")
        return _ESCAPES[kind]

    def code_point(self, code: int) -> str:
        if 0xDC00 > code >= 0xD800 and self.text[self.at : self.at + 2] == "\\u":  # the half of a pair
            low = self.text[self.at + 2 : self.at + 6]
            if re.fullmatch(r"[dD][c-fC-F][0-9a-fA-F]{2}", low):
                self.at += 6
                return chr(0x10000 + ((code - 0xD800) << 10) + (int(low, 16) - 0xDC00))
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self.fail(f"{code:#x} is not a character")
        return chr(code)


def parse(text: str, root: str = "root") -> Grammar:
    """Read and check a grammar. Raises `InvalidConstraint` with line and column.

    Refused: unknown rules, a missing `root`, and a root from which no finite text can be made.
    """
    reader = _Reader(text)
    grammar = reader.grammar()
    if root not in grammar.rules:
        raise InvalidConstraint(f"there is no rule {root!r}", place="ebnf")
    for node in grammar.rules.values():
        for reference in _references(node):
            if reference.name not in grammar.rules:
                reader.fail(f"there is no rule {reference.name!r}", reference.offset)
    if root not in _productive(grammar):
        raise InvalidConstraint(f"no finite text can be made from rule {root!r}", place="ebnf")
    return grammar


def _references(node: Node) -> list[Reference]:
    if isinstance(node, Reference):
        return [node]
    if isinstance(node, Repeat):
        return _references(node.item)
    if isinstance(node, (Row, Options)):
        return [reference for item in node.items for reference in _references(item)]
    return []


def _productive(grammar: Grammar) -> set[str]:
    """Names of the rules from which a finite text can be made."""
    known: set[str] = set()
    while True:
        found = {
            name for name, node in grammar.rules.items() if name not in known and _makes_text(node, known)
        }
        if not found:
            return known
        known |= found


def _makes_text(node: Node, known: set[str]) -> bool:
    if isinstance(node, Reference):
        return node.name in known
    if isinstance(node, Repeat):
        return node.low == 0 or _makes_text(node.item, known)
    if isinstance(node, Row):
        return all(_makes_text(item, known) for item in node.items)
    if isinstance(node, Options):
        return any(_makes_text(item, known) for item in node.items)
    return True


def is_recursive(grammar: Grammar, root: str) -> bool:
    """Can a rule that `root` needs contain itself?"""
    done: set[str] = set()
    active: set[str] = set()
    stack: list[tuple[str, bool]] = [(root, False)]
    while stack:
        name, leaving = stack.pop()
        if leaving:
            active.discard(name)
            done.add(name)
        elif name in active:
            return True
        elif name not in done:
            active.add(name)
            stack.append((name, True))
            needed = {reference.name for reference in _references(grammar.rules[name])}
            if needed & active:
                return True
            stack.extend((other, False) for other in needed if other not in done)
    return False


def to_lark(text: str, root: str = "root") -> str:
    """The grammar as Lark text with rule ``start``. Raises `InvalidConstraint`."""
    grammar = parse(text, root)
    stem = "r" if is_recursive(grammar, root) else "T"
    used = _reachable(grammar, root)
    names = {name: f"{stem}{index}" for index, name in enumerate(grammar.rules) if name in used}
    lines = [f"start: {names[root]}"]
    lines += [f"{name}: {_write(grammar.rules[old], names)}" for old, name in names.items()]
    return "\n".join(lines) + "\n"


def _reachable(grammar: Grammar, root: str) -> set[str]:
    found: set[str] = set()
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(reference.name for reference in _references(grammar.rules[name]))
    return found


def _write(node: Node, names: dict[str, str]) -> str:
    if isinstance(node, Literal):
        return json.dumps(node.text, ensure_ascii=False) if node.text else "/(?:)/"
    if isinstance(node, CharacterClass):
        return _write_class(node)
    if isinstance(node, Reference):
        return names[node.name]
    if isinstance(node, Repeat):
        high = "" if node.high is None else node.high
        return f"({_write(node.item, names)}){{{node.low},{high}}}"
    if isinstance(node, Row):
        return " ".join(f"({_write(item, names)})" for item in node.items) or "/(?:)/"
    return " | ".join(f"({_write(item, names)})" for item in node.items)


def _write_class(node: CharacterClass) -> str:
    if not node.ranges:
        return r"/(?s:.)/"
    parts = "".join(f"{_code(low)}-{_code(high)}" for low, high in node.ranges)
    return f"/[{'^' if node.negated else ''}{parts}]/"


def _code(character: str) -> str:
    return rf"\x{{{ord(character):x}}}"
