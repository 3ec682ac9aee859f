"""Where a generation's text must stop: stop strings and a stop regex, found incrementally and in linear time.

Text is bytes here (UTF-8), so that a token may end inside a character. A client's `stop_regex` never reaches
a backtracking matcher: it is run as a nondeterministic automaton (Thompson, "Regular expression search
algorithm", CACM 1968) with one step per character, whatever the pattern.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sgl_lang.errors import InvalidRequest

try:  # the parser of `re`, under its name since Python 3.11
    from re import _constants as _c  # type: ignore[attr-defined]
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as _c
    import sre_parse as _parser

__all__ = ["Found", "StopFinder", "StopRegex", "compile_stop_regex"]

MAX_STATES = 5_000


@dataclass(frozen=True)
class Found:
    """A stop in the text: bytes `[start, end)`, and which one (its text)."""

    start: int
    end: int
    stop: str


# ------------------------------------------------------------------------------------------------- stop regex

_Test = Callable[[str], bool]


class StopRegex:
    """A compiled pattern: states with a character test and a target, and empty moves.

    Supported: literals, classes, ``.``, groups, ``|``, ``* + ? {m,n}`` (greedy or not), the flags ``i`` and
    ``s``. Anchors, look-around and back references are refused.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.moves: list[tuple[_Test, int] | None] = []
        self.empty: list[list[int]] = []
        try:
            tree = _parser.parse(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"is no regular expression: {error}", place="stop_regex") from None
        self._flags = tree.state.flags
        self.final = self._state()
        self.start = self._sequence(tree, self.final)
        if self.final in self.closure([self.start]):
            raise InvalidRequest("matches the empty text, so it would stop at once", place="stop_regex")

    def closure(self, states: Sequence[int]) -> list[int]:
        """`states` and all that empty moves reach from them."""
        seen: dict[int, None] = {}
        stack = list(reversed(states))
        while stack:
            state = stack.pop()
            if state not in seen:
                seen[state] = None
                stack.extend(self.empty[state])
        return list(seen)

    def _state(self, move: tuple[_Test, int] | None = None, empty: Sequence[int] = ()) -> int:
        if len(self.moves) >= MAX_STATES:
            raise InvalidRequest(
                f"needs more than {MAX_STATES} states", place="stop_regex", hint="use smaller repeats"
            )
        self.moves.append(move)
        self.empty.append(list(empty))
        return len(self.moves) - 1

    def _sequence(self, items: Any, target: int) -> int:
        for operator, argument in reversed(list(items)):
            target = self._item(operator, argument, target)
        return target

    def _item(self, operator: Any, argument: Any, target: int) -> int:
        if operator in (_c.LITERAL, _c.NOT_LITERAL, _c.ANY, _c.IN):
            return self._state((self._test(operator, argument), target))
        if operator is _c.SUBPATTERN:
            return self._sequence(argument[-1], target)
        if operator is _c.BRANCH:
            return self._state(empty=[self._sequence(branch, target) for branch in argument[1]])
        if operator in (_c.MAX_REPEAT, _c.MIN_REPEAT):
            low, high, item = argument
            return self._repeat(low, high, item, target)
        raise InvalidRequest(f"{str(operator).lower()} is not supported in a stop regex", place="stop_regex")

    def _repeat(self, low: int, high: int, item: Any, target: int) -> int:
        if high is _c.MAXREPEAT:
            loop = self._state()
            self.empty[loop] = [self._sequence(item, loop), target]
            entry = loop
        else:
            entry = target
            for _ in range(int(high) - int(low)):
                entry = self._state(empty=[self._sequence(item, entry), target])
        for _ in range(int(low)):
            entry = self._sequence(item, entry)
        return entry

    def _test(self, operator: Any, argument: Any) -> _Test:
        """The test of one character, done by `re` itself on a one-character pattern: classes keep their
        meaning.
        """
        if operator is _c.ANY:
            dot_all = bool(self._flags & re.DOTALL)
            return lambda character: dot_all or character != "\n"
        fold = bool(self._flags & re.IGNORECASE)
        if operator in (_c.LITERAL, _c.NOT_LITERAL):
            wanted, negate = chr(argument), operator is _c.NOT_LITERAL
            if fold:
                return lambda character: (character.casefold() == wanted.casefold()) != negate
            return lambda character: (character == wanted) != negate
        return _class_test(argument, fold)


_CATEGORIES: dict[str, _Test] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_NOT_DIGIT": lambda c: not c.isdecimal(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda c: not c.isspace(),
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
    "CATEGORY_NOT_WORD": lambda c: not (c.isalnum() or c == "_"),
}


def _between(low: int, high: int) -> _Test:
    return lambda character: low <= ord(character) <= high


def _class_test(items: Any, fold: bool) -> _Test:
    tests: list[_Test] = []
    negate = False
    for operator, argument in items:
        if operator is _c.NEGATE:
            negate = True
        elif operator is _c.LITERAL:
            tests.append(_between(argument, argument))
        elif operator is _c.RANGE:
            tests.append(_between(argument[0], argument[1]))
        else:
            tests.append(_CATEGORIES[str(argument)])

    def matches(character: str) -> bool:
        forms = {character, character.lower(), character.upper()} if fold else {character}
        forms = {form for form in forms if len(form) == 1}
        return any(test(form) for test in tests for form in forms) != negate

    return matches


def compile_stop_regex(pattern: str | None) -> StopRegex | None:
    return StopRegex(pattern) if pattern is not None else None


class _RegexSearch:
    """Runs a `StopRegex` over text as it arrives; knows the earliest start of any match that may still
    happen.
    """

    def __init__(self, regex: StopRegex) -> None:
        self._regex = regex
        self._entry = regex.closure([regex.start])
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._threads: dict[int, int] = {}  # state -> earliest start of a match that is in this state
        self._place = 0

    def push(self, data: bytes) -> Found | None:
        for character in self._decoder.decode(data):
            found = self._step(character)
            if found is not None:
                return found
        return None

    @property
    def hold(self) -> int | None:
        """Text from this byte on may belong to a match."""
        return min(self._threads.values(), default=None)

    def _step(self, character: str) -> Found | None:
        for state in self._entry:
            self._threads.setdefault(state, self._place)
        after: dict[int, int] = {}
        for state, start in self._threads.items():
            move = self._regex.moves[state]
            if move is not None and move[0](character):
                for target in self._regex.closure([move[1]]):
                    after[target] = min(start, after.get(target, start))
        self._threads = after
        self._place += len(character.encode("utf-8", "surrogateescape"))
        if self._regex.final in after:
            return Found(after[self._regex.final], self._place, self._regex.pattern)
        return None


# ------------------------------------------------------------------------------------------------- both kinds


class StopFinder:
    """Finds the first stop in text that arrives in bytes. `hold` is where text may still turn out to be a
    stop.
    """

    def __init__(self, stops: Sequence[str], regex: StopRegex | None = None) -> None:
        self._stops = [(stop.encode(), stop) for stop in stops]
        self._longest = max((len(data) for data, _ in self._stops), default=0)
        self._search = _RegexSearch(regex) if regex is not None else None
        self.active = bool(self._stops) or self._search is not None
        """There is something to look for."""

    def push(self, text: bytearray, new: int) -> Found | None:
        """Look into `text` whose bytes from `new` on have just arrived."""
        found = [match for match in (self._strings(text, new), self._regex(text, new)) if match is not None]
        return min(found, key=lambda match: (match.start, match.end), default=None)

    def hold(self, text: bytearray) -> int:
        """Bytes from here on must not be shown yet."""
        place = len(text) if self._search is None else self._search.hold
        place = len(text) if place is None else place
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = bytes(text[-length:])
            if any(data.startswith(tail) for data, _ in self._stops):
                return min(place, len(text) - length)
        return place

    def _strings(self, text: bytearray, new: int) -> Found | None:
        best: Found | None = None
        begin = max(0, new - self._longest + 1)
        for data, stop in self._stops:
            start = text.find(data, begin)
            if start >= 0 and (best is None or start < best.start):
                best = Found(start, start + len(data), stop)
        return best

    def _regex(self, text: bytearray, new: int) -> Found | None:
        return self._search.push(bytes(text[new:])) if self._search is not None else None
