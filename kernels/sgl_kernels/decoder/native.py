"""The C++ decoder step: weights packed for the processor's multiply instruction, one call per step.

The structs mirror those of ``native/src/decoder.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sgl_kernels.native import library

__all__ = ["DecoderSizes", "LayerWeights", "NativeDecoder", "Packed", "available", "pack"]

LANES = 16
"""Gate and up rows alternate in blocks of so many, so that one tile holds both."""

_I64, _I32, _F32, _PTR = ctypes.c_int64, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p
_BYTES = {torch.float32: 4, torch.bfloat16: 2}


class _Config(ctypes.Structure):
    _fields_ = [
        *(
            (name, _I64)
            for name in (
                "vocab hidden inner layers heads kv_heads head_dim max_context pages page_size".split()
            )
        ),
        ("norm_eps", _F32),
        ("threads", _I32),
        *((name, _PTR) for name in ("rope", "embedding", "head", "norm", "kv")),
    ]


_LAYER_FIELDS = (
    "input_norm mlp_norm query_norm key_norm qkv output gate_up down qkv_bias output_bias gate_up_bias down_bias"
).split()


class _Layer(ctypes.Structure):
    _fields_ = [(name, _PTR) for name in _LAYER_FIELDS]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, _I64) for name in ("tokens", "runs", "rows", "table_width", "copies")),
        *((name, _PTR) for name in ("token_ids", "positions", "slots", "logit_rows")),
        *((name, _PTR) for name in ("query_starts", "context_lens", "page_table", "copy_rows")),
    ]


@dataclass(frozen=True)
class DecoderSizes:
    """What the step must know about the model and its KV memory. All counts are of elements."""

    vocab: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_context: int
    pages: int
    page_size: int
    norm_eps: float
    threads: int


@dataclass(frozen=True)
class Packed:
    """A weight in the step's layout: `data` holds panels of 32 rows (see ``matmul.h``)."""

    data: torch.Tensor


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Norms and biases are float32; `gate_up` and its bias are in alternating blocks of `LANES` rows."""

    input_norm: torch.Tensor
    mlp_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    qkv: Packed
    output: Packed
    gate_up: Packed
    down: Packed
    qkv_bias: torch.Tensor | None = None
    output_bias: torch.Tensor | None = None
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


def available(sizes: DecoderSizes, dtype: torch.dtype) -> bool:
    """Whether the C++ step can run such a model here."""
    even = sizes.hidden % 2 == 0 and sizes.head_dim % 2 == 0
    return dtype in _BYTES and even and sizes.head_dim <= 512 and library() is not None


def _library() -> Any:
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ ops are not available here")
    return loaded


def pack(
    weight: torch.Tensor, *, order: npt.NDArray[np.int64] | None = None, depth: int | None = None
) -> Packed:
    """Pack a weight [N, K]. Row r of it becomes row `order[r]`; K is padded with zeros to `depth`."""
    weight = weight.contiguous()
    rows, width = weight.shape
    depth = width if depth is None else depth
    order = np.arange(rows, dtype=np.int64) if order is None else np.ascontiguousarray(order, dtype=np.int64)
    total = int(order.max()) + 1
    loaded = _library()
    size = loaded.sgl_packed_size(total, depth)
    data = torch.empty(size, dtype=weight.dtype)
    loaded.sgl_advise(data.data_ptr(), data.nbytes)
    data.zero_()
    loaded.sgl_pack(
        weight.data_ptr(), rows, width, order.ctypes.data, data.data_ptr(), depth, _BYTES[weight.dtype]
    )
    return Packed(data)


def interleave(inner: int) -> npt.NDArray[np.int64]:
    """New row of each row of [gate; up]: 16 of gate, 16 of up, and so on."""
    row = np.arange(inner, dtype=np.int64)
    gate = row // LANES * 2 * LANES + row % LANES
    return np.concatenate([gate, gate + LANES])


def padded_bias(bias: torch.Tensor | None, order: npt.NDArray[np.int64] | None = None) -> torch.Tensor | None:
    """A bias in packed order, float32, its length a multiple of the panel's."""
    if bias is None:
        return None
    order = np.arange(len(bias), dtype=np.int64) if order is None else order
    out = torch.zeros(-(-(int(order.max()) + 1) // 32) * 32)
    out[torch.from_numpy(order)] = bias.float()
    return out


class NativeDecoder:
    """Holds packed weights and the KV memory; `step` runs one batch.

    KV memory is [layers, 2, pages, kv_heads, page_size, head_dim] in the weights' dtype.
    """

    def __init__(
        self,
        sizes: DecoderSizes,
        layers: Sequence[LayerWeights],
        *,
        rope: torch.Tensor,
        embedding: torch.Tensor | None,
        head: Packed,
        norm: torch.Tensor,
        kv: torch.Tensor,
    ) -> None:
        """`rope` float32 [max_context, head_dim] (cosines, then sines); `embedding` None: rows of the packed head."""
        self._sizes = sizes
        self._kept = (
            tuple(layers),
            rope,
            embedding,
            head,
            norm,
            kv,
        )  # the library holds bare pointers to them
        loaded = _library()
        loaded.sgl_advise(kv.data_ptr(), kv.nbytes)
        structs = (_Layer * len(layers))(*(_layer_struct(layer) for layer in layers))
        config = _Config(
            **{name: getattr(sizes, name) for name in DecoderSizes.__dataclass_fields__},
            rope=rope.data_ptr(),
            embedding=0 if embedding is None else embedding.data_ptr(),
            head=head.data.data_ptr(),
            norm=norm.data_ptr(),
            kv=kv.data_ptr(),
        )
        self._free = loaded.sgl_decoder_free
        self._run = loaded.sgl_decoder_step
        self._handle = loaded.sgl_decoder_new(ctypes.byref(config), structs, _BYTES[kv.dtype])

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._free(self._handle)

    def step(
        self,
        token_ids: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        query_starts: npt.NDArray[np.int32],
        context_lens: npt.NDArray[np.int32],
        page_table: npt.NDArray[np.int32],
        logit_rows: npt.NDArray[np.int64],
        copies: npt.NDArray[np.int32],
    ) -> torch.Tensor:
        """Logits, float32 [len(logit_rows), vocab]. Raises `ValueError` if the batch points outside the tables."""
        long = [
            np.ascontiguousarray(part, dtype=np.int64) for part in (token_ids, positions, slots, logit_rows)
        ]
        short = [
            np.ascontiguousarray(part, dtype=np.int32)
            for part in (query_starts, context_lens, page_table, copies)
        ]
        logits = torch.empty(len(logit_rows), self._sizes.vocab)
        step = _Step(
            len(token_ids),
            len(context_lens),
            len(logit_rows),
            page_table.shape[1],
            len(copies),
            *(part.ctypes.data for part in long),
            *(part.ctypes.data for part in short),
        )
        if self._run(self._handle, ctypes.byref(step), logits.data_ptr()):
            raise ValueError("the batch names a token, position, slot, page or row that does not exist")
        return logits


def _layer_struct(layer: LayerWeights) -> _Layer:
    def address(part: torch.Tensor | Packed | None) -> int:
        if part is None:
            return 0
        return (part.data if isinstance(part, Packed) else part).data_ptr()

    return _Layer(**{name: address(getattr(layer, name)) for name in _LAYER_FIELDS})
