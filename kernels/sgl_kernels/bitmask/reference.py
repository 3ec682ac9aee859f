"""The reference: bits unpacked by shifts, on any device."""

from __future__ import annotations

import torch

__all__ = ["apply"]


def apply(logits: torch.Tensor, masks: torch.Tensor, index: torch.Tensor) -> None:
    """See `sgl_kernels.bitmask.apply`; all three on one device."""
    rows = (index >= 0).nonzero().squeeze(-1)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    bits = (masks[index[rows]].unsqueeze(-1) >> shifts) & 1
    allowed = bits.flatten(1)[:, : logits.shape[-1]].bool()
    logits[rows] = logits[rows].masked_fill(~allowed, -torch.inf)
