"""The request trees of `trees` as programs for the real engine on its fake model, and the hit share it reaches.

Everything is the engine's own: walker, scheduler, memory, cache. Only the forward step is a table look-up. What is
computed is counted at the model: every token of a forward step that is not a generated one was missing in the cache.

    python benchmarks/tree_programs.py [WORKLOAD ...]
"""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Sequence

import trees

from sgl_lang.tree import (
    End,
    Event,
    Extend,
    Failed,
    Fill,
    Finished,
    Fork,
    Gen,
    Hole,
    Join,
    Operation,
    ProgramOptions,
    Ready,
    SamplingParams,
    Tokens,
)
from sgl_runtime.config import EngineConfig
from sgl_runtime.engine.engine import Engine
from sgl_runtime.engine.execution import InlineExecutor
from sgl_runtime.engine.testing import ByteTokenizer, ChoiceCompiler, FakeRunner, PlainTemplate


class TreeProgram:
    """One program of a workload. `fills[node]`: after that generation, the hole to fill, when, and with what."""

    def __init__(self, tasks: Sequence[trees.Task]) -> None:
        self.operations: list[Operation] = []
        self.fills: dict[int, tuple[int, int, str]] = {}
        self._branch_of: dict[int, int] = {}
        self._nodes = 0
        self._branches = 1
        children: dict[int, list[trees.Task]] = {}
        for task in tasks:
            if len(task.after) == 1:
                children.setdefault(task.after[0], []).append(task)
        joins = [task for task in tasks if len(task.after) > 1]
        self._chain(0, tasks[0], 0, children)
        for join in joins:
            branches = tuple(self._branch_of[number] for number in join.after)
            known = join.prompt[len(tasks[0].tokens) :]
            self._extend(0, Join(id=self._id(), branches=branches), *self._step(known, join))
        self.operations.append(End())

    def _id(self) -> int:
        self._nodes += 1
        return self._nodes - 1

    def _extend(self, branch: int, *nodes) -> None:
        self.operations.append(Extend(branch=branch, nodes=nodes))

    def _step(self, known: tuple[int, ...], task: trees.Task):
        params = SamplingParams(temperature=0.0, max_tokens=len(task.output), ignore_eos=True)
        gen = Gen(id=self._id(), sampling=params)
        return Tokens(id=self._id(), ids=tuple(token % 256 for token in known)), gen

    def _chain(self, branch: int, task: trees.Task, have: int, children: dict[int, list[trees.Task]]) -> None:
        """`task` and what follows it: on the same branch if that is one, on new branches if it is many."""
        self._branch_of[task.number] = branch
        step = self._step(task.prompt[have:], task)
        self._extend(branch, *step)
        later = children.get(task.number, [])
        if len(later) == 1 and not later[0].path:
            if later[0].delay:
                extension = later[0].prompt[len(task.tokens) :]
                hole = Hole(id=self._id())
                self.fills[step[1].id] = (
                    hole.id,
                    later[0].delay,
                    "".join(chr(32 + i % 95) for i in extension),
                )
                self._extend(branch, hole)
                self._chain(branch, later[0], len(later[0].prompt), children)
            else:
                self._chain(branch, later[0], len(task.tokens), children)
        elif later:
            made = tuple(range(self._branches, self._branches + len(later)))
            self._branches += len(later)
            self.operations.append(Fork(branch=branch, children=made))
            for child, follower in zip(made, later, strict=True):
                self._chain(child, follower, len(task.tokens), children)


def run(workload: trees.Workload, pages: int, *, max_steps: int = 100_000, **options) -> dict[str, float]:
    """Hit share of the engine on `workload` with `pages` pages of 16 tokens, and the steps it took."""
    options = {"max_sequences": 32, "max_batch_tokens": 2048, "min_shared_tokens": 1} | options
    runner = FakeRunner(num_pages=pages, page_size=16, max_context=8192)
    tokenizer = ByteTokenizer()
    config = EngineConfig(overlap=False, max_queue=1 << 16, **options)
    engine = Engine(
        runner,
        tokenizer,
        template=PlainTemplate(),
        compiler=ChoiceCompiler(tokenizer.vocabulary),
        config=config,
        executor=InlineExecutor(runner, config.max_sequences),
    )
    steps, open_programs = 0, len(workload.arrivals)
    timers: list[tuple[int, int, str, Fill]] = []
    by_program: dict[int, list[trees.Task]] = {}
    for task in workload.tasks:
        by_program.setdefault(task.program, []).append(task)

    def start(tasks: Sequence[trees.Task]) -> None:
        program = TreeProgram(tasks)
        name = ""

        def listen(event: Event) -> None:
            nonlocal open_programs
            if isinstance(event, Ready) and event.node in program.fills:
                hole, delay, text = program.fills[event.node]
                heapq.heappush(timers, (steps + delay, len(timers), name, Fill(node=hole, text=text)))
            elif isinstance(event, Finished):
                open_programs -= 1
            elif isinstance(event, Failed):
                raise RuntimeError(event.error.message)

        name = engine.open(ProgramOptions(), listen)
        engine.send(name, program.operations)

    waiting = [by_program[number] for number in sorted(by_program)]
    while open_programs:
        while waiting and workload.arrivals[waiting[0][0].program] <= steps:
            start(waiting.pop(0))
        while timers and timers[0][0] <= steps:
            _, _, name, fill = heapq.heappop(timers)
            engine.send(name, [fill])
        engine.step()
        steps += 1
        if steps > max_steps:
            raise RuntimeError(f"{open_programs} programs are still open after {max_steps} steps")
    bound = trees.best_possible(workload)
    generated = sum(len(task.output) for task in workload.tasks)
    share = 1 - (runner.computed_tokens - generated) / bound.queried
    engine.pool.check()
    return {
        "share": share,
        "of_best": share / bound.share,
        "steps": steps,
        "preempted": engine.scheduler.stats.preempted,
    }


def main() -> None:
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in sys.argv[1:] or list(trees.WORKLOADS):
        workload = trees.WORKLOADS[name]()
        total = sum(len(task.output) for task in workload.tasks) + trees.best_possible(workload).needed
        for part in (0.25, 0.5, 1.0):
            for policy in ("tree", "lpm"):
                row = run(workload, int(total / 16 * part), policy=policy)
                print(
                    f"{name:12} {part:4.0%} {policy:5}", {key: round(value, 4) for key, value in row.items()}
                )
                result.setdefault(name, {}).setdefault(f"{part:.0%}", {})[policy] = round(row["of_best"], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
