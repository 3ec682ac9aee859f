"""Regular expressions without writing one, and captured parts.

::

    from sgl_lang import patterns as p

    phone = "+" + p.digits(1, 3) + p.optional(" ") + p.digits(6, 9)
    s += sgl.gen("phone", regex=phone)
    s += sgl.grammar("booking", "Table for ", p.named("guests", int), " at ", p.named("place", p.word), ".")

`str(pattern)` is the regex. Texts that are added to a pattern are taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sgl_grammars.spec import Choice, Regex
from sgl_lang.errors import InvalidConstraint
from sgl_lang.types import TypeForm, form_of

__all__ = [
    "Pattern", "any_of", "between", "char_in", "char_not_in", "digit", "digits", "letter", "letters", "line", "many",
    "named", "optional", "raw", "some", "text", "times", "white_space", "word",
]  # fmt: skip

_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")
_ATOM = re.compile(r"\\.|\[(?:[^\]\\]|\\.)*\]|\((?:[^()\\]|\\.)*\)", re.DOTALL)


class Pattern:
    """A regular expression that can be put together with `+`, `|` and the functions of this module."""

    __slots__ = ("_python", "forms")

    def __init__(self, python: str, forms: Mapping[str, TypeForm[Any]] | None = None) -> None:
        self._python = python  # with named groups
        self.forms = dict(forms or {})

    def __str__(self) -> str:
        return re.sub(r"\(\?P<\w+>", "(", self._python)

    def __repr__(self) -> str:
        return f"Pattern({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other._python == self._python

    def __hash__(self) -> int:
        return hash(self._python)

    def __add__(self, other: str | Pattern) -> Pattern:
        return _joined("", self, other)

    def __radd__(self, other: str) -> Pattern:
        return _joined("", other, self)

    def __or__(self, other: str | Pattern) -> Pattern:
        return any_of(self, other)

    def __ror__(self, other: str) -> Pattern:
        return any_of(other, self)

    def matches(self, text: str) -> bool:
        """Whether all of `text` matches."""
        return re.fullmatch(self._python, text) is not None

    def captures(self, text: str) -> dict[str, Any]:
        """Values of the named parts that took part in the match. Raises `ValueError`."""
        found = re.fullmatch(self._python, text)
        if found is None:
            raise ValueError(f"does not match {self}")
        return {
            name: self.forms[name].decode(part)
            for name, part in found.groupdict().items()
            if part is not None
        }


def _of(piece: str | Pattern) -> Pattern:
    return piece if isinstance(piece, Pattern) else text(piece)


def _joined(between: str, *pieces: str | Pattern) -> Pattern:
    patterns = [_of(piece) for piece in pieces]
    forms: dict[str, TypeForm[Any]] = {}
    for pattern in patterns:
        for name, form in pattern.forms.items():
            if name in forms:
                raise InvalidConstraint(f"two parts are named {name!r}", place="pattern")
            forms[name] = form
    return Pattern(between.join(pattern._python for pattern in patterns), forms)


def _repeated(piece: str | Pattern, count: str) -> Pattern:
    pattern = _of(piece)
    regex = pattern._python
    atom = len(regex) == 1 or _ATOM.fullmatch(regex) is not None
    return Pattern((regex if atom else f"({regex})") + count, pattern.forms)


def text(literal: str) -> Pattern:
    """Exactly this text."""
    return Pattern(_SPECIAL.sub(lambda found: "\\" + found[0], literal))


def raw(regex: str) -> Pattern:
    """A regular expression as it is, in a group; raises `InvalidConstraint` if it is none, or names groups."""
    try:
        if re.compile(regex).groupindex:
            raise InvalidConstraint("name parts with `named`", place="regex")
    except re.error as error:
        raise InvalidConstraint(str(error), place="regex") from None
    return Pattern(f"({regex})")


def named(name: str, piece: Any) -> Pattern:
    """A part whose value is captured: a text, a pattern, or a type that has a bare form (`int`, an Enum, ...)."""
    if not name.isidentifier():
        raise InvalidConstraint(f"{name!r} is no name", place="named")
    if isinstance(piece, (str, Pattern)):
        inner, form = _of(piece), TypeForm("text", None, str)
    else:
        form = form_of(piece)
        inner = _bare(form)
    return Pattern(f"(?P<{name}>{inner._python})", {**inner.forms, name: form})


def _bare(form: TypeForm[Any]) -> Pattern:
    if isinstance(form.constraint, Regex):
        return raw(form.constraint.pattern)
    if isinstance(form.constraint, Choice):
        return any_of(*form.constraint.choices)
    raise InvalidConstraint(f"{form.name} has no bare form to be part of a pattern", place="named")


def any_of(*pieces: str | Pattern) -> Pattern:
    """One of several texts or patterns."""
    if not pieces:
        raise InvalidConstraint("needs at least one piece", place="any_of")
    joined = _joined("|", *pieces)
    return Pattern(f"({joined._python})", joined.forms)


def times(piece: str | Pattern, low: int, high: int | None = None) -> Pattern:
    """`piece` exactly `low` times, or from `low` to `high` times."""
    high = low if high is None else high
    if not 0 <= low <= high or high == 0:
        raise InvalidConstraint(f"from {low} to {high} times is no range", place="times")
    return _repeated(piece, f"{{{low}}}" if low == high else f"{{{low},{high}}}")


def optional(piece: str | Pattern) -> Pattern:
    """Once or not at all."""
    return _repeated(piece, "?")


def some(piece: str | Pattern) -> Pattern:
    """Once or more often."""
    return _repeated(piece, "+")


def many(piece: str | Pattern) -> Pattern:
    """Not at all, or any number of times."""
    return _repeated(piece, "*")


def between(begin: str | Pattern, piece: str | Pattern, end: str | Pattern) -> Pattern:
    """`piece` with something before and after it."""
    return _joined("", begin, piece, end)


def _class(chars: str, negated: bool) -> Pattern:
    if not chars:
        raise InvalidConstraint("needs at least one character", place="char_in")
    inner = re.sub(r"[\\\]\[^(-]", lambda found: "\\" + found[0], chars)
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
