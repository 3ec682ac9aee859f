"""Forbid tokens: -inf wherever a grammar's bit mask holds a 0."""

from __future__ import annotations

import importlib.util
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sgl_kernels.bitmask import native, reference

__all__ = ["Backend", "apply"]

Backend = Literal["auto", "torch", "native", "triton"]


def apply(
    logits: torch.Tensor,
    masks: npt.NDArray[np.int32] | torch.Tensor,
    mask_index: npt.NDArray[np.int64] | torch.Tensor,
    *,
    backend: Backend = "auto",
) -> None:
    """Change float32 logits [L, V] in place by masks int32 [M, words], words = ceil(V / 32) or more.

    Row i is held to mask `mask_index[i]`, or to none if that is negative; several rows may share a mask.
    Bit j of word w stands for token 32 w + j, 1 = allowed. Raises `ValueError` for shapes that do not fit
    together.
    """
    mask_rows = torch.as_tensor(masks)
    index = torch.as_tensor(mask_index)
    _check(logits, mask_rows, index)
    chosen = _choose(logits) if backend == "auto" else backend
    if chosen == "native":
        native.apply(logits, mask_rows.cpu(), index.cpu())
        return
    mask_rows, index = mask_rows.to(logits.device), index.to(logits.device)
    if chosen == "triton":
        from sgl_kernels.bitmask import triton

        triton.apply(logits, mask_rows, index)
    else:
        reference.apply(logits, mask_rows, index)


def _choose(logits: torch.Tensor) -> Backend:
    if logits.device.type == "cpu":
        return "native" if native.available() else "torch"
    if logits.device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return "triton"
    return "torch"


def _check(logits: torch.Tensor, masks: torch.Tensor, index: torch.Tensor) -> None:
    if logits.dtype != torch.float32 or logits.stride(-1) != 1:
        raise ValueError("bitmask.apply takes float32 logits with their rows in one piece")
    if logits.dim() != 2 or masks.dim() != 2 or index.shape != logits.shape[:1]:
        raise ValueError("bitmask.apply takes logits [L, V], masks [M, words] and an index [L]")
    if masks.shape[1] * 32 < logits.shape[1]:
        raise ValueError(f"masks of {masks.shape[1]} words do not cover {logits.shape[1]} tokens")
    if len(index) and int(index.max()) >= len(masks):
        raise ValueError(f"mask {int(index.max())} of {len(masks)}")
