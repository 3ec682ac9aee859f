"""The bit mask: every backend equals the plain definition, token by token."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sgl_kernels import bitmask
from sgl_kernels.native import library

BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(library() is None, reason="no C++ compiler")),
]


def plain(logits, masks, index):
    out = logits.clone()
    for row, mask in enumerate(index):
        for token in range(logits.shape[1]):
            if mask >= 0 and not (int(masks[mask, token // 32]) >> (token % 32)) & 1:
                out[row, token] = -torch.inf
    return out


def case(width, seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(-(2**31), 2**31, (3, -(-width // 32)), dtype=np.int64).astype(np.int32)
    masks[1] = -1
    masks[2] = 0
    masks[2, 0] = 1
    logits = torch.from_numpy(rng.standard_normal((5, width), dtype=np.float32))
    logits[0, 0] = torch.nan
    return logits, masks, np.array([0, -1, 2, 1, 0], dtype=np.int64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 250, 4096, 5001])
def test_equals_the_definition(backend, width):
    logits, masks, index = case(width, width)
    wanted = plain(logits, masks, index)
    bitmask.apply(logits, masks, index, backend=backend)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=0, equal_nan=True)


def test_wider_masks_and_views():
    logits, masks, index = case(64, 1)
    wanted = plain(logits[:, :50], masks, index)
    view = logits[:, :50]
    bitmask.apply(view, masks, torch.from_numpy(index))
    torch.testing.assert_close(view, wanted, rtol=0, atol=0, equal_nan=True)
    assert logits[:, 50:].isfinite().all()


@pytest.mark.parametrize(
    ("width", "rows", "mask_words", "index", "message"),
    [
        (65, 1, 2, [0], "cover"),
        (64, 1, 2, [3], "mask 3 of 2"),
        (64, 2, 2, [0], r"\[L"),
    ],
)
def test_wrong_shapes_are_refused(width, rows, mask_words, index, message):
    with pytest.raises(ValueError, match=message):
        bitmask.apply(torch.zeros(rows, width), np.zeros((2, mask_words), dtype=np.int32), np.array(index))


_TRITON = """
import numpy as np, torch
from sgl_kernels import bitmask
from test_kernels_bitmask import case, plain
for width in (31, 64, 5001):
    logits, masks, index = case(width, width)
    wanted = plain(logits, masks, index)
    bitmask.apply(logits, masks, index, backend="triton")
    torch.testing.assert_close(logits, wanted, rtol=0, atol=0, equal_nan=True)
print("equal")
"""


def test_triton_under_its_interpreter():
    """In a process of its own: the interpreter must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run(
        [sys.executable, "-c", _TRITON],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr
