r"""Patterns as text -> syntax tree.

Two dialects. ``regex`` (for `spec.Regex`): ``\d \w \s`` are Unicode classes as in Python's `re` and Rust's `regex`.
``ecma`` (for JSON Schema ``pattern``): ``\d`` and ``\w`` are ASCII and ``\s`` is ECMA-262's white space. In both, ``.``
is any character but a line feed, lazy quantifiers mean what greedy ones mean (a language has no preference), ``^`` and
``$`` are the ends of the text, and what is not regular or depends on context (look-around, back-references, ``\b``,
atomic groups) is refused by name, with its offset. There is no recursion: depth costs no stack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sgl_grammars.automaton import charset
from sgl_grammars.automaton.charset import ANY, DOT, Charset
from sgl_grammars.automaton.limits import DEFAULT_LIMITS, Limits
from sgl_grammars.automaton.syntax import (
    EMPTY,
    Anchor,
    Chars,
    Node,
    Repeat,
    alternatives,
    sequence,
)
from sgl_lang.errors import InvalidConstraint

__all__ = ["Dialect", "parse"]

Dialect = Literal["regex", "ecma"]

_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b", "0": "\0"}
_CLASSES = frozenset("dDwWsS")
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])")
_GROUP_NAME = re.compile(r"\(\?P?<([A-Za-z_]\w*)>")
_REFUSED_GROUPS = {
    "(?=": "look-ahead",
    "(?!": "negative look-ahead",
    "(?<=": "look-behind",
    "(?<!": "negative look-behind",
    "(?>": "an atomic group",
    "(?P=": "a back-reference",
    "(?(": "a conditional group",
    "(?R": "recursion",
    "(?|": "a branch reset",
    "(?&": "recursion",
}


@dataclass
class _Frame:
    """An open group: finished alternatives, the one being read, and the flags to go back to."""

    offset: int
    ignore_case: bool
    dot_all: bool
    done: list[Node] = field(default_factory=list)
    parts: list[Node] = field(default_factory=list)


def parse(pattern: str, dialect: Dialect = "regex", limits: Limits = DEFAULT_LIMITS) -> Node:
    """The tree of `pattern`; raises `InvalidConstraint` whose place is the offset of what is wrong."""
    return _Parser(pattern, dialect, limits).parse()


class _Parser:
    def __init__(self, pattern: str, dialect: Dialect, limits: Limits) -> None:
        self.text = pattern
        self.ecma = dialect == "ecma"
        self.limits = limits
        self.at = 0
        self.ignore_case = False
        self.dot_all = False
        self.frames = [_Frame(0, False, False)]

    def fail(self, message: str, at: int | None = None) -> InvalidConstraint:
        return InvalidConstraint(message, place=f"pattern offset {self.at if at is None else at}")

    def parse(self) -> Node:
        while self.at < len(self.text):
            self._step(self.text[self.at])
        if len(self.frames) > 1:
            raise self.fail("this group is not closed", self.frames[-1].offset)
        return self._close(self.frames.pop())

    def _step(self, character: str) -> None:
        frame = self.frames[-1]
        if character == "(":
            self._open()
        elif character == ")":
            if len(self.frames) == 1:
                raise self.fail("')' closes nothing")
            self.at += 1
            node = self._close(self.frames.pop())
            self.ignore_case, self.dot_all = frame.ignore_case, frame.dot_all
            self._atom(node)
        elif character == "|":
            self.at += 1
            frame.done.append(sequence(frame.parts))
            frame.parts = []
        elif character in "*+?" or (character == "{" and _COUNT.match(self.text, self.at)):
            raise self.fail(f"{character!r} repeats nothing")
        elif character in "^$":
            self.at += 1
            self._anchor(Anchor(character == "$"))
        else:
            self._plain(character)

    def _plain(self, character: str) -> None:
        if character == "[":
            node: Node = Chars(self._class())
        elif character == ".":
            self.at += 1
            node = Chars(ANY if self.dot_all else DOT)
        elif character == "\\":
            start = self.at
            escaped = self._escape(in_class=False)
            if isinstance(escaped, Anchor):
                self._anchor(escaped)
                return
            if not escaped:
                raise self.fail("this escape names no character", start)
            node = Chars(self._cased(escaped))
        else:
            self.at += 1
            if 0xD800 <= ord(character) <= 0xDFFF:
                raise self.fail("lone surrogate", self.at - 1)
            node = Chars(self._cased(charset.single(character)))
        self._atom(node)

    def _cased(self, one: Charset) -> Charset:
        return charset.fold_case(one) if self.ignore_case else one

    @staticmethod
    def _close(frame: _Frame) -> Node:
        return alternatives([*frame.done, sequence(frame.parts)])

    # groups

    def _open(self) -> None:
        if len(self.frames) > self.limits.nesting:
            raise self.fail(f"groups nest deeper than {self.limits.nesting}")
        start = self.at
        scope = (self.ignore_case, self.dot_all)
        if not self.text.startswith("(?", start):
            self.at += 1
        elif self.text.startswith("(?#", start):
            end = self.text.find(")", start)
            if end < 0:
                raise self.fail("this comment is not closed")
            self.at = end + 1
            return
        elif not self._open_extension(start):
            return
        self.frames.append(_Frame(start, *scope))

    def _open_extension(self, start: int) -> bool:
        """Read ``(?...``; False if it only set flags and opened nothing."""
        name = _GROUP_NAME.match(self.text, start)
        if name:
            self.at = name.end()
            return True
        for mark, what in _REFUSED_GROUPS.items():
            if self.text.startswith(mark, start):
                raise self.fail(f"{what} ({mark!r}) cannot be enforced", start)
        flags = _FLAGS.match(self.text, start)
        if not flags:
            raise self.fail("unknown kind of group", start)
        for names, value in ((flags[1], True), (flags[2] or "", False)):
            for flag in names:
                self._flag(flag, value, start)
        self.at = flags.end()
        return flags[3] == ":"

    def _flag(self, flag: str, value: bool, start: int) -> None:
        if flag == "i":
            self.ignore_case = value
        elif flag == "s":
            self.dot_all = value
        elif flag != "u" or not value:
            raise self.fail(f"flag {flag!r} is not supported (i, s and u are)", start)

    # atoms and how often

    def _anchor(self, node: Anchor) -> None:
        if self._quantifier() is not None:
            raise self.fail("an anchor cannot be repeated")
        self.frames[-1].parts.append(node)

    def _atom(self, node: Node) -> None:
        start = self.at
        bounds = self._quantifier()
        if bounds is not None:
            node = _repeat(node, *bounds)
            if self.at < len(self.text) and self.text[self.at] == "+":
                raise self.fail("a possessive quantifier cannot be enforced")
            if self.at < len(self.text) and self.text[self.at] == "?":
                self.at += 1
            if self._quantifier() is not None:
                raise self.fail("a quantifier follows a quantifier", start)
        self.frames[-1].parts.append(node)

    def _quantifier(self) -> tuple[int, int | None] | None:
        """Read ``* + ? {m} {m,} {m,n}`` if there is one."""
        character = self.text[self.at : self.at + 1]
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if character in simple:
            self.at += 1
            return simple[character]
        found = _COUNT.match(self.text, self.at) if character == "{" else None
        if found is None or not (found[1] or found[3]):
            return None
        if any(len(number) > 7 for number in (found[1], found[3])):
            raise self.fail("this count is too large")
        low = int(found[1] or 0)
        high = low if not found[2] else int(found[3]) if found[3] else None
        if high is not None and high < low:
            raise self.fail(f"cannot repeat at least {low} and at most {high} times")
        self.at = found.end()
        return low, high

    # escapes and classes

    def _escape(self, *, in_class: bool) -> Charset | Anchor:
        start = self.at
        if start + 1 >= len(self.text):
            raise self.fail("the pattern ends in a backslash")
        letter = self.text[start + 1]
        self.at = start + 2
        if letter in _CLASSES:
            return self._shorthand(letter)
        if letter in "pP":
            return self._property(letter == "P", start)
        if letter in "xuU":
            return self._hexadecimal(letter, start)
        if letter == "c":
            return self._control(start)
        if letter in _CONTROL:
            if letter == "0" and self.text[self.at : self.at + 1].isdigit():
                raise self.fail("octal escapes are not supported", start)
            return charset.single(_CONTROL[letter])
        if in_class and letter == "b":
            return charset.single("\b")
        if not in_class and letter in "AZz":
            return Anchor(letter != "A")
        if not letter.isalnum():
            return charset.single(letter)
        raise self._refused(letter, start)

    def _refused(self, letter: str, start: int) -> InvalidConstraint:
        if letter in "bB":
            return self.fail("a word boundary cannot be enforced", start)
        if letter in "123456789k":
            return self.fail("a back-reference cannot be enforced", start)
        return self.fail(f"unknown escape \\{letter}", start)

    def _shorthand(self, letter: str) -> Charset:
        kind = letter.lower()
        sets: dict[str, Callable[[bool], Charset]]
        sets = {"s": charset.space, "d": charset.digit, "w": charset.word}
        found = sets[kind](self.ecma)
        return found if letter == kind else charset.complement(found)

    def _property(self, negated: bool, start: int) -> Charset:
        found = re.compile(r"\{(\^?)([^}]*)\}|([A-Z])").match(self.text, self.at)
        if not found:
            raise self.fail("\\p needs a name in braces", start)
        self.at = found.end()
        name = found[2] if found[2] is not None else found[3]
        members = charset.named(name)
        if members is None:
            raise self.fail(f"unknown character property {name!r} (general categories are known)", start)
        return charset.complement(members) if negated != bool(found[1]) else members

    def _hexadecimal(self, letter: str, start: int) -> Charset:
        braced = re.compile(r"\{([0-9a-fA-F]{1,6})\}").match(self.text, self.at)
        if braced:
            self.at = braced.end()
            point = int(braced[1], 16)
        else:
            point = self._digits({"x": 2, "u": 4, "U": 8}[letter], start)
            if 0xD800 <= point <= 0xDBFF and self.text.startswith("\\u", self.at):
                self.at += 2
                low = self._digits(4, start)
                if not 0xDC00 <= low <= 0xDFFF:
                    raise self.fail("lone surrogate", start)
                point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise self.fail("this escape is not a character", start)
        return ((point, point),)

    def _digits(self, count: int, start: int) -> int:
        text = self.text[self.at : self.at + count]
        if not re.fullmatch(rf"[0-9a-fA-F]{{{count}}}", text):
            raise self.fail(f"this escape needs {count} hexadecimal digits", start)
        self.at += count
        return int(text, 16)

    def _control(self, start: int) -> Charset:
        letter = self.text[self.at : self.at + 1]
        if not (letter.isascii() and letter.isalpha()):
            raise self.fail("\\c needs a letter", start)
        self.at += 1
        return charset.single(chr(ord(letter) % 32))

    def _class(self) -> Charset:
        start = self.at
        self.at += 1
        negated = self.text.startswith("^", self.at)
        self.at += negated
        first, found = self.at, []
        while True:
            if self.at >= len(self.text):
                raise self.fail("this class is not closed", start)
            if self.text[self.at] == "]" and (self.at > first or self.ecma):
                break
            found.append(self._member())
        self.at += 1
        members = self._cased(charset.union(*found))
        return charset.complement(members) if negated else members

    def _member(self) -> Charset:
        """One character, shorthand, named class or range of a class."""
        start = self.at
        for operator in ("&&", "--", "~~"):
            if (
                self.text.startswith(operator, start)
                and not self.ecma
                and self.text[start + 2 : start + 3] == "["
            ):
                raise self.fail(f"class operation {operator!r} is not supported", start)
        if self.text.startswith("[:", start):
            end = self.text.find(":]", start)
            members = charset.posix(self.text[start + 2 : end]) if end > 0 else None
            if members is not None:
                self.at = end + 2
                return members
        low = self._class_atom()
        ranged = self.text.startswith("-", self.at) and not self.text.startswith("]", self.at + 1)
        if not ranged or self.at + 1 >= len(self.text):
            return low
        if len(low) != 1 or low[0][0] != low[0][1]:
            raise self.fail("a range must start at a single character", start)
        self.at += 1
        high = self._class_atom()
        if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
            raise self.fail("this range is not in order", start)
        return charset.normal([(low[0][0], high[0][0])])

    def _class_atom(self) -> Charset:
        if self.text[self.at] == "\\":
            found = self._escape(in_class=True)
            assert not isinstance(found, Anchor)
            return found
        self.at += 1
        return charset.single(self.text[self.at - 1])


def _repeat(node: Node, low: int, high: int | None) -> Node:
    if high == 0 or node == EMPTY:
        return EMPTY
    if (low, high) == (1, 1):
        return node
    if isinstance(node, Repeat) and (node.low, node.high) == (0, None):
        return node if low <= 1 else Repeat(node.part, 0, None)
    return Repeat(node, low, high)
