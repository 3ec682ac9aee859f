"""Invariants of the engine under random programs: accounting after every step, outputs as one by one."""

from __future__ import annotations

import collections
import gc
import random
from typing import Any

import pytest
from engine_cases import Script, check_contents, check_empty, check_pages, make_engine, outcome, play, results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgl_lang.tree import Cancel, ProgramOptions
from sgl_runtime.engine.engine import Engine
from sgl_runtime.engine.testing import Collected, drive

CONTEXT = 600
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lagging": {"lagging": True},
    "chunks": {"max_batch_tokens": 8},
    "no cache": {"disable_radix_cache": True},
    "tight, big pages": {"num_pages": 38, "page_size": 16},
    "tight, small pages": {"num_pages": 150, "page_size": 4},
    "tight, lagging": {"num_pages": 600, "page_size": 1, "lagging": True},
    "no jumps": {"jump_forward": "off"},
    "verify": {"jump_forward": "verify"},
    "verify, lagging": {"jump_forward": "verify", "lagging": True},
    "few rows": {"max_sequences": 2, "max_batch_tokens": 16, "lagging": True, "num_pages": 150},
}


def alone(script: Script) -> tuple[str, Any]:
    """The reference: this program only, no cache, no jumps, plenty of memory."""
    engine = make_engine(num_pages=4096, max_context=CONTEXT, jump_forward="off", disable_radix_cache=True)
    (collected,) = play(engine, [script])
    return outcome(collected), results(collected)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), variant=st.sampled_from(sorted(VARIANTS)))
def test_programs_together_give_what_they_give_alone(seed: int, variant: str) -> None:
    scripts = [Script(seed * 10 + index) for index in range(4)]
    engine = make_engine(**{"num_pages": 512, "max_context": CONTEXT, **VARIANTS[variant]})

    def check() -> None:
        check_pages(engine)
        check_contents(engine)

    together = play(engine, scripts, seed=seed, check=check)
    for script, collected in zip(scripts, together, strict=True):
        assert (outcome(collected), results(collected)) == alone(script)
    del together, collected
    gc.collect()
    check_empty(engine)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_random_aborts_leave_nothing_held(variant: str) -> None:
    chance = random.Random(variant)
    engine = make_engine(
        **{"num_pages": 512, "max_context": CONTEXT, "hold_compiles": True, **VARIANTS[variant]}
    )
    listeners: list[Collected] = []
    open_programs: list[tuple[str, list[Any], list[Any], int]] = []
    for number in range(90):
        script = Script(number, size=8)
        collected = Collected()
        listeners.append(collected)
        program = engine.open(ProgramOptions(stream=chance.random() < 0.5), collected)
        open_programs.append((program, list(script.operations), list(script.fills), script.branches))
        for program, operations, fills, _ in open_programs:
            count = chance.randint(0, 5)
            engine.send(program, operations[:count])
            del operations[:count]
            if fills and not operations and chance.random() < 0.5:
                engine.send(program, [fills.pop()])
        if chance.random() < 0.3:
            engine.compiler.release()
        for _ in range(chance.randint(0, 2)):
            engine.step()
            check_pages(engine)
        while len(open_programs) > 6 or (open_programs and chance.random() < 0.4):
            program, operations, _, branches = open_programs.pop(chance.randrange(len(open_programs)))
            if chance.random() < 0.4 and not operations:
                engine.send(program, [Cancel(branch=chance.randrange(branches))])
            engine.cancel(program)
    for program, *_ in open_programs:
        engine.cancel(program)
    engine.compiler.release()
    drive(engine, check=lambda: check_pages(engine))
    for collected in listeners:
        outcome(collected)
    gc.collect()
    check_empty(engine)


@pytest.mark.slow
def test_ten_thousand_aborts_at_every_stage() -> None:
    """Queued, compiling, in flight, forked, holding a lease: each is met many times, with little memory."""
    chance = random.Random(1)
    met: collections.Counter[str] = collections.Counter()
    scripts = [Script(number, size=3) for number in range(400)]
    for round_number in range(20):
        engine = make_engine(
            num_pages=120, max_context=400, hold_compiles=True, lagging=round_number % 2 == 0, max_sequences=6
        )
        programs: list[str] = []
        for number in range(500):
            script = chance.choice(scripts)
            program = engine.open(ProgramOptions(stream=number % 2 == 0), Collected())
            engine.send(program, script.operations[: chance.randint(1, len(script.operations))])
            programs.append(program)
            for _ in range(chance.randint(0, 2)):
                engine.step()
            if chance.random() < 0.2:
                engine.compiler.release()
            if len(programs) > chance.randint(0, 12):
                victim = programs.pop(chance.randrange(len(programs)))
                met[_stage(engine, victim)] += 1
                engine.cancel(victim)
        for victim in programs:
            engine.cancel(victim)
            met["last"] += 1
        engine.compiler.release()
        drive(engine)
        check_empty(engine)
    assert sum(met.values()) == 10_000
    stages = ("new", "waiting", "running", "in flight", "compiling", "leased", "forked")
    assert {stage: met[stage] for stage in stages if met[stage] < 20} == {}


def _stage(engine: Engine, name: str) -> str:
    program = engine._programs.get(name)
    if program is None:
        return "new" if any(True for _ in engine._inbox) else "over"
    branches = [branch for branch in program.branches.values() if not branch.settled]
    sequences = [branch.sequence for branch in branches]
    if any(branch.blocked == "compiling" for branch in branches):
        return "compiling"
    if any(sequence.leased for sequence in sequences):
        return "leased"
    if len(branches) > 1:
        return "forked"
    if any(sequence.inflight for sequence in sequences):
        return "in flight"
    return sequences[0].state if sequences else "over"
