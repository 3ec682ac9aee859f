"""From planned pieces to arrays, and from a step's outcome back to sequences."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sgl_lang.tree import GREEDY, SamplingParams
from sgl_runtime.constraint.guide import stuck
from sgl_runtime.core import Batch, Int32, Int64, SamplingRows
from sgl_runtime.engine.execution import RowRequest, Ticket
from sgl_runtime.engine.memory import KvMemory, pages_for
from sgl_runtime.engine.sequence import Sample, Score
from sgl_runtime.scheduler.scheduler import Piece

FillMasks = Callable[[list[Any], Int32], None]
"""Fills row i of the masks for matcher i (`sgl_grammars.matcher.fill_masks`)."""

__all__ = ["FillMasks", "InFlight", "RowMaker", "build_batch"]


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
    """The step's arrays, and for each piece the index of its first logit row."""
    if all(piece.draws and piece.end - piece.start == 1 for piece in pieces):
        return _decode_batch(pieces, memory), list(range(len(pieces)))
    return _mixed_batch(pieces, memory)


def _decode_batch(pieces: Ordered[Piece], memory: KvMemory) -> Batch:
    """One token and one logit row a sequence: the step that most steps are, made without a detour."""
    size = memory.page_size
    ids: list[int] = []
    starts: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    for piece in pieces:
        sequence, start = piece.sequence, piece.start
        piece.rows = 1
        ids.append(sequence.tokens[start])
        starts.append(start)
        slots.append(sequence.pages[start // size] * size + start % size)
        rows.append(sequence.row)
    count = len(rows)
    positions = np.array(starts, dtype=np.int64)
    pages = pages_for(max(starts) + 1, size)
    table = memory.table[rows, :pages] if count > 1 else memory.table[rows[0] : rows[0] + 1, :pages].copy()
    return Batch(
        token_ids=np.array(ids, dtype=np.int64),
        positions=positions,
        slots=np.array(slots, dtype=np.int64),
        query_starts=_COUNTED_32[: count + 1]
        if count < len(_COUNTED_32)
        else np.arange(count + 1, dtype=np.int32),
        context_lens=(positions + 1).astype(np.int32),
        page_table=table,
        logit_rows=_counted(count),
        copies=_copies(memory),
    )


_COUNTED: Int64 = np.arange(4097, dtype=np.int64)
_COUNTED_32: Int32 = np.arange(4097, dtype=np.int32)
_NO_MASKS: Int64 = np.full(4096, -1, dtype=np.int64)
_NO_COPIES: Int32 = np.zeros((0, 3), dtype=np.int32)


def _counted(count: int) -> Int64:
    """0, 1, .. count - 1; not to be written."""
    return _COUNTED[:count] if count <= len(_COUNTED) else np.arange(count, dtype=np.int64)


def _copies(memory: KvMemory) -> Int32:
    if not memory.has_copies:
        return _NO_COPIES
    return np.array(memory.take_copies(), dtype=np.int32).reshape(-1, 3)


def _mixed_batch(pieces: Ordered[Piece], memory: KvMemory) -> tuple[Batch, list[int]]:
    """Runs of any length.

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
            logit_rows += [base + place - piece.start for place in piece.scored()]
        piece.rows = len(logit_rows) - first_rows[-1]
    start, count = np.array(starts, dtype=np.int64), np.array(counts, dtype=np.int64)
    ends = start + count
    queries = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(count, out=queries[1:])
    table: Int32 = memory.table[rows, : pages_for(int(ends.max()), memory.page_size)]
    run = np.repeat(_counted(len(rows)), count)
    positions = np.arange(len(ids)) - np.repeat(queries[:-1] - start, count)
    slots = table[run, positions // memory.page_size].astype(np.int64) * memory.page_size
    slots += positions % memory.page_size
    batch = Batch(
        token_ids=np.array(ids, dtype=np.int64),
        positions=positions,
        slots=slots,
        query_starts=queries.astype(np.int32),
        context_lens=ends.astype(np.int32),
        page_table=table,
        logit_rows=np.array(logit_rows, dtype=np.int64),
        copies=_copies(memory),
    )
    return batch, first_rows


class RowMaker:
    """Tells how the rows of a step are sampled. `fill` fills the masks of many matchers at once."""

    def __init__(self, mask_words: int, fill: FillMasks) -> None:
        self._words = mask_words
        self._fill = fill

    def request(self, step: InFlight) -> RowRequest:
        """Fill in everything about `step`'s rows. A constraint that fails here fails its own branch only."""
        rows = _Rows(self._words)
        scored: list[tuple[int, tuple[int, ...]]] = []
        for piece, row in zip(step.pieces, step.first_rows, strict=True):
            step.first_draws.append(len(rows.params) if piece.draws else -1)
            step.first_scores.append(len(scored))
            if piece.draws:
                rows.add(piece, row)
            elif isinstance(piece.goal, Score):
                scored += [
                    (row + index, piece.goal.targets[place]) for index, place in enumerate(piece.scored())
                ]
        rows.fill_waiting(self._fill)
        return rows.request(tuple(scored))


class _Rows:
    """Columns of `SamplingRows` while they are made; what few rows have is kept by row."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.rows: list[int] = []
        self.slots: list[int] = []
        self.params: list[SamplingParams] = []
        self.seeds: list[tuple[int, int]] = []
        self.masks: dict[int, Int32] = {}
        self.guided: list[tuple[int, Piece]] = []
        self.suppressed: dict[int, tuple[int, ...]] = {}
        self.seen: dict[int, tuple[Int64, Int64]] = {}

    def add(self, piece: Piece, row: int) -> None:
        goal: Sample = piece.goal
        sequence = piece.sequence
        if piece.preset or sequence.goal is not goal:
            for index in range(piece.rows):
                self._append(row + index, -1, GREEDY, (0, 0))
            return
        generation = goal.generation
        count, first = len(generation.tokens), len(self.rows)
        if not piece.drafts:
            self._append(row, sequence.row, generation.params, (generation.seed, count))
            if generation.guide is not None:
                self.guided.append((first, piece))
        else:
            for index in range(piece.rows):
                self._append(row + index, -1, generation.params, (generation.seed, count + index))
            self._fill_along(piece, first)
        if generation.plain:
            return
        for index in range(piece.rows):
            suppressed = generation.suppressed_at(count + index)
            if suppressed:
                self.suppressed[first + index] = suppressed
            if generation.needs_history:
                generated = [*generation.tokens, *piece.drafts[:index]]
                history = [*sequence.tokens[: goal.start], *generated]
                self.seen[first + index] = _ids(history), _ids(generated)

    def _append(self, row: int, slot: int, params: SamplingParams, seed: tuple[int, int]) -> None:
        self.rows.append(row)
        self.slots.append(slot)
        self.params.append(params)
        self.seeds.append(seed)

    def _fill_along(self, piece: Piece, first: int) -> None:
        guide = piece.goal.generation.guide
        masks: Int32 = np.zeros((piece.rows, self.words), dtype=np.int32)
        try:
            filled = guide.fill_along(masks, piece.drafts)
        except Exception as error:
            piece.sequence.owner.fail(error)
            return
        for index in range(filled):
            self.masks[first + index] = masks[index]

    def fill_waiting(self, fill: FillMasks) -> None:
        """Masks of the rows that draw one token, all at once."""
        if not self.guided:
            return
        masks: Int32 = np.zeros((len(self.guided), self.words), dtype=np.int32)
        fill([piece.goal.generation.guide.matcher for _, piece in self.guided], masks)
        for (row, piece), mask in zip(self.guided, masks, strict=True):
            error = piece.goal.generation.guide.matcher.error
            if error is None:
                self.masks[row] = mask
            else:
                piece.sequence.owner.fail(stuck(error))

    def request(self, scored: tuple[tuple[int, tuple[int, ...]], ...]) -> RowRequest:
        count = len(self.rows)
        drawn, slots = _ids(self.rows), _ids(self.slots)
        if not count:
            return RowRequest(drawn, None, slots, scored)
        mask_index: Int64 = _NO_MASKS[:count]
        masks: Int32 | None = None
        if self.masks or count > len(_NO_MASKS):
            mask_index = np.full(count, -1, dtype=np.int64)
        if self.masks:
            mask_index[list(self.masks)] = _counted(len(self.masks))
            masks = np.stack(list(self.masks.values()))
        history: tuple[Int64 | None, ...] = ()
        generated: tuple[Int64 | None, ...] = ()
        if self.seen:
            both = [self.seen.get(row, (None, None)) for row in range(count)]
            history, generated = tuple(item[0] for item in both), tuple(item[1] for item in both)
        suppressed: tuple[tuple[int, ...], ...] = ()
        if self.suppressed:
            suppressed = tuple(self.suppressed.get(row, ()) for row in range(count))
        sampling = SamplingRows(
            tuple(self.params), tuple(self.seeds), mask_index, masks, history, generated, suppressed
        )
        return RowRequest(drawn, sampling, slots, scored)


def _ids(values: Ordered[int]) -> Int64:
    return np.array(values, dtype=np.int64)
