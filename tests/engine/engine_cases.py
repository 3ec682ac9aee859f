"""Engines on the fake model, and random programs for them."""

from __future__ import annotations

import gc
import random
from typing import Any

from sgl_grammars.spec import Choice
from sgl_lang.tree import (
    BranchDone,
    End,
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
    RoleBegin,
    RoleEnd,
    SamplingParams,
    Select,
    Text,
    Value,
)
from sgl_runtime.config import EngineConfig
from sgl_runtime.engine.engine import Engine
from sgl_runtime.engine.execution import InlineExecutor
from sgl_runtime.engine.testing import (
    ByteTokenizer,
    ChoiceCompiler,
    Collected,
    FakeRunner,
    PlainTemplate,
    drive,
)

RUNNER_OPTIONS = ("num_pages", "page_size", "max_context", "end_bias", "before", "printable", "rows")


def make_engine(*, hold_compiles: bool = False, lagging: bool = False, **options: Any) -> Engine:
    """An engine on the fake model. `lagging`: overlap, with each result computed one step late on this
    thread.
    """
    runner = FakeRunner(**{name: options.pop(name) for name in RUNNER_OPTIONS if name in options})
    tokenizer = ByteTokenizer(bos=options.pop("bos", False))
    options.setdefault("min_shared_tokens", 1)  # exact counts at any length
    config = EngineConfig(overlap=lagging or options.pop("overlap", False), **options)
    return Engine(
        runner,
        tokenizer,
        template=PlainTemplate(),
        compiler=ChoiceCompiler(tokenizer.vocabulary, hold=hold_compiles),
        config=config,
        executor=InlineExecutor(runner, config.max_sequences),
    )


def check_pages(engine: Engine) -> None:
    """Invariant 1, and that the engine's own count of held pages is the pool's."""
    engine.pool.check()
    assert engine.memory.held == engine.pool.held
    assert engine.pool.free + engine.pool.cached + engine.pool.held == engine.pool.total


def check_empty(engine: Engine) -> None:
    """Nothing is held: pages, locks, sequences, programs, matchers."""
    gc.collect()
    check_pages(engine)
    assert engine.pool.held == 0
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting
    assert not engine.scheduler.leased
    assert not engine._programs
    assert engine._open_count == 0
    if engine.tree is not None:
        assert engine.tree.stats().locked_pages == 0
    assert not engine.compiler.live


def results(collected: Collected) -> dict[int, tuple[Any, ...]]:
    """What a program produced, by node, without times and counts that depend on scheduling."""
    return {
        event.node: (event.text, event.tokens, event.finish_reason, event.stop)
        for event in collected.events
        if isinstance(event, Ready)
    }


def outcome(collected: Collected) -> str:
    last = collected.events[-1]
    assert isinstance(last, Finished) or (isinstance(last, Failed) and last.branch is None)
    ends = [
        event
        for event in collected.events
        if isinstance(event, Finished) or (isinstance(event, Failed) and event.branch is None)
    ]
    assert len(ends) == 1
    return "finished" if isinstance(last, Finished) else last.error.code


class Script:
    """A random program: greedy, or sampled with seeds, so that its outcome is fixed."""

    def __init__(
        self, seed: int, *, size: int = 12, prefix: str = "The common beginning of every program. "
    ) -> None:
        self._random = random.Random(seed)
        self._nodes = 0
        self._branches = 1
        self._named: list[int] = []
        self.operations: list[Operation] = []
        self.fills: list[Fill] = []
        self._extend(0, Text(id=self._id(), text=prefix))
        self._grow(0, size, 0)
        self.operations.append(End())
        self.branches = self._branches

    def _id(self) -> int:
        self._nodes += 1
        return self._nodes - 1

    def _extend(self, branch: int, *nodes: Any) -> None:
        self.operations.append(Extend(branch=branch, nodes=nodes))

    def _text(self) -> Text:
        words = self._random.choices(
            ["alpha", " be\u00e9", " \u4e2d\u6587", " four 4", "!", "\n"], k=self._random.randint(1, 4)
        )
        return Text(id=self._id(), text="".join(words))

    def _sampling(self) -> SamplingParams:
        r = self._random
        return SamplingParams(
            max_tokens=r.choice([0, 1, 2, 5, 9, 14]),
            temperature=r.choice([0.0, 0.0, 0.8]),
            seed=r.randint(0, 1000),
            stop=r.choice([(), (), ("e",), ("ab", "Z")]),
            stop_regex=r.choice([None, None, None, "[0-9]+[a-c]"]),
            ignore_eos=r.random() < 0.2,
            frequency_penalty=r.choice([0.0, 0.0, 0.7]),
        )

    def _gen(self) -> Gen:
        r = self._random
        constraint = None
        sampling = self._sampling()
        if r.random() < 0.35:
            pool = ["yes", "yesterday", "no", '{"name": "a"}', '{"name": "b"}', '{"nothing": 1}', "\u00fcber"]
            constraint = Choice(choices=tuple(sorted(r.sample(pool, r.randint(1, 5)))))
            sampling = SamplingParams(
                max_tokens=r.choice([None, 20, 4]), temperature=r.choice([0.0, 1.0]), seed=r.randint(0, 99)
            )
        node = Gen(id=self._id(), sampling=sampling, constraint=constraint)
        self._named.append(node.id)
        return node

    def _select(self) -> Select:
        r = self._random
        choices = tuple(r.sample(["red", "green", "greenish", "blue", "blue sky", "b"], r.randint(1, 5)))
        methods = ["token_length_normalized", "greedy", "unconditional_normalized", "probability"]
        node = Select(id=self._id(), choices=choices, method=r.choice(methods))
        self._named.append(node.id)
        return node

    def _grow(self, branch: int, size: int, depth: int) -> None:
        r = self._random
        for _ in range(r.randint(1, size)):
            kind = r.random()
            if kind < 0.30:
                self._extend(branch, self._text())
            elif kind < 0.62:
                self._extend(branch, self._text(), self._gen())
            elif kind < 0.72:
                self._extend(branch, self._select())
            elif kind < 0.78 and self._named:
                self._extend(branch, Value(id=self._id(), of=r.choice(self._named)))
            elif kind < 0.84:
                self._extend(
                    branch, RoleBegin(id=self._id(), role="user"), self._text(), RoleEnd(id=self._id())
                )
            elif kind < 0.90:
                hole = Hole(id=self._id(), lease_s=r.choice([0.0, 60.0]))
                self._extend(branch, hole)
                self.fills.append(Fill(node=hole.id, text=self._text().text))
            elif depth < 2:
                self._fork(branch, size // 2, depth)

    def _fork(self, branch: int, size: int, depth: int) -> None:
        r = self._random
        children = tuple(range(self._branches, self._branches + r.randint(1, 3)))
        self._branches += len(children)
        known = list(self._named)
        self.operations.append(Fork(branch=branch, children=children))
        for child in children:
            self._named = list(known)
            self._grow(child, max(1, size), depth + 1)
        self._named = known
        if r.random() < 0.8:
            mode = r.choice(["gather", "concatenate"])
            self._extend(branch, Join(id=self._id(), branches=children, mode=mode))


def play(
    engine: Engine, scripts: list[Script], *, seed: int = 0, check: Any = None, **options: Any
) -> list[Collected]:
    """Run programs together, with their operations arriving in pieces between steps."""
    chance = random.Random(seed)
    streams = []
    for script in scripts:
        collected = Collected()
        program = engine.open(ProgramOptions(**options), collected)
        streams.append((program, collected, list(script.operations), list(script.fills)))
    while any(operations or fills for _, _, operations, fills in streams):
        for program, _, operations, fills in streams:
            count = chance.randint(0, 6)
            engine.send(program, operations[:count])
            del operations[:count]
            if not operations and fills:
                engine.send(program, [fills.pop()])
        for _ in range(chance.randint(0, 3)):
            engine.step()
            if check is not None:
                check()
    drive(engine, check=check)
    return [collected for _, collected, _, _ in streams]


__all__ = [
    "BranchDone",
    "Script",
    "check_empty",
    "check_pages",
    "make_engine",
    "outcome",
    "play",
    "results",
]


def check_contents(engine: Engine) -> None:
    """The KV that every sequence believes written is that of its tokens."""
    if engine.memory.has_copies or engine._flying is not None:
        return
    size = engine.memory.page_size
    for sequence in [*engine.scheduler.running.values(), *engine.scheduler.leased.values()]:
        for place in range(sequence.written):
            slot = sequence.pages[place // size] * size + place % size
            assert engine.runner.kv[slot] == sequence.tokens[place], (
                place,
                sequence.written,
                sequence.tokens,
            )
