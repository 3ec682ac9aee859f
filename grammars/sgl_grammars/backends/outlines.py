"""outlines-core: a token-level index of a regular expression, built in full, in a worker process.

Slow to build and large, but fast to follow: kept for small patterns and as a third opinion in tests. Its masks are not
exact: tokens that run past the end of a whole text, or cut a character, may be missing (never too many are allowed).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np

from sgl_grammars.backends.base import Backend
from sgl_grammars.backends.patterns import plain_pattern
from sgl_grammars.matcher import CompiledGrammar, Matcher, Row
from sgl_grammars.spec import Choice, Constraint, Regex
from sgl_grammars.vocabulary import Vocabulary
from sgl_lang.errors import InvalidConstraint

__all__ = ["OutlinesBackend"]

_MAX_ROWS = 64
_MAX_FORCED = 4096


class OutlinesBackend(Backend):
    name = "outlines"
    isolated = True

    @cached_property
    def _native_vocabulary(self) -> Any:
        from outlines_core import Vocabulary as NativeVocabulary

        ids: dict[bytes, list[int]] = {}
        for token, text in enumerate(self.vocabulary.tokens):
            if text and token not in self.vocabulary.eos_token_ids:
                ids.setdefault(text, []).append(token)
        return NativeVocabulary(min(self.vocabulary.eos_token_ids), ids)

    def warm(self) -> None:
        _ = self._native_vocabulary

    def refusal(self, constraint: Constraint) -> str | None:
        if isinstance(constraint, (Regex, Choice)):
            return None
        return f"outlines-core does not serve {constraint.__struct_config__.tag}"

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        return self.load(constraint, self.dump(constraint))

    def dump(self, constraint: Constraint) -> bytes:
        from outlines_core import Index

        refusal = self.refusal(constraint)
        if refusal:
            raise InvalidConstraint(refusal, place=str(constraint.__struct_config__.tag))
        try:
            index = Index(_pattern(constraint), self._native_vocabulary)
        except (ValueError, TypeError) as error:
            raise InvalidConstraint(str(error), place=str(constraint.__struct_config__.tag)) from None
        return bytes(index.__reduce__()[1][0])

    def load(self, constraint: Constraint, data: bytes) -> CompiledGrammar:
        from outlines_core import Index

        return OutlinesGrammar(self.vocabulary, Index.from_binary(data), len(data))


def _pattern(constraint: Constraint) -> str:
    if isinstance(constraint, Regex):
        return plain_pattern(constraint.pattern)
    if isinstance(constraint, Choice):
        # its search is leftmost-first: a text after one that begins it would never be found
        texts = sorted(constraint.choices, key=len, reverse=True)
        return "|".join(re.sub(r"[\\.+*?()|\[\]{}^$#&\-~]", r"\\\g<0>", text) for text in texts)
    raise InvalidConstraint("not served", place="outlines")


class OutlinesGrammar(CompiledGrammar):
    backend = "outlines"

    def __init__(self, vocabulary: Vocabulary, index: Any, size: int) -> None:
        super().__init__(vocabulary, nbytes=5 * size + 4 * _MAX_ROWS * vocabulary.mask_words)
        self.index = index
        self.final = frozenset(index.get_final_states())
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._bytes = {text[0]: token for token, text in enumerate(vocabulary.tokens) if len(text) == 1}

    def matcher(self) -> Matcher:
        return OutlinesMatcher(self, [int(self.index.get_initial_state())])

    def row(self, state: int) -> Row:
        """The mask of a state; the rows of the states used last are kept."""
        row = self._rows.get(state)
        if row is None:
            row = self._rows[state] = self._make_row(state)
            while len(self._rows) > _MAX_ROWS:
                self._rows.popitem(last=False)
        return row

    def _make_row(self, state: int) -> Row:
        bits = np.zeros(self.vocabulary.mask_words * 32, np.uint8)
        bits[np.asarray(self.index.get_allowed_tokens(state) or [], np.int64)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def forced_bytes(self, state: int) -> bytes:
        """Follow the states in which a single byte can come next."""
        found = bytearray()
        while state not in self.final and len(found) < _MAX_FORCED:
            following = [
                (byte, self.index.get_next_state(state, token)) for byte, token in self._bytes.items()
            ]
            possible = [(byte, target) for byte, target in following if target is not None]
            if len(possible) != 1:
                break
            found.append(possible[0][0])
            state = possible[0][1]
        return bytes(found)


class OutlinesMatcher(Matcher):
    compiled: OutlinesGrammar

    def __init__(self, compiled: OutlinesGrammar, states: list[int]) -> None:
        super().__init__(compiled)
        self._states = states

    def _advance(self, token: int) -> bool:
        following = self.compiled.index.get_next_state(self._states[-1], token)
        if following is None:
            return False
        self._states.append(following)
        return True

    def _retract(self, count: int) -> None:
        del self._states[len(self._states) - count :]

    def _fill(self, row: Row) -> None:
        row[:] = self.compiled.row(self._states[-1])

    def _accepts(self) -> bool:
        return self._states[-1] in self.compiled.final

    def _stopped(self) -> bool:
        allowed = self.compiled.index.get_allowed_tokens(self._states[-1]) or []
        return all(token in self.vocabulary.eos_token_ids for token in allowed)

    def _forced_bytes(self) -> bytes:
        return self.compiled.forced_bytes(self._states[-1])

    def _copy(self) -> Matcher:
        return OutlinesMatcher(self.compiled, list(self._states))
