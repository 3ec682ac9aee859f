"""One `Select` while it is scored: which sequences are run, and when all of it is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import Ready, Select, Usage
from sgl_runtime.engine.sequence import Score, Sequence
from sgl_runtime.program.program import Branch, Program
from sgl_runtime.program.selection import Path, ScorePlan, best_choice, plan_scores, score_choices

if TYPE_CHECKING:
    from sgl_runtime.program.walker import Walker

__all__ = ["Choosing"]

Found = Mapping[int, Mapping[int, float]]


class Choosing:
    """Scores the choices of `node` over the tokens of `branch`.

    First the branch itself is computed, which gives the first token's log probabilities; then one sequence
    for each longest path of the trie, all of them forks of the branch and together in one step.
    """

    def __init__(self, walker: Walker, program: Program, branch: Branch, node: Select) -> None:
        self._walker, self._program, self._branch, self._node = walker, program, branch, node
        codec = walker.host.codec
        self._choices: list[Path] = [tuple(codec.encode(choice)) for choice in node.choices]
        empty = next(
            (choice for choice, ids in zip(node.choices, self._choices, strict=True) if not ids), None
        )
        if empty is not None:
            raise InvalidRequest(f"choice {empty!r} has no tokens", place="choices")
        self._plan: ScorePlan = plan_scores(self._choices)
        self._prefix = list(branch.sequence.tokens)
        self._bos = [] if codec.bos is None else [codec.bos]
        self._given: dict[Path, Mapping[int, float]] = {}
        self._alone: dict[Path, Mapping[int, float]] = {}
        self._missing = 0
        self._started = time.perf_counter()

    @property
    def longest(self) -> int:
        return max(map(len, self._choices))

    def start(self) -> None:
        last = len(self._prefix) - 1
        goal = Score({last: self._plan.targets[()]}, self._prefix_done)
        self._walker.host.submit(self._branch.sequence, goal)

    def _prefix_done(self, found: Found) -> None:
        self._given[()] = found[len(self._prefix) - 1]
        for path in self._plan.runs:
            self._run(self._prefix, path, self._given)
            if self._node.method == "unconditional_normalized":
                self._run(self._bos, path, self._alone)
        if not self._missing:
            self._finish()

    def _run(self, prefix: list[int], path: Path, into: dict[Path, Mapping[int, float]]) -> None:
        """Read the targets of every node of the trie along `path`.

        ::

            positions   0 .. p-1   p          p+1        ...
            tokens      prefix     path[0]    path[1]    ...
            gives                  after [:1] after [:2] ...
        """
        base = len(prefix)
        targets = {base + index: self._plan.targets[path[: index + 1]] for index in range(len(path))}
        sequence = Sequence(self._branch.sequence.owner, self._branch.sequence.namespace, [*prefix, *path])
        self._branch.parts.append(sequence)
        self._missing += 1

        def done(found: Found) -> None:
            for index in range(len(path)):
                into.setdefault(path[: index + 1], found[base + index])
            self._walker.host.withdraw(sequence, keep=False)
            self._missing -= 1
            if not self._missing:
                self._finish()

        self._walker.host.submit(sequence, Score(targets, done))

    def _finish(self) -> None:
        node, program = self._node, self._program
        scores = score_choices(self._choices, node.method, self._given, self._alone)
        seed = node.seed if node.seed is not None else program.seed_of(node.id)
        winner = best_choice(node, scores, seed)
        now = time.perf_counter()
        ready = Ready(
            branch=self._branch.id,
            node=node.id,
            text=node.choices[winner],
            tokens=self._choices[winner],
            choices=tuple(scores),
            usage=Usage(
                prompt_tokens=sum(item.end - item.start for item in self._branch.placed),
                cached_tokens=sum(item.cached for item in self._branch.placed),
                steps=1 + bool(self._plan.runs),
                total_s=now - self._started,
            ),
        )
        self._walker.chosen(program, self._branch, ready)
