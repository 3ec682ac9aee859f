"""The C++ op for the CPU: skips words of ones, writes -inf under an AVX512 mask elsewhere."""

from __future__ import annotations

import torch

from sgl_kernels.native import library

__all__ = ["apply", "available"]


def available() -> bool:
    return library() is not None


def apply(logits: torch.Tensor, masks: torch.Tensor, index: torch.Tensor) -> None:
    """See `sgl_kernels.bitmask.apply`; all three on the CPU."""
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ ops are not available here")
    masks, index = masks.to(torch.int32).contiguous(), index.to(torch.int64).contiguous()
    loaded.sgl_bitmask(
        logits.data_ptr(),
        len(logits),
        logits.shape[1],
        logits.stride(0),
        masks.data_ptr(),
        masks.shape[1],
        index.data_ptr(),
    )
