"""Tokens to text as they arrive: never half a character, and at a cost that depends on the new tokens only."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from sgl_runtime.tokens.tokenizer import Tokenizer

__all__ = ["Detokenizer"]


class Detokenizer:
    """Text of a growing list of tokens.

    The pushes and `finish` together are exactly ``tokenizer.decode`` of all tokens. An incomplete UTF-8
    sequence at the end is held back until the next tokens complete it, or show that it is none.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; may be empty."""
        data = b"".join(self._tokenizer.token_bytes(token, self._skip_special) for token in ids)
        return self._keep(self._decoder.decode(data))

    def finish(self) -> str:
        """What is still held back, as U+FFFD. Afterwards the detokenizer starts a new character."""
        return self._keep(self._decoder.decode(b"", final=True))

    @property
    def text(self) -> str:
        """All text so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def _keep(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text
