"""The C++ draw against the torch definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgl_kernels.native import library
from sgl_kernels.sampling import Draws, draw, log_sum

native = pytest.mark.skipif(library() is None, reason="no C++ compiler")


def random_draws(rng, rows, width, **fixed):
    choices = {
        "temperature": rng.choice([0.0, 0.2, 1.0, 3.0], rows).astype(np.float32),
        "top_k": rng.choice([0, 0, 1, 3, 70, width], rows),
        "top_p": rng.choice([1.0, 1.0, 0.3, 0.99], rows),
        "min_p": rng.choice([0.0, 0.0, 0.2], rows).astype(np.float32),
        "uniforms": rng.random(rows),
        "masks": rng.integers(-(2**31), 2**31, (4, -(-width // 32))).astype(np.int32),
        "mask_index": rng.integers(-1, 4, rows),
    }
    return Draws(**{**choices, **fixed})


@native
@pytest.mark.parametrize("width", [1, 31, 127, 128, 500, 4099])
@pytest.mark.parametrize("flat", [0.3, 5.0])
def test_native_equals_torch(width, flat):
    rng = np.random.default_rng(width)
    rows = 400
    logits = torch.from_numpy(rng.standard_normal((rows, width), dtype=np.float32)) * flat
    draws = random_draws(rng, rows, width)
    ours, good = draw(logits, draws, backend="native")
    theirs, fine = draw(logits, draws, backend="torch")
    assert good.tolist() == fine.tolist()
    # sums in another order may move a boundary between two tokens across the uniform number, very rarely
    assert (ours != theirs)[good].sum() <= 1
    greedy = good & (draws.temperature == 0)
    assert (ours == theirs)[greedy].all()


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
def test_ends_of_the_uniform_numbers_draw_allowed_tokens(backend):
    width = 300
    logits = torch.zeros(4, width)
    mask = np.zeros((1, 10), dtype=np.int32)
    mask[0, 4] = 0b1010
    rng = np.random.default_rng(0)
    for number, wanted in ((0.0, 129), (1.0 - 2.0**-53, 131)):
        draws = random_draws(
            rng,
            4,
            width,
            temperature=np.ones(4, dtype=np.float32),
            top_k=np.array([0, 5, 0, 0]),
            top_p=np.array([1.0, 1.0, 0.999, 1.0]),
            min_p=np.zeros(4, dtype=np.float32),
            uniforms=np.full(4, number),
            masks=mask,
            mask_index=np.zeros(4, dtype=np.int64),
        )
        tokens, finite = draw(logits, draws, backend=backend)
        assert finite.all()
        assert tokens[[0, 3]].tolist() == [wanted] * 2
        assert set(tokens.tolist()) <= {129, 131}  # ranked rows: torch orders equal weights as it likes


@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=native)])
def test_rows_without_a_sound_token(backend):
    logits = torch.randn(5, 70, generator=torch.Generator().manual_seed(1))
    logits[0, 69] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    logits[3, 5] = torch.nan  # forbidden by its mask, so it does not count
    masks = np.full((2, 3), -1, dtype=np.int32)
    masks[0, 0] = ~(1 << 5)
    masks[1] = 0
    for heat in (0.0, 1.0):
        draws = random_draws(
            np.random.default_rng(2),
            5,
            70,
            temperature=np.full(5, heat, dtype=np.float32),
            masks=masks,
            mask_index=np.array([-1, -1, -1, 0, 1]),
        )
        _, finite = draw(logits, draws, backend=backend)
        assert finite.tolist() == [False, False, False, True, False]


@native
def test_log_sum():
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(1)) * 20
    logits[1, 7] = torch.nan
    logits[2] = -torch.inf
    torch.testing.assert_close(
        log_sum(logits, backend="native"), log_sum(logits, backend="torch"), equal_nan=True
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": np.zeros(3, dtype=np.int64)}, "top_k"),
        ({"masks": None}, "there are none"),
        ({"masks": np.zeros((4, 1), dtype=np.int32)}, "cover"),
        ({"mask_index": np.array([9, 0])}, "mask 9 of 4"),
    ],
)
def test_shapes_are_checked(changes, message):
    draws = random_draws(np.random.default_rng(1), 2, 64, **{"mask_index": np.array([0, 1]), **changes})
    with pytest.raises(ValueError, match=message):
        draw(torch.zeros(2, 64), draws)
