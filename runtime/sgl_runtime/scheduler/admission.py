"""Who begins, and who gives way, when memory is short. Used with the policy `tree` only.

A program that has begun holds KV that its next nodes read. Beginning more programs than memory holds to their ends
means to evict half-done ones and to compute them again, turn after turn. So new ones (and those whose KV is gone) wait
while what has begun is expected to need the memory (`policy.Gate`), and the youngest program gives way first: it has
waited least and lost least.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sgl_lang.tree import Chat, Gen, Hole, Join, Select, Text, Tokens
from sgl_runtime.engine.sequence import Sequence
from sgl_runtime.program.program import Branch, Program
from sgl_runtime.scheduler.policy import Gate

__all__ = ["Admission", "expected_growth"]

_BYTES_PER_TOKEN = 4
_MANY_BRANCHES = 64


class Admission:
    """`tree`: the radix tree, None where nothing is cached; `patience`: see `Gate`."""

    def __init__(self, pool: Any, tree: Any, *, page_size: int, patience: float) -> None:
        self._pool = pool
        self._tree = tree
        self._page_size = page_size
        self._gate = Gate(patience if tree is not None else 0.0)
        self._holding: dict[Program, dict[Sequence, None]] = {}  # by program: its sequences that have KV
        self._mean = 64.0
        """Tokens of a generation."""

    def opens(self, sequence: Sequence, cached: int) -> bool:
        """May `sequence` be admitted, of which `cached` tokens are cached?"""
        program = sequence.owner.program
        if not self._gate.patience or (program.started and 2 * cached >= len(sequence.tokens)):
            return True
        spare = (
            self._pool.free + self._tree.idle_pages - (len(sequence.tokens) - cached) // self._page_size - 1
        )
        return self._gate.opens(program.arrival, self._pages(program), spare)

    def entered(self, sequence: Sequence) -> None:
        """`sequence` was admitted."""
        program = sequence.owner.program
        self._holding.setdefault(program, {})[sequence] = None
        self._gate.expect(program.arrival, self._pages(program))

    def left(self, sequence: Sequence) -> None:
        """`sequence` gave its KV up (nothing happens if it held none)."""
        program = sequence.owner.program
        held = self._holding.get(program)
        if held is None or sequence not in held:
            return
        del held[sequence]
        if not held:
            del self._holding[program]
            generated, nodes = program.tally.decoded_tokens + program.tally.forced_tokens, len(program.texts)
            self._mean += (generated / nodes - self._mean) / 16 if nodes else 0.0
        self._gate.expect(program.arrival, self._pages(program) if held else 0.0)

    def _pages(self, program: Program) -> float:
        return expected_growth(program, self._mean) / self._page_size if self._gate.patience else 0.0

    @staticmethod
    def youngest(sequences: Iterable[Sequence]) -> Sequence:
        """Of those with the lowest priority, the one of the youngest program; of its own, the one that came last."""
        last, best = None, None
        for sequence in sequences:
            rank = (-sequence.owner.priority, sequence.owner.arrival)
            if best is None or rank >= best:
                last, best = sequence, rank
        assert last is not None
        return last


def expected_growth(program: Program, mean: float) -> float:
    """Tokens that the longest chain of branches of `program` is expected to add, as far as its tree is known.

    A generation counts with `mean` tokens or its limit, whichever is less. Programs of very many branches are not
    looked through at every admission.
    """
    if len(program.branches) > _MANY_BRANCHES:
        return mean
    return max((_growth(branch, mean) for branch in [program.root]), default=0.0)


def _growth(branch: Branch, mean: float) -> float:
    own = 0.0 if branch.generation is None else min(branch.generation.room, mean)
    if not branch.settled:
        own += sum(
            _expected_tokens(step, mean) for step in list(branch.queue)[branch.generation is not None :]
        )
    return own + max((_growth(child, mean) for child in branch.children), default=0.0)


def _expected_tokens(step: Any, mean: float) -> float:
    if isinstance(step, Gen):
        limit = step.sampling.max_tokens
        return mean if limit is None else min(limit, mean)
    if isinstance(step, Tokens):
        return len(step.ids)
    if isinstance(step, Text):
        return len(step.text) / _BYTES_PER_TOKEN
    if isinstance(step, Chat):
        return len(step.messages) / _BYTES_PER_TOKEN
    if isinstance(step, (Select, Join)):
        return 0.0
    return mean if isinstance(step, Hole) else 8.0
