"""Attention over paged KV memory: the interface that every backend implements.

A backend sees a step as a whole (`begin`), then one call per layer (`attend`). It owns the memory layout
that it reads fastest; nobody else indexes into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from sgl_runtime.core import Batch, Int32

__all__ = ["Attention", "KVShape"]


@dataclass(frozen=True)
class KVShape:
    """Sizes of a paged KV memory. Page `p` holds `page_size` tokens, in all layers."""

    layers: int
    pages: int
    page_size: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class Attention(Protocol):
    """Causal attention of runs over the pages of their sequences. Not thread-safe; one step at a time."""

    shape: KVShape

    def copy_pages(self, copies: Int32) -> None:
        """Copy the first `tokens` tokens of `source` to `target` in all layers, for [C, 3] such rows."""
        ...

    def begin(self, batch: Batch) -> None:
        """Take over the step's tables; `attend` then speaks of this batch."""
        ...

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Write `key`, `value` [T, kv_heads, head_dim] at the batch's slots, then attend with `query`
        [T, heads, head_dim]: position p of a run sees positions 0 .. p of its sequence. Returns [T, heads,
        head_dim]."""
        ...
