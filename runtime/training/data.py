"""Training batches: documents tokenised, packed back to back and streamed from worker processes.

Chunk `k` is a pure function of `k`, and chunks are used in order, so the number of workers does not change a run.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sgl_corpus import Document, document

CONTEXT = 4096
"""Longer documents are dropped."""
DOCUMENTS_OF_CHUNK = 1 << 14
"""Seeds reserved for one chunk."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`size` packed tokens: ids, position inside the document, weight of the token as a target (0 at document starts)."""

    ids: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    weights: NDArray[np.float32]


def _encode(
    tokenizer: Tokenizer, docs: list[Document], base_weight: float
) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and weights of each document; segments are tokenised apart, as a program would add them."""
    flat = [text for doc in docs for text, _ in doc.segments]
    encoded = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    for doc in docs:
        ids: list[int] = []
        weights: list[float] = []
        for _, learn in doc.segments:
            part = next(encoded).ids
            ids += part
            weights += [1.0 if learn else base_weight] * len(part)
        yield ids, weights


def _documents(first: int, last: int) -> Iterator[Document]:
    """The documents of some seeds; one that fails is named and left out rather than ending an hour of training."""
    for seed in range(first, last):
        try:
            yield document(seed)
        except (IndexError, KeyError, ValueError) as error:
            print(f"seed {seed}: {error!r}", file=sys.stderr, flush=True)


def make_chunk(tokenizer: Tokenizer, index: int, size: int, base_weight: float) -> Chunk:
    """Chunk `index`: documents until `size` tokens are full; the last one is cut."""
    ids = np.zeros(size, np.uint16)
    positions = np.zeros(size, np.uint16)
    weights = np.zeros(size, np.float32)
    seed, at = index * DOCUMENTS_OF_CHUNK, 0
    while at < size:
        docs = list(_documents(seed, seed + 64))
        seed += 64
        for tokens, worth in _encode(tokenizer, docs, base_weight):
            n = min(len(tokens), size - at)
            if len(tokens) > CONTEXT or n == 0:
                continue
            ids[at : at + n] = tokens[:n]
            positions[at : at + n] = np.arange(n)
            weights[at : at + n] = worth[:n]
            weights[at] = 0.0
            at += n
    return Chunk(ids, positions, weights)


def _work(folder: str, first: int, step: int, size: int, base_weight: float, queue: Queue[Chunk]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    index = first
    while True:
        queue.put(make_chunk(tokenizer, index, size, base_weight))
        index += step


def stream(folder: Path, size: int, workers: int, base_weight: float, first: int = 0) -> Iterator[Chunk]:
    """Chunks `first`, `first + 1`, ... for ever; the workers end with this process."""
    if workers == 0:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        index = first
        while True:
            yield make_chunk(tokenizer, index, size, base_weight)
            index += 1
    context = mp.get_context("spawn")
    queues: list[Queue[Chunk]] = [context.Queue(12) for _ in range(workers)]
    for i, queue in enumerate(queues):
        context.Process(
            target=_work, args=(str(folder), first + i, workers, size, base_weight, queue), daemon=True
        ).start()
    while True:
        for queue in queues:
            yield queue.get(timeout=300)  # a worker that died must not leave the trainer waiting for ever
