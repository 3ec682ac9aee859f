"""Regular expressions without writing one.

::

    from sgl_lang import patterns as p

    phone = "+" + p.digits(1, 3) + p.optional(" ") + p.digits(6, 9)
    sgl.gen("phone", regex=phone)

`str(pattern)` is the regex. Texts that are added to a pattern are taken literally.
"""

from __future__ import annotations

import re

from sgl_lang.errors import InvalidConstraint

__all__ = [
    "Pattern", "any_of", "between", "char_in", "char_not_in", "digit", "digits", "letter", "letters", "line", "many",
    "one_of", "optional", "raw", "some", "text", "times", "white_space", "word",
]  # fmt: skip

_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")


class Pattern:
    """A regular expression that can be put together with `+`, `|` and the functions of this module."""

    __slots__ = ("regex",)

    def __init__(self, regex: str) -> None:
        self.regex = regex

    def __str__(self) -> str:
        return self.regex

    def __repr__(self) -> str:
        return f"Pattern({self.regex!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.regex == self.regex

    def __hash__(self) -> int:
        return hash(self.regex)

    def __add__(self, other: str | Pattern) -> Pattern:
        return Pattern(self.regex + _of(other).regex)

    def __radd__(self, other: str) -> Pattern:
        return Pattern(_of(other).regex + self.regex)

    def __or__(self, other: str | Pattern) -> Pattern:
        return any_of(self, other)

    def __ror__(self, other: str) -> Pattern:
        return any_of(other, self)

    def matches(self, text: str) -> bool:
        """Whether all of `text` matches."""
        return re.fullmatch(self.regex, text) is not None


def _of(piece: str | Pattern) -> Pattern:
    return piece if isinstance(piece, Pattern) else text(piece)


def _group(piece: str | Pattern) -> str:
    regex = _of(piece).regex
    is_atom = (
        len(regex) == 1 or re.fullmatch(r"\\.|\[(?:[^\]\\]|\\.)*\]|\((?:[^()\\]|\\.)*\)", regex) is not None
    )
    return regex if is_atom else f"({regex})"


def text(literal: str) -> Pattern:
    """Exactly this text."""
    return Pattern(_SPECIAL.sub(lambda found: "\\" + found[0], literal))


def raw(regex: str) -> Pattern:
    """A regular expression as it is, in a group; raises `InvalidConstraint` if it is none."""
    try:
        re.compile(regex)
    except re.error as error:
        raise InvalidConstraint(str(error), place="regex") from None
    return Pattern(f"({regex})")


def any_of(*pieces: str | Pattern) -> Pattern:
    """One of several texts or patterns."""
    if not pieces:
        raise InvalidConstraint("needs at least one piece", place="any_of")
    return Pattern(f"({'|'.join(_of(piece).regex for piece in pieces)})")


one_of = any_of


def times(piece: str | Pattern, low: int, high: int | None = None) -> Pattern:
    """`piece` exactly `low` times, or from `low` to `high` times."""
    high = low if high is None else high
    if not 0 <= low <= high or high == 0:
        raise InvalidConstraint(f"from {low} to {high} times is no range", place="times")
    count = f"{{{low}}}" if low == high else f"{{{low},{high}}}"
    return Pattern(f"{_group(piece)}{count}")


def optional(piece: str | Pattern) -> Pattern:
    return Pattern(f"{_group(piece)}?")


def some(piece: str | Pattern) -> Pattern:
    """Once or more often."""
    return Pattern(f"{_group(piece)}+")


def many(piece: str | Pattern) -> Pattern:
    """Not at all, or any number of times."""
    return Pattern(f"{_group(piece)}*")


def between(begin: str | Pattern, piece: str | Pattern, end: str | Pattern) -> Pattern:
    return _of(begin) + _of(piece) + _of(end)


def _class(chars: str, negated: bool) -> Pattern:
    if not chars:
        raise InvalidConstraint("needs at least one character", place="char_in")
    inner = re.sub(r"[\\\]\[^-]", lambda found: "\\" + found[0], chars)
    return Pattern(f"[{'^' if negated else ''}{inner}]")


def char_in(chars: str) -> Pattern:
    """One of these characters."""
    return _class(chars, negated=False)


def char_not_in(chars: str) -> Pattern:
    """Any character but these."""
    return _class(chars, negated=True)


digit = Pattern("[0-9]")
letter = Pattern("[A-Za-z]")
word = Pattern("[A-Za-z]+")
white_space = Pattern("[ \\t\\n]+")
line = Pattern("[^\\n]+")


def digits(low: int, high: int | None = None) -> Pattern:
    """`low` to `high` decimal digits (exactly `low` without `high`)."""
    return times(digit, low, high)


def letters(low: int, high: int | None = None) -> Pattern:
    """`low` to `high` ASCII letters (exactly `low` without `high`)."""
    return times(letter, low, high)
