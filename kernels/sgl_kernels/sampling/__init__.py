"""Drawing tokens: mask, temperature, top-k, top-p and min-p for all rows of a step; and log-sum-exp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from sgl_kernels.sampling import native, reference

__all__ = ["Backend", "Draws", "draw", "log_sum"]

Backend = Literal["auto", "torch", "native"]


@dataclass(frozen=True)
class Draws:
    """How to draw from each of L rows. `temperature` 0: the largest logit, of equal ones the lowest id.

    `top_k` 0, `top_p` 1 and `min_p` 0 are off. `mask_index[i]` is the row of `masks` (int32 bits, see
    `sgl_kernels.bitmask`) that holds for row i, none if negative. `uniforms` are numbers in [0, 1).
    """

    temperature: npt.NDArray[np.float32]
    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float64]
    min_p: npt.NDArray[np.float32]
    uniforms: npt.NDArray[np.float64]
    masks: npt.NDArray[np.int32] | None
    mask_index: npt.NDArray[np.int64]

    @staticmethod
    def greedy(rows: int, masks: npt.NDArray[np.int32] | None, mask_index: npt.NDArray[np.int64]) -> Draws:
        zeros: dict[str, Any] = {
            "temperature": np.zeros(rows, dtype=np.float32),
            "top_k": np.zeros(rows, dtype=np.int64),
            "top_p": np.ones(rows),
            "min_p": np.zeros(rows, dtype=np.float32),
            "uniforms": np.zeros(rows),
        }
        return Draws(**zeros, masks=masks, mask_index=mask_index)


def draw(
    logits: torch.Tensor, draws: Draws, *, backend: Backend = "auto"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(tokens [L], finite [L]) of float32 logits [L, V], which are left as they are.

    `finite` is False, and the token means nothing, where an allowed logit is NaN or +inf or no token is
    allowed. A row's token depends on nothing but that row. Raises `ValueError` for shapes that do not fit together.
    """
    _check(logits, draws)
    if backend == "native" or (backend == "auto" and native.fits(logits)):
        return native.draw(logits, draws)
    return reference.draw(logits, draws)


def log_sum(logits: torch.Tensor, *, backend: Backend = "auto") -> torch.Tensor:
    """log(sum(exp(row))) of float32 logits [L, V]: [L]."""
    if backend == "native" or (backend == "auto" and native.fits(logits)):
        return native.log_sum(logits)
    return logits.logsumexp(-1)


def _check(logits: torch.Tensor, draws: Draws) -> None:
    if logits.dim() != 2 or logits.dtype != torch.float32:
        raise ValueError("draw takes float32 logits [L, V]")
    rows, width = logits.shape
    for name in ("temperature", "top_k", "top_p", "min_p", "uniforms", "mask_index"):
        if getattr(draws, name).shape != (rows,):
            raise ValueError(f"{name} must be [{rows}]")
    if draws.masks is None:
        if (draws.mask_index >= 0).any():
            raise ValueError("rows want masks, but there are none")
        return
    if draws.masks.ndim != 2 or draws.masks.shape[1] * 32 < width:
        raise ValueError(f"masks of {draws.masks.shape[-1]} words do not cover {width} tokens")
    if rows and int(draws.mask_index.max()) >= len(draws.masks):
        raise ValueError(f"mask {int(draws.mask_index.max())} of {len(draws.masks)}")
