"""Weight-only int8 and int4: close to the full model, and refused where they do not fit."""

from __future__ import annotations

import pytest
import torch
from model_cases import SMALL, Driver, Row

from sgl_lang.errors import UnsupportedFeature
from sgl_runtime.model import load_runner

CONFIG = {
    **SMALL,
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
}
PROMPT = list(range(5, 40))


def logits_of(**options):
    runner = load_runner(CONFIG, load_format="dummy", num_pages=8, **options)
    return Driver(runner).step([(Row(PROMPT), len(PROMPT)), (Row([8, 9]), 2)]), runner.info


@pytest.mark.parametrize(("kind", "error", "share"), [("int8", 0.02, 0.45), ("int4", 0.2, 0.4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_close(kind, error, share, dtype):
    exact, full = logits_of(dtype="float32")
    ours, info = logits_of(dtype=dtype, quantization=kind)
    assert float((ours - exact).norm() / exact.norm()) < error
    assert not torch.equal(ours, exact)
    assert info.quantization == kind
    embeddings = 2 * 301 * 64 * (4 if dtype == "float32" else 2)
    assert info.weight_bytes - embeddings < share * (full.weight_bytes - 2 * 301 * 64 * 4)


def test_int4_names_the_matrix_that_does_not_fit():
    with pytest.raises(UnsupportedFeature, match=r"layers.0.gate_up is 160 x 48|layers.0.qkv is \d+ x 48"):
        load_runner({**CONFIG, "hidden_size": 48}, load_format="dummy", quantization="int4")
