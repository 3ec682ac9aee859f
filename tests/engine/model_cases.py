"""Small random models written by transformers, and a driver that feeds a runner in awkward ways."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgl_kernels.native import library
from sgl_runtime.core import Batch, ModelRunner

needs_native = pytest.mark.skipif(library() is None, reason="the C++ ops cannot be built here")

SMALL: dict[str, Any] = {
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # larger weights than usual: logits far apart, so that rounding does not decide an argmax
    "initializer_range": 0.2,
}


def rope(**numbers: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **numbers}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-mha-tied": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "llama-bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("Llama", rope(rope_type="linear", factor=4.0)),
    "llama-llama3": (
        "Llama",
        rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"head_dim": 8}),
    "qwen2-yarn": (
        "Qwen2",
        {"head_dim": 8, **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=128)},
    ),
    "qwen3": ("Qwen3", {}),
    "qwen3-tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 24}),
}


def make_reference(name: str, folder: Path, shards: bool = False) -> Any:
    """A random transformers model of case `name`, saved into `folder`; returned in float32."""
    import transformers

    family, changes = CASES[name]
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
        elif "norm" in key:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    return model


def reference_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@dataclass
class Row:
    """A sequence of tokens with its pages; `done` tokens have KV."""

    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    done: int = 0


class Driver:
    """A page pool that hands out scattered pages, and steps over rows with chosen run lengths."""

    def __init__(self, runner: ModelRunner, seed: int = 0) -> None:
        self.runner = runner
        order = np.random.default_rng(seed).permutation(runner.num_pages)
        self.free = [int(page) for page in order]

    def page(self) -> int:
        return self.free.pop()

    def step(
        self, runs: list[tuple[Row, int]], copies: list[tuple[int, int, int]] | None = None
    ) -> torch.Tensor:
        """Bring `count` further tokens of each row; logits of the last position of each run."""
        size = self.runner.page_size
        tokens, positions, slots, contexts = [], [], [], []
        for row, count in runs:
            end = row.done + count
            while len(row.pages) * size < end:
                row.pages.append(self.page())
            span = range(row.done, end)
            tokens += row.tokens[row.done : end]
            positions += span
            slots += [row.pages[at // size] * size + at % size for at in span]
            contexts.append(end)
            row.done = end
        width = max(len(row.pages) for row, _ in runs)
        starts = [0, *itertools.accumulate(count for _, count in runs)]
        return self.runner.forward(
            Batch(
                token_ids=np.array(tokens, dtype=np.int64),
                positions=np.array(positions, dtype=np.int64),
                slots=np.array(slots, dtype=np.int64),
                query_starts=np.array(starts, dtype=np.int32),
                context_lens=np.array(contexts, dtype=np.int32),
                page_table=np.array(
                    [row.pages + [0] * (width - len(row.pages)) for row, _ in runs], dtype=np.int32
                ),
                logit_rows=np.array(starts[1:], dtype=np.int64) - 1,
                copies=np.array(copies or [], dtype=np.int32).reshape(-1, 3),
            )
        )

    def fork(self, row: Row) -> tuple[Row, list[tuple[int, int, int]]]:
        """A child that shares the full pages and copies the partial one."""
        size = self.runner.page_size
        full, rest = divmod(row.done, size)
        child = Row(row.tokens[: row.done], row.pages[:full], row.done)
        if not rest:
            return child, []
        child.pages.append(self.page())
        return child, [(row.pages[full], child.pages[full], rest)]

    def greedy(self, prompts: list[list[int]], count: int, chunks: list[int]) -> list[list[int]]:
        """Decode all prompts together; row i's prompt comes in runs of `chunks[i]`, so kinds of runs mix."""
        rows = [Row(list(prompt)) for prompt in prompts]
        goals = [len(prompt) + count for prompt in prompts]
        while any(len(row.tokens) < goal for row, goal in zip(rows, goals, strict=True)):
            active = [
                (row, min(chunk, len(row.tokens) - row.done), goal)
                for row, chunk, goal in zip(rows, chunks, goals, strict=True)
                if len(row.tokens) < goal
            ]
            logits = self.step([(row, run) for row, run, _ in active])
            for (row, _, _), line in zip(active, logits, strict=True):
                if row.done == len(row.tokens):
                    row.tokens.append(int(line.argmax()))
        return [row.tokens[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
