"""Request trees of four kinds of work, as data: what each sequence is given, what it generates, what it waits for.

Everything is random tokens under a seed: caching looks at tokens only. Lengths are drawn around those of the public
workloads that the kinds are named after (few-shot benchmarks, tree of thought, chats, ReAct agents).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

VOCABULARY = 32_000


@dataclass(frozen=True)
class Task:
    """One sequence: `prompt` is known once all of `after` are done and `delay` steps (a tool, a user) have passed.

    `path`: its branch in the program, as places among siblings. `critical`: a join waits for it.
    """

    number: int
    program: int
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    after: tuple[int, ...] = ()
    delay: int = 0
    path: tuple[int, ...] = ()
    critical: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.output


@dataclass
class Workload:
    """`tasks[i].number == i`. `arrivals[program]`: the step at which it comes, ascending."""

    name: str
    tasks: list[Task] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)


class _Maker:
    def __init__(self, name: str, seed: int) -> None:
        self.random = random.Random(f"{name} {seed}")
        self.workload = Workload(name)

    def text(self, low: int, high: int) -> tuple[int, ...]:
        draw = self.random.randrange
        return tuple(draw(VOCABULARY) for _ in range(draw(low, high + 1)))

    def program(self, arrival: int = 0) -> int:
        self.workload.arrivals.append(arrival)
        return len(self.workload.arrivals) - 1

    def task(
        self,
        program: int,
        prompt: tuple[int, ...],
        output: tuple[int, ...],
        after: Sequence[Task] = (),
        **rest,
    ):
        numbers = tuple(task.number for task in after)
        task = Task(len(self.workload.tasks), program, prompt, output, numbers, **rest)
        self.workload.tasks.append(task)
        return task


def few_shot(seed: int = 0, groups: int = 8, questions: int = 50) -> Workload:
    """One instruction, `groups` sets of examples under it, many questions to each set, in random order."""
    make = _Maker("few-shot", seed)
    instruction = make.text(60, 60)
    headers = [instruction + make.text(500, 1100) for _ in range(groups)]
    order = [header for header in headers for _ in range(questions)]
    make.random.shuffle(order)
    for header in order:
        make.task(make.program(), header + make.text(40, 120), make.text(16, 64))
    return make.workload


def fork_heavy(seed: int = 0, programs: int = 24, width: int = 3, depth: int = 3) -> Workload:
    """Tree of thought: every thought forks into `width` more; a judge at the root reads the last ones (a join)."""
    make = _Maker("fork-heavy", seed)
    instruction = make.text(300, 300)
    for _ in range(programs):
        program = make.program()
        first = make.task(program, instruction + make.text(80, 160), make.text(40, 80))
        level = [first]
        for _ in range(depth):
            level = [
                make.task(
                    program,
                    parent.tokens + make.text(8, 8),
                    make.text(40, 80),
                    [parent],
                    path=(*parent.path, place),
                    critical=True,
                )
                for parent in level
                for place in range(width)
            ]
        ends = [task.output[-20:] for task in level]
        make.task(program, first.tokens + sum(ends, ()), make.text(20, 40), level, path=(width,))
    return make.workload


def multi_turn(seed: int = 0, chats: int = 64, turns: int = 6) -> Workload:
    """Chats under three system prompts; the user answers at once to some turns, after a while to others."""
    make = _Maker("multi-turn", seed)
    systems = [make.text(150, 400) for _ in range(3)]
    for _ in range(chats):
        program, history, last = make.program(), make.random.choice(systems), []
        for turn in range(turns):
            delay = make.random.choice([0, 0, 5, 20]) if turn else 0
            task = make.task(program, history + make.text(30, 150), make.text(40, 160), last, delay=delay)
            history, last = task.tokens, [task]
    return make.workload


def agents(seed: int = 0, programs: int = 64, steps: int = 6) -> Workload:
    """ReAct: instructions and tools shared by all, then thought, action, a tool that takes its time, observation."""
    make = _Maker("agents", seed)
    tools = make.text(900, 900)
    for _ in range(programs):
        program, history, last = make.program(), tools + make.text(40, 120), []
        for step in range(make.random.randrange(2, steps + 1)):
            delay = make.random.randrange(3, 30) if step else 0
            task = make.task(program, history, make.text(40, 90), last, delay=delay)
            history, last = task.tokens + make.text(40, 200), [task]
    return make.workload


WORKLOADS: dict[str, Callable[..., Workload]] = {
    "few-shot": few_shot,
    "fork-heavy": fork_heavy,
    "multi-turn": multi_turn,
    "agents": agents,
}


@dataclass(frozen=True)
class Bound:
    """`queried`: prompt tokens that may come from a cache (all but the last of each prompt, whose logits are wanted).
    `needed`: how many of them have to be computed even with endless memory and the best order, since nobody else
    computes or generates them. `share`: the hit share that nobody can beat."""

    queried: int
    needed: int

    @property
    def share(self) -> float:
        return 1 - self.needed / self.queried


def best_possible(workload: Workload) -> Bound:
    """Every distinct prefix has to be computed once, in a prompt or while it is generated. No order and no memory
    does with less, so this is an upper bound of the hit share at every cache size.
    """
    children: dict[tuple[int, int], int] = {}
    generated: set[int] = set()
    asked: set[int] = set()
    queried = 0
    for task in workload.tasks:
        node, queried = 0, queried + len(task.prompt) - 1
        for place, token in enumerate(task.tokens[:-1]):
            node = children.setdefault((node, token), len(children) + 1)
            if place < len(task.prompt) - 1:
                asked.add(node)
            else:
                generated.add(node)  # the last token of the prompt is computed in any case
    return Bound(queried, len(asked - generated))
