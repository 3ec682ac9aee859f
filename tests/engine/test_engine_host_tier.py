"""KV that was evicted to host memory and comes back gives the same tokens as KV that was never evicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_cases import check_empty, make_engine

from sgl_lang.errors import InvalidRequest, UnsupportedFeature
from sgl_lang.tree import End, Extend, Gen, ProgramOptions, Ready, SamplingParams, Text
from sgl_runtime.config import EngineConfig
from sgl_runtime.engine.engine import make_host_tier
from sgl_runtime.engine.testing import Collected, FakeRunner, drive

PAGE_BYTES = 4 * 8


class Showing(FakeRunner):
    """A fake runner whose KV memory can be moved: token ids as a tensor [1, 1, pages, page_size]."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kv_memory = torch.from_numpy(self.kv).view(1, 1, self.num_pages, self.page_size)


def run(engine: Any, text: str) -> tuple[int, ...]:
    collected = Collected()
    program = engine.open(ProgramOptions(), collected)
    gen = Gen(id=1, sampling=SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True))
    engine.send(program, [Extend(branch=0, nodes=(Text(id=0, text=text), gen)), End()])
    drive(engine)
    return next(event.tokens for event in collected.events if isinstance(event, Ready))


@pytest.mark.parametrize("host_pages", [0, 8, 64])
def test_what_comes_back_is_what_went(host_pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine_cases.FakeRunner", Showing)
    engine = make_engine(num_pages=24, page_size=4, host_kv_bytes=host_pages * PAGE_BYTES)
    texts = [f"{number} is its own text. " * 3 for number in range(4)]
    first = [run(engine, text) for text in texts]
    computed = engine.runner.computed_tokens
    assert [run(engine, text) for text in texts] == first
    again = engine.runner.computed_tokens - computed
    assert again < 100 if host_pages == 64 else again > 150
    assert (engine.tree.stats().host_restored_pages > 0) == (host_pages == 64)
    check_empty(engine)


def test_a_runner_that_hides_its_memory_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match="host_kv_bytes"):
        make_host_tier(FakeRunner(), EngineConfig(host_kv_bytes=1 << 20))


def test_less_than_a_page_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="host_kv_bytes"):
        make_host_tier(Showing(), EngineConfig(host_kv_bytes=1))
