"""Scoring of a `Select`: which rows of logits are needed, and what follows from the log probabilities."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sgl_lang.tree import ChoiceMethod, ChoiceScore, Select

__all__ = ["ScorePlan", "best_choice", "plan_scores", "score_choices"]

Path = tuple[int, ...]
"""Choice tokens after the shared prefix: a node of the trie of choices."""


@dataclass(frozen=True)
class ScorePlan:
    """The trie of choices over a shared prefix.

    `targets[path]`: tokens whose log probability after `path` is wanted. `runs`: the longest paths only;
    every other path with targets is a prefix of one of them, so each needs no run of its own. The empty path
    is read from the last position of the shared prefix.
    """

    targets: Mapping[Path, tuple[int, ...]]
    runs: tuple[Path, ...]


def plan_scores(choices: Sequence[Path]) -> ScorePlan:
    """Which positions to read for `choices` (each its tokens, at least one)."""
    wanted: dict[Path, dict[int, None]] = {}
    for tokens in choices:
        for index, token in enumerate(tokens):
            wanted.setdefault(tokens[:index], {})[token] = None
    paths = sorted((path for path in wanted if path), key=len, reverse=True)
    runs: list[Path] = []
    covered: set[Path] = set()
    for path in paths:
        if path not in covered:
            runs.append(path)
            covered.update(path[:length] for length in range(1, len(path) + 1))
    return ScorePlan({path: tuple(tokens) for path, tokens in wanted.items()}, tuple(runs))


Logprobs = Mapping[Path, Mapping[int, float]]
"""Log probability of a token after a path."""


def _along(tokens: Path, logprobs: Logprobs, first: int = 0) -> list[float]:
    return [logprobs[tokens[:index]][tokens[index]] for index in range(first, len(tokens))]


def score_choices(
    choices: Sequence[Path],
    method: ChoiceMethod,
    conditional: Logprobs,
    unconditional: Logprobs | None = None,
) -> list[ChoiceScore]:
    """Scores of all choices. `unconditional`: log probabilities without the prefix, the first token's taken
    as 0.

    ``probability`` compares the exact log probabilities. ``token_length_normalized``, ``greedy`` and
    ``unconditional_normalized`` are defined as in SGLang: mean per token; row-wise elimination by the best
    token at each place (short rows padded with their own mean); mean of the differences to the unconditional
    values.
    """
    rows = [_along(tokens, conditional) for tokens in choices]
    totals = [math.fsum(row) for row in rows]
    if method == "probability":
        scores = totals
    elif method == "token_length_normalized":
        scores = [math.fsum(row) / len(row) for row in rows]
    elif method == "greedy":
        scores = _greedy(rows)
    else:
        assert unconditional is not None
        scores = [
            math.fsum(a - b for a, b in zip(row, [0.0, *_along(tokens, unconditional, 1)], strict=True))
            / len(row)
            for row, tokens in zip(rows, choices, strict=True)
        ]
    shares = softmax(totals)
    return [
        ChoiceScore(logprob=total, probability=share, score=score, tokens=len(row))
        for total, share, score, row in zip(totals, shares, scores, rows, strict=True)
    ]


def _greedy(rows: Sequence[Sequence[float]]) -> list[float]:
    """1 for the rows that survive to the end, less for those that fall out earlier."""
    width = max(len(row) for row in rows)
    padded = [[*row, *[math.fsum(row) / len(row)] * (width - len(row))] for row in rows]
    alive = set(range(len(rows)))
    scores = [0.0] * len(rows)
    for column in range(width):
        best = max(padded[index][column] for index in alive)
        alive = {index for index in alive if padded[index][column] == best}
        for index in alive:
            scores[index] = (column + 1) / width
    return scores


def softmax(values: Sequence[float]) -> list[float]:
    """Shares that sum to 1; equal ones where nothing is possible at all."""
    top = max(values)
    if top == -math.inf:
        return [1.0 / len(values)] * len(values)
    weights = [math.exp(value - top) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def best_choice(node: Select, scores: Sequence[ChoiceScore], seed: int) -> int:
    """Index of the winner: the best score (first on ties), or drawn with `temperature` from the scores.

    Choices drawn under ``probability`` at temperature 1 follow the model's distribution over the choices.
    """
    values = [item.score for item in scores]
    if node.temperature == 0.0:
        return max(range(len(values)), key=lambda index: (values[index], -index))
    shares = softmax([value / node.temperature for value in values])
    digest = hashlib.blake2b(f"select:{seed}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64
    for index, share in enumerate(shares):
        point -= share
        if point < 0.0:
            return index
    return len(shares) - 1
