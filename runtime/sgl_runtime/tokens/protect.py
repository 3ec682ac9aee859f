"""Keeps text of clients from becoming control tokens, through a template that may move, cut and join it.

Before rendering, the first character of whatever could be the start of a special token's name in the
client's strings is replaced by a stand-in from Unicode's private-use area, one character for one. In the
rendered text no special token can then begin inside the client's text; those that are there were written by
the template. Afterwards the stand-ins are cut out as pieces of ordinary text, with their own character
back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sgl_lang.errors import InvalidRequest

__all__ = ["Mask", "Piece", "Protector"]

Piece = tuple[str, bool]
"""Text, and whether special tokens in it count."""

_PRIVATE = range(0xE000, 0xF900)
_DEPTH = 64


class Protector:
    """Knows the names of a tokenizer's special tokens."""

    def __init__(self, special: Iterable[str]) -> None:
        names = sorted({name for name in special if name})
        self._starts = sorted({name[0] for name in names})
        self._pattern = re.compile("|".join(_start_of(name) for name in names)) if names else None

    def mask(self, *values: Any) -> Mask:
        """A mask whose stand-ins occur nowhere in `values` (plain JSON data)."""
        used: set[str] = set()
        for value in values:
            _private_characters(value, used, 0)
        free = [chr(code) for code in _PRIVATE if chr(code) not in used]
        if len(free) < len(self._starts):
            raise InvalidRequest("uses up all private-use characters", place="messages")
        return Mask(self._pattern, dict(zip(self._starts, free, strict=False)))


class Mask:
    """Stand-ins for one rendering."""

    def __init__(self, pattern: re.Pattern[str] | None, stand_ins: Mapping[str, str]) -> None:
        self._pattern = pattern
        self._stand_ins = stand_ins
        self._originals = {stand_in: start for start, stand_in in stand_ins.items()}
        self._cut = re.compile("([" + "".join(self._originals) + "]+)") if self._originals else None

    def hide(self, value: Any) -> Any:
        """A copy of plain JSON data with the dangerous starts replaced in all strings, keys included."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.hide(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.hide(item) for item in value]
        return value

    def pieces(self, text: str) -> list[Piece]:
        """The rendered `text` with the client's characters back, as pieces."""
        if self._cut is None:
            return [(text, True)] if text else []
        parts = self._cut.split(text)
        return [(self.show(part) if at % 2 else part, at % 2 == 0) for at, part in enumerate(parts) if part]

    def show(self, text: str) -> str:
        """`text` with the client's characters back."""
        return "".join(self._originals.get(character, character) for character in text)

    def _text(self, text: str) -> str:
        if self._pattern is None:
            return str(text)
        return self._pattern.sub(lambda match: self._stand_ins[match.group()], text)


def _start_of(name: str) -> str:
    """Matches the first character of `name` where three characters of it follow, or the text ends within
    them.
    """
    first, rest = re.escape(name[0]), [re.escape(character) for character in name[1:3]]
    ahead = ""
    for character in reversed(rest):
        ahead = rf"(?:\s*\Z|{character}{ahead})"
    return f"{first}(?={ahead})" if ahead else first


def _private_characters(value: Any, used: set[str], depth: int) -> None:
    if depth > _DEPTH:
        raise InvalidRequest(f"nests deeper than {_DEPTH}", place="messages")
    if isinstance(value, str):
        if not value.isascii():
            used.update(character for character in value if 0xE000 <= ord(character) < 0xF900)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _private_characters(str(key), used, depth + 1)
            _private_characters(item, used, depth + 1)
    elif isinstance(value, Sequence):
        for item in value:
            _private_characters(item, used, depth + 1)
