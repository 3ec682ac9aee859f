"""The Triton op: one program per row and block of tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["apply"]

_BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _mask_rows(
    logits: tl.tensor,
    stride: int,
    masks: tl.tensor,
    words: int,
    index: tl.tensor,
    width: int,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    mask = tl.load(index + row)
    if mask >= 0:
        word = tl.program_id(1) * (block // 32) + tl.arange(0, block // 32)
        bits = tl.load(masks + mask * words + word, mask=word < words, other=0)
        token = tl.program_id(1) * block + tl.arange(0, block)
        # [block / 32, 32] bits in token order
        allowed = ((bits[:, None] >> tl.arange(0, 32)[None, :]) & 1).reshape(block)
        forbidden = tl.full((block,), float("-inf"), tl.float32)
        tl.store(logits + row * stride + token, forbidden, mask=(token < width) & (allowed == 0))


def apply(logits: torch.Tensor, masks: torch.Tensor, index: torch.Tensor) -> None:
    """See `sgl_kernels.bitmask.apply`; all three on one device (on the CPU under ``TRITON_INTERPRET=1``)."""
    grid = (len(logits), triton.cdiv(logits.shape[1], _BLOCK))
    _mask_rows[grid](logits, logits.stride(0), masks, masks.shape[1], index, logits.shape[1], block=_BLOCK)
