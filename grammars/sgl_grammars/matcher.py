"""Matchers: where one sequence stands in its grammar.

Life cycle: `spec.Constraint` -> `compiler.Compiler.compile` -> `CompiledGrammar` (shared) -> `Matcher` (one per sequence).
A matcher's error is a state of its one request; nothing here raises for what a model or a user wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

MaskRow = npt.NDArray[np.int32]
"""int32 [mask_words] over the padded vocabulary; bit j of word i stands for token 32 i + j, 1 = allowed."""
Masks = npt.NDArray[np.int32]


class Matcher(Protocol):
    """Walks a compiled grammar token by token."""

    @property
    def done(self) -> bool:
        """An end token was accepted, or nothing at all can follow."""
        ...

    @property
    def accepting(self) -> bool:
        """The text so far is whole: it may end here."""
        ...

    @property
    def complete(self) -> bool:
        """The text is whole and nothing but an end token could follow."""
        ...

    @property
    def error(self) -> str | None:
        """Why this matcher cannot go on; sticky."""
        ...

    def fill_mask(self, row: MaskRow) -> None:
        """Write the tokens allowed next. End tokens are allowed exactly where the text may end."""
        ...

    def accept(self, token: int) -> bool:
        """Move on by `token`; False, and nothing changed, if it is not allowed."""
        ...

    def forced_tokens(self) -> list[int]:
        """Tokens that must come next, canonical and stable at the boundary; the matcher does not move."""
        ...

    def rollback(self, n: int) -> None:
        """Take back the last `n` accepted tokens."""
        ...

    def fork(self) -> Matcher:
        """An independent matcher in the same state."""
        ...


class CompiledGrammar(Protocol):
    """A grammar bound to a vocabulary; immutable, shared by many matchers."""

    @property
    def backend(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Estimated memory, for cache limits."""
        ...

    @property
    def unenforced(self) -> tuple[str, ...]:
        """Places of schema keywords that are not enforced (only where the constraint is not strict)."""
        ...

    def matcher(self) -> Matcher: ...


class BatchFiller(Protocol):
    """A matcher type that fills many rows at once, without the GIL."""

    def fill_many(self, matchers: Sequence[Matcher], rows: Sequence[MaskRow]) -> None: ...


def fill_masks(matchers: Sequence[Matcher], masks: Masks) -> None:
    """Fill ``masks[i]`` for ``matchers[i]``, in parallel where the backend can."""
    groups: dict[int, tuple[BatchFiller, list[int]]] = {}
    for index, matcher in enumerate(matchers):
        filler: BatchFiller | None = getattr(matcher, "filler", None)
        if filler is None:
            matcher.fill_mask(masks[index])
        else:
            groups.setdefault(id(filler), (filler, []))[1].append(index)
    for filler, indices in groups.values():
        filler.fill_many([matchers[i] for i in indices], [masks[i] for i in indices])
