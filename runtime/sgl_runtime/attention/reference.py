"""The torch reference: gathers each sequence's pages and calls scaled-dot-product attention, one run at a
time."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from sgl_runtime.attention.base import KVShape
from sgl_runtime.core import Batch, Int32

__all__ = ["ReferenceAttention"]


class ReferenceAttention:
    """Exact, on any device; memory is [layers, 2, pages, page_size, kv_heads, head_dim].

    Runs are handled one by one, so a row never reads what belongs to another one, not even in padding: a
    NaN stays where it arose.
    """

    def __init__(self, shape: KVShape, device: torch.device | str = "cpu") -> None:
        self.shape = shape
        size = (shape.layers, 2, shape.pages, shape.page_size, shape.kv_heads, shape.head_dim)
        self.memory = torch.empty(size, dtype=shape.dtype, device=device)
        self._slots = torch.empty(0, dtype=torch.int64)
        self._runs: list[tuple[int, int, torch.Tensor, int]] = []

    def copy_pages(self, copies: Int32) -> None:
        for source, target, tokens in copies.tolist():
            self.memory[:, :, target, :tokens] = self.memory[:, :, source, :tokens]

    def begin(self, batch: Batch) -> None:
        device, page_size = self.memory.device, self.shape.page_size
        self._slots = torch.from_numpy(np.asarray(batch.slots, dtype=np.int64)).to(device)
        starts, contexts = batch.query_starts.tolist(), batch.context_lens.tolist()
        self._runs = []
        for run, context in enumerate(contexts):
            pages = batch.page_table[run, : -(-context // page_size)]
            table = torch.from_numpy(np.asarray(pages, dtype=np.int64)).to(device)
            self._runs.append((starts[run], starts[run + 1], table, context))

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        keys, values = (self.memory[layer, side].flatten(0, 1) for side in (0, 1))
        keys[self._slots], values[self._slots] = key.to(keys.dtype), value.to(values.dtype)
        output = torch.empty_like(query)
        for start, end, table, context in self._runs:
            seen_keys, seen_values = (self._gather(layer, side, table, context) for side in (0, 1))
            output[start:end] = _attend_run(query[start:end], seen_keys, seen_values)
        return output

    def _gather(self, layer: int, side: int, table: torch.Tensor, context: int) -> torch.Tensor:
        return self.memory[layer, side][table].flatten(0, 1)[:context]


def _attend_run(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """query [n, heads, d] at the last n positions of keys, values [context, kv_heads, d] -> [n, heads, d]."""
    count, context = len(query), len(keys)
    mask = None
    if count > 1:
        # row i of the run stands at position context - count + i
        mask = torch.ones(count, context, dtype=torch.bool, device=query.device).tril(context - count)
    q, k, v = (part.to(query.dtype).transpose(0, 1).unsqueeze(0) for part in (query, keys, values))
    grouped = query.shape[1] != keys.shape[1]
    result = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return result.squeeze(0).transpose(0, 1)
