"""Running batches on one decoder with torch operations."""

from __future__ import annotations

import numpy as np
import torch

from sgl_runtime.attention.base import Attention
from sgl_runtime.core import Batch, Int64
from sgl_runtime.model.decoder import Decoder
from sgl_runtime.model.info import ModelInfo

__all__ = ["TorchRunner"]


class TorchRunner:
    """A `ModelRunner` over the torch decoder and any attention backend, on any device."""

    def __init__(self, decoder: Decoder, attention: Attention, info: ModelInfo) -> None:
        self.info = info
        self.vocab_size = info.vocab_size
        self.max_context = info.max_context
        self.page_size = attention.shape.page_size
        self.num_pages = attention.shape.pages
        self._decoder = decoder
        self._attention = attention
        self._device = decoder.rope.device
        self.kv_memory: torch.Tensor | None = getattr(attention, "memory", None)
        """KV memory, [layers, 2, pages, ...], for the host tier; None where the backend lays it out otherwise."""

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, float32 [len(batch.logit_rows), vocab_size]; writes KV at `batch.slots`."""
        if len(batch.copies):
            self._attention.copy_pages(batch.copies)
        self._attention.begin(batch)
        tokens, positions, rows = (
            self._move(part) for part in (batch.token_ids, batch.positions, batch.logit_rows)
        )
        logits: torch.Tensor = self._decoder(tokens, positions, rows, self._attention.attend)
        return logits

    def _move(self, numbers: Int64) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.int64)).to(self._device)
