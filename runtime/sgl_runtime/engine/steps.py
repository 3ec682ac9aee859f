"""From planned pieces to arrays, and from a step's outcome back to sequences."""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

import numpy as np

from sgl_lang.tree import GREEDY, SamplingParams
from sgl_runtime.core import Batch, Int32, Int64, SamplingRows
from sgl_runtime.engine.execution import RowRequest, Ticket
from sgl_runtime.engine.memory import KvMemory, pages_for
from sgl_runtime.engine.sequence import Sample, Score
from sgl_runtime.scheduler.scheduler import Piece

__all__ = ["InFlight", "RowMaker", "build_batch"]


@dataclass
class InFlight:
    """A launched step: its number, pieces, and for each piece the first of its logit rows."""

    number: int
    pieces: list[Piece]
    ticket: Ticket
    first_rows: list[int]
    first_draws: list[int] = field(default_factory=list)
    """For each piece the place of its first drawn row among the drawn ones, -1 for none."""
    first_scores: list[int] = field(default_factory=list)


def build_batch(pieces: Ordered[Piece], memory: KvMemory) -> tuple[Batch, list[int]]:
    """The step's arrays, and for each piece the index of its first logit row.

    ::

        piece 0: positions start..end     piece 1 ...
        token_ids | t t t t t d d |       | t |            d: proposed tokens
        logits            ^ ^ ^             ^              rows of piece 0: last known token and each proposal
    """
    ids: list[int] = []
    starts: list[int] = []
    counts: list[int] = []
    rows: list[int] = []
    first_rows: list[int] = []
    logit_rows: list[int] = []
    for piece in pieces:
        sequence, base = piece.sequence, len(ids)
        if piece.end - piece.start == 1 and not piece.drafts:
            ids.append(sequence.tokens[piece.start])
        else:
            ids += sequence.tokens[piece.start : piece.end]
            ids += piece.drafts
        starts.append(piece.start)
        counts.append(piece.end - piece.start)
        rows.append(sequence.row)
        first_rows.append(len(logit_rows))
        if piece.draws:
            first = base + piece.place - 1 - piece.start
            logit_rows += range(first, first + 1 + len(piece.drafts))
        elif isinstance(piece.goal, Score):
            wanted = [position for position in piece.goal.targets if piece.start <= position < piece.end]
            logit_rows += [base + position - piece.start for position in sorted(wanted)]
        piece.rows = len(logit_rows) - first_rows[-1]
    return _arrays(ids, starts, counts, rows, logit_rows, memory), first_rows


def _arrays(
    ids: list[int],
    starts: list[int],
    counts: list[int],
    rows: list[int],
    logit_rows: list[int],
    memory: KvMemory,
) -> Batch:
    start, count = np.array(starts, dtype=np.int64), np.array(counts, dtype=np.int64)
    ends = start + count
    queries = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(count, out=queries[1:])
    table: Int32 = memory.table[np.array(rows), : pages_for(int(ends.max()), memory.page_size)]
    if len(ids) == len(rows):
        run, positions = np.arange(len(rows)), start
    else:
        run = np.repeat(np.arange(len(rows)), count)
        positions = np.arange(len(ids)) - np.repeat(queries[:-1] - start, count)
    slots = table[run, positions // memory.page_size].astype(np.int64) * memory.page_size
    slots += positions % memory.page_size
    copies = memory.take_copies()
    return Batch(
        token_ids=np.array(ids, dtype=np.int64),
        positions=positions,
        slots=slots,
        query_starts=queries.astype(np.int32),
        context_lens=ends.astype(np.int32),
        page_table=table,
        logit_rows=np.array(logit_rows, dtype=np.int64),
        copies=np.array(copies, dtype=np.int32).reshape(-1, 3),
    )


class RowMaker:
    """Tells how the rows of a step are sampled. Masks are reused from step to step."""

    def __init__(self, mask_words: int) -> None:
        self._words = mask_words
        self._masks: Int32 = np.zeros((0, mask_words), dtype=np.int32)

    def request(self, step: InFlight) -> RowRequest:
        """Fill in everything about `step`'s rows. A constraint that fails here fails its own branch only."""
        made = _Rows(self._space(sum(piece.rows for piece in step.pieces if _guided(piece))))
        scored: list[tuple[int, tuple[int, ...]]] = []
        for piece, row in zip(step.pieces, step.first_rows, strict=True):
            step.first_draws.append(len(made.params) if piece.draws else -1)
            step.first_scores.append(len(scored))
            if piece.draws:
                made.add(piece, row)
            elif isinstance(piece.goal, Score):
                wanted = sorted(place for place in piece.goal.targets if piece.start <= place < piece.end)
                scored += [(row + index, piece.goal.targets[place]) for index, place in enumerate(wanted)]
        return made.request(tuple(scored))

    def _space(self, rows: int) -> Int32:
        if len(self._masks) < rows:
            self._masks = np.zeros((2 * rows, self._words), dtype=np.int32)
        return self._masks[:rows]


def _guided(piece: Piece) -> bool:
    return piece.draws and piece.goal.generation.guide is not None


class _Rows:
    """Columns of `SamplingRows` while they are made."""

    def __init__(self, masks: Int32) -> None:
        self.masks = masks
        self.used = 0
        self.rows: list[int] = []
        self.slots: list[int] = []
        self.params: list[SamplingParams] = []
        self.seeds: list[tuple[int, int]] = []
        self.mask_index: list[int] = []
        self.suppressed: list[tuple[int, ...]] = []
        self.history: list[Int64 | None] = []
        self.generated: list[Int64 | None] = []
        self.any_suppressed = False
        self.any_history = False

    def add(self, piece: Piece, row: int) -> None:
        goal: Sample = piece.goal
        sequence = piece.sequence
        if piece.preset or sequence.goal is not piece.goal:
            for index in range(piece.rows):
                self._append(row + index, GREEDY, (0, 0), -1)
            return
        generation = goal.generation
        count = len(generation.tokens)
        masks = self._fill(piece, goal) if generation.guide is not None else 0
        for index in range(piece.rows):
            mask = self.used + index if index < masks else -1
            self._append(row + index, generation.params, (generation.seed, count + index), mask)
            suppressed = generation.suppressed_at(count + index)
            if suppressed:
                self.suppressed[-1], self.any_suppressed = suppressed, True
            if generation.needs_history:
                self._add_history(goal, sequence.tokens[: goal.start], piece.drafts[:index])
        if not piece.drafts:
            self.slots[-1] = sequence.row
        self.used += masks

    def _fill(self, piece: Piece, goal: Sample) -> int:
        masks = self.masks[self.used : self.used + piece.rows]
        guide = goal.generation.guide
        assert guide is not None
        try:
            if piece.drafts:
                return guide.fill_along(masks, piece.drafts)
            guide.fill(masks[0])
        except Exception as error:
            piece.sequence.owner.fail(error)
            return 0
        return 1

    def _add_history(self, goal: Sample, known: list[int], drafts: tuple[int, ...]) -> None:
        generated = [*goal.generation.tokens, *drafts]
        self.history[-1] = np.array([*known, *generated], dtype=np.int64)
        self.generated[-1] = np.array(generated, dtype=np.int64)
        self.any_history = True

    def _append(self, row: int, params: SamplingParams, seed: tuple[int, int], mask: int) -> None:
        self.rows.append(row)
        self.slots.append(-1)
        self.params.append(params)
        self.seeds.append(seed)
        self.mask_index.append(mask)
        self.suppressed.append(())
        self.history.append(None)
        self.generated.append(None)

    def request(self, scored: tuple[tuple[int, tuple[int, ...]], ...]) -> RowRequest:
        sampling = SamplingRows(
            params=tuple(self.params),
            seeds=tuple(self.seeds),
            mask_index=np.array(self.mask_index, dtype=np.int64),
            masks=self.masks[: self.used].copy() if self.used else None,
            history=tuple(self.history) if self.any_history else (),
            generated=tuple(self.generated) if self.any_history else (),
            eos_suppressed=tuple(self.suppressed) if self.any_suppressed else (),
        )
        drawn = np.array(self.rows, dtype=np.int64)
        return RowRequest(
            drawn, sampling if self.rows else None, np.array(self.slots, dtype=np.int64), scored
        )
