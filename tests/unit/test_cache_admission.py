"""Who begins and who gives way when memory is short."""

from types import SimpleNamespace

import pytest

from sgl_lang.tree import ROOT, Gen, Hole, ProgramOptions, SamplingParams, Text, Tokens
from sgl_runtime.cache import PagePool, RadixCache
from sgl_runtime.engine.sequence import Sequence, SequenceOwner
from sgl_runtime.program.program import Branch, Program
from sgl_runtime.scheduler.admission import Admission, expected_growth


def program(arrival: int, *steps, priority: int = 0) -> Program:
    made = Program(str(arrival), ProgramOptions(priority=priority), lambda event: None, arrival)
    owner = SequenceOwner(program=made, fail=lambda error: None, priority=priority, arrival=arrival)
    root = Branch(id=ROOT, parent=None, sequence=Sequence(owner, "", tokens=range(16)))
    root.queue.extend(steps)
    made.branches[ROOT] = root
    return made


def gen(number: int, limit: int | None) -> Gen:
    return Gen(id=number, sampling=SamplingParams(max_tokens=limit))


@pytest.mark.parametrize(
    ("steps", "tokens"),
    [
        ([], 0),
        ([Tokens(id=0, ids=(1, 2, 3))], 3),
        ([Text(id=0, text="abcd" * 5)], 5),
        ([gen(0, 10), gen(1, None), gen(2, 500)], 10 + 64 + 64),
        ([Hole(id=0), gen(1, 6)], 64 + 6),
    ],
)
def test_growth_that_the_tree_tells(steps, tokens: int) -> None:
    assert expected_growth(program(0, *steps), mean=64) == tokens


def test_growth_follows_the_longest_branch_and_the_generation_that_runs() -> None:
    made = program(0, gen(0, 40), Tokens(id=1, ids=(7,) * 5))
    root = made.root
    root.generation = SimpleNamespace(room=30)  # type: ignore[assignment]
    for number, limit in [(1, 8), (2, 20)]:
        child = Branch(id=number, parent=root, sequence=root.sequence)
        child.queue.append(gen(number + 5, limit))
        root.children.append(child)
        made.branches[number] = child
    assert expected_growth(made, mean=64) == 30 + 5 + 20


def admission(pages: int) -> tuple[Admission, PagePool]:
    pool = PagePool(pages, 16)
    return Admission(pool, RadixCache(pool), page_size=16, patience=1.0), pool


def test_memory_is_kept_for_what_has_begun() -> None:
    made, pool = admission(pages=10)
    old, new = program(1, gen(0, 64)), program(2, gen(0, 64))
    assert made.opens(old.root.sequence, 0)
    old.started = True
    made.entered(old.root.sequence)
    assert pool.alloc(1)
    assert not made.opens(new.root.sequence, 0), "4 + 4 pages of growth, 2 of 9 are for the prompt"
    assert made.opens(old.root.sequence, 16), "who has begun and still has its KV is not kept back"
    made.left(old.root.sequence)
    made.left(old.root.sequence)
    assert made.opens(new.root.sequence, 0)


def test_the_youngest_of_the_lowest_priority_gives_way() -> None:
    made, _ = admission(pages=1)
    sequences = [program(n, priority=p).root.sequence for n, p in [(1, 0), (3, 0), (2, 0), (4, 1)]]
    assert made.youngest(sequences) is sequences[1]
