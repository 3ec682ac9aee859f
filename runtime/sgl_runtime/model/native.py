"""Running batches through the C++ decoder step."""

from __future__ import annotations

import torch
from torch import nn

from sgl_kernels.decoder import DecoderSizes, LayerWeights, NativeDecoder, Packed, available, pack
from sgl_kernels.decoder.native import LANES, interleave, padded_bias
from sgl_runtime.attention.base import KVShape
from sgl_runtime.core import Batch, Int64
from sgl_runtime.model.config import DecoderConfig
from sgl_runtime.model.decoder import Decoder, Layer, RMSNorm
from sgl_runtime.model.info import ModelInfo

__all__ = ["NativeRunner", "can_run_natively", "make_native_runner"]


class NativeRunner:
    """A `ModelRunner` on the CPU: one library call per step."""

    def __init__(self, decoder: NativeDecoder, shape: KVShape, info: ModelInfo, kv: torch.Tensor) -> None:
        self.info = info
        self.vocab_size = info.vocab_size
        self.max_context = info.max_context
        self.page_size = shape.page_size
        self.num_pages = shape.pages
        self.kv_memory = kv
        """KV memory: [layers, 2, pages, ...], for the host tier."""
        self._decoder = decoder

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, float32 [len(batch.logit_rows), vocab_size]; writes KV at `batch.slots`."""
        return self._decoder.step(
            batch.token_ids,
            batch.positions,
            batch.slots,
            batch.query_starts,
            batch.context_lens,
            batch.page_table,
            batch.logit_rows,
            batch.copies,
        )


def _sizes(config: DecoderConfig, shape: KVShape, max_context: int, threads: int) -> DecoderSizes:
    return DecoderSizes(
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_context=max_context,
        pages=shape.pages,
        page_size=shape.page_size,
        norm_eps=config.norm_eps,
        threads=threads,
    )


def can_run_natively(config: DecoderConfig, shape: KVShape) -> bool:
    """Whether there is a compiler, and the model's sizes suit the C++ step."""
    return available(_sizes(config, shape, 1, 1), shape.dtype)


def make_native_runner(decoder: Decoder, shape: KVShape, info: ModelInfo, threads: int) -> NativeRunner:
    """Pack a decoder's weights, letting go of each as soon as it is packed: `decoder` is empty afterwards."""
    config = decoder.config
    layers = []
    for layer in decoder.layers:
        assert isinstance(layer, Layer)
        layers.append(_pack_layer(layer, config))
    head = pack(decoder.embedding.weight if decoder.head is None else decoder.head.weight)
    embedding = None if decoder.head is None else decoder.embedding.weight.data.contiguous()
    norm = decoder.norm.weight.float().contiguous()
    rope = decoder.rope.contiguous()
    decoder.to("meta")
    size = (shape.layers, 2, shape.pages, shape.kv_heads, shape.page_size, shape.head_dim)
    kv = torch.empty(size, dtype=shape.dtype)
    native = NativeDecoder(
        _sizes(config, shape, info.max_context, threads),
        layers,
        rope=rope,
        embedding=embedding,
        head=head,
        norm=norm,
        kv=kv,
    )
    return NativeRunner(native, shape, info, kv)


def _pack_layer(layer: Layer, config: DecoderConfig) -> LayerWeights:
    order = interleave(config.intermediate_size)
    depth = -(-config.intermediate_size // LANES) * LANES
    return LayerWeights(
        input_norm=_norm(layer.input_norm),
        mlp_norm=_norm(layer.mlp_norm),
        query_norm=None if layer.query_norm is None else _norm(layer.query_norm),
        key_norm=None if layer.key_norm is None else _norm(layer.key_norm),
        qkv_bias=padded_bias(layer.qkv.bias),
        output_bias=padded_bias(layer.output.bias),
        gate_up_bias=padded_bias(layer.gate_up.bias, order),
        down_bias=padded_bias(layer.down.bias),
        qkv=_take(layer.qkv),
        output=_take(layer.output),
        gate_up=_take(layer.gate_up, order=order),
        down=_take(layer.down, depth=depth),
    )


def _norm(norm: RMSNorm) -> torch.Tensor:
    return norm.weight.data.float().contiguous()


def _take(linear: nn.Linear, order: Int64 | None = None, depth: int | None = None) -> Packed:
    packed = pack(linear.weight.data, order=order, depth=depth)
    linear.weight = nn.Parameter(torch.empty(0, device="meta"), requires_grad=False)
    return packed
