"""The constrained step: the torch reference against its definition, Triton against the reference.

Without a GPU the Triton kernel runs in Triton's interpreter.
"""

import importlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from sgl_grammars.automaton.matcher import compile_automaton
from sgl_grammars.automaton.table import TokenTable
from sgl_grammars.spec import Choice, Regex
from sgl_grammars.testing import merged_vocabulary
from sgl_kernels import automaton as ops
from sgl_kernels.automaton import FREE, Automata, Rows, Table, pack, reference
from sgl_runtime.sampling import uniforms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = merged_vocabulary(["red green blue 2024-01-31 é€😀"], size=330, seed=1)
CONSTRAINTS = [
    Regex("[0-9]{4}-[0-9]{2}"),
    Choice(("red", "green", "greenish")),
    Regex("(é|€|[a-z])*"),
    Regex(".{3}"),
]


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(scope="module")
def triton_op():
    if DEVICE == "cpu" and not INTERPRETED:
        pytest.skip("needs a GPU or TRITON_INTERPRET=1; test_triton_in_its_interpreter runs it so")
    return importlib.import_module("sgl_kernels.automaton.triton_step").step


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the kernel is tested here directly")
def test_triton_in_its_interpreter() -> None:
    """Triton must know before its first import that it is to interpret, hence a process of its own."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "triton_equals or broken_rows"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "7 passed" in done.stdout


def table_of(table: TokenTable) -> Table:
    return Table(table.class_of, table.next, table.dfa.accepting, table.dfa.start)


def automata(device: str = "cpu") -> tuple[Automata, list[TokenTable]]:
    tables = [compile_automaton(constraint, VOCABULARY).table for constraint in CONSTRAINTS]
    return pack(
        [table_of(table) for table in tables], sorted(VOCABULARY.eos_token_ids), device=device
    ), tables


def make_rows(packed: Automata, which: list[int], device: str = "cpu", **options: float) -> Rows:
    count = len(which)

    def number(name: str, default: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((count,), options.get(name, default), dtype=dtype, device=device)

    index = torch.tensor(which, dtype=torch.int32, device=device)
    return Rows(
        automaton=index,
        state=torch.where(index < 0, 0, packed.start[index.clamp(min=0).long()]).int(),
        temperature=number("temperature", 0.0, torch.float32),
        top_k=number("top_k", 0, torch.int32),
        top_p=number("top_p", 1.0, torch.float32),
        min_p=number("min_p", 0.0, torch.float32),
        seed=torch.arange(count, dtype=torch.int64, device=device) * 7919 + 3,
        counter=torch.zeros(count, dtype=torch.int64, device=device),
    )


def copy(rows: Rows) -> Rows:
    return Rows(**{name: part.clone() for name, part in vars(rows).items()})


def noise(count: int, seed: int, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, VOCABULARY.size, generator=generator) * 3).to(device)


def test_rows_follow_their_own_matchers() -> None:
    packed, _ = automata()
    grammars = [compile_automaton(constraint, VOCABULARY) for constraint in CONSTRAINTS]
    which = [0, 1, 2, 3, FREE, 1, 0]
    matchers = [None if index < 0 else grammars[index].matcher() for index in which]
    rows = make_rows(packed, which, temperature=1.3)
    for turn in range(12):
        mask = reference.allowed(packed, rows)
        for row, matcher in enumerate(matchers):
            if matcher is None:
                assert mask[row].all()
                continue
            bits = np.zeros(VOCABULARY.mask_words, np.int32)
            matcher.fill_mask(bits)
            expected = np.unpackbits(bits.view(np.uint8), bitorder="little")[: VOCABULARY.size].astype(bool)
            assert (mask[row].numpy() == expected).all() or matcher.done
        tokens, good = ops.step(noise(len(which), turn), packed, rows)
        assert good.all()
        for matcher, token in zip(matchers, tokens.tolist(), strict=True):
            assert matcher is None or matcher.accept(token) or matcher.done


def test_uniforms_are_those_of_the_sampler() -> None:
    pairs = [(seed, counter) for seed in (0, 1, -5, 2**63 - 1, 12345) for counter in (0, 1, 2, 10**9)]
    seeds, counters = torch.tensor(pairs, dtype=torch.int64).T
    ours = reference.uniforms(seeds, counters).double().numpy()
    assert (np.abs(uniforms(pairs) - ours) < 2.0**-24).all()


def test_filters_by_definition() -> None:
    packed, _ = automata()
    rows = make_rows(packed, [FREE] * 40, temperature=0.8)
    rows.top_k.copy_(torch.tensor([0, 1, 5, 1000] * 10))
    rows.top_p.copy_(torch.tensor([1.0, 0.5, 0.9, 0.01, 0.99] * 8))
    rows.min_p.copy_(torch.tensor([0.0, 0.1] * 20))
    weights = torch.softmax(noise(40, 2) / 0.8, -1)
    weights = weights / weights.amax(-1, keepdim=True)
    found = reference.kept(weights, rows) > 0
    for row in range(40):
        order = sorted(range(VOCABULARY.size), key=lambda token: -weights[row, token])
        count = int(rows.top_k[row]) or VOCABULARY.size
        order = order[:count]
        mass, total, expected = 0.0, sum(float(weights[row, token]) for token in order), set()
        for token in order:
            if mass < float(rows.top_p[row]) * total or not expected:
                expected.add(token)
            mass += float(weights[row, token])
        expected = {token for token in expected if weights[row, token] >= rows.min_p[row]}
        assert set(found[row].nonzero().flatten().tolist()) == expected


def test_draws_follow_the_distribution() -> None:
    packed, tables = automata()
    count = 20_000
    logits = noise(1, 3).expand(count, -1).contiguous()
    rows = make_rows(packed, [1] * count, temperature=1.0)
    mask = reference.allowed(packed, rows)[0]
    tokens, _ = ops.step(logits, packed, rows, backend="torch")
    expected = torch.softmax(logits[0].masked_fill(~mask, -torch.inf), -1)
    seen = torch.bincount(tokens, minlength=VOCABULARY.size) / count
    assert (seen[~mask] == 0).all()
    assert (seen - expected).abs().sum() < 0.03
    assert tables[1].classes > 3


SETTINGS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.5, "top_k": 3},
    {"temperature": 1.5, "top_p": 0.7},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.9, "min_p": 0.01},
]


@pytest.mark.parametrize("options", SETTINGS)
def test_triton_equals_the_reference(options: dict[str, float], triton_op) -> None:
    packed, _ = automata(DEVICE)
    which = [0, FREE, 2, 1]
    mine = make_rows(packed, which, DEVICE, **options)
    theirs = copy(mine)
    for turn in range(2):
        logits = noise(len(which), 50 + turn, DEVICE)
        tokens, good = reference.step(logits, packed, theirs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter's integers wrap aloud
            found, fine = triton_op(logits, packed, mine)
        assert found.tolist() == tokens.tolist()
        assert fine.tolist() == good.tolist()
        for name, part in vars(theirs).items():
            assert torch.equal(part, getattr(mine, name)), name


def test_broken_rows_stay_where_they_are(triton_op) -> None:
    packed, _ = automata(DEVICE)
    logits = noise(4, 9, DEVICE)
    logits[0, 5] = torch.nan
    logits[1] = -torch.inf
    logits[2, 7] = torch.inf
    for op in (reference.step, triton_op):
        rows = make_rows(packed, [2, 1, FREE, 1], DEVICE, temperature=1.0)
        before = rows.state.clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            _, good = op(logits.clone(), packed, rows)
        assert good.tolist()[1:] == [False, False, True]
        assert rows.state.tolist()[1] == before.tolist()[1]
        assert rows.state.tolist()[3] != before.tolist()[3]


def test_wrong_shapes_are_refused() -> None:
    packed, _ = automata()
    with pytest.raises(ValueError, match="tokens"):
        ops.step(torch.zeros(1, 5), packed, make_rows(packed, [0]))
    with pytest.raises(ValueError, match=r"rows\.automaton"):
        ops.step(noise(2, 0), packed, make_rows(packed, [0]))
    with pytest.raises(ValueError, match="at least one"):
        pack([], [1])
