"""Weight-only int8 and int4 by torch's packed matrix products.

Only the matrices of the layers are quantised; embedding, head and norms keep their type. int8: one scale
per output row, symmetric. int4: 16 levels between the least and the largest weight of each group of 32
neighbours along the input.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from sgl_lang.errors import UnsupportedFeature
from sgl_runtime.model.decoder import Decoder

__all__ = ["GROUP", "PackedLinear", "Quantization", "quantize"]

Quantization = Literal["int8", "int4"]
GROUP = 32
_ROWS = 16
_NAMES = ("qkv", "output", "gate_up", "down")


class PackedLinear(nn.Module):
    """Takes the place of an `nn.Linear` [N, K]; inputs and outputs keep their type."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, kind: Quantization) -> None:
        super().__init__()
        self.kind = kind
        weight, scales = (_int8 if kind == "int8" else _int4)(linear.weight.data)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "int8":
            result = torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.weight, self.scales)
        else:
            result = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x.contiguous(), self.weight, GROUP, self.scales
            )
        return torch.as_tensor(result if self.bias is None else result + self.bias)


def _int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 [N, K], scales [N])"""
    wide = weight.float()
    scales = (wide.abs().amax(-1) / 127).clamp_min_(1e-12)
    return (wide / scales.unsqueeze(-1)).round_().to(torch.int8), scales.to(weight.dtype)


def _int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(packed levels, [K / GROUP, N, 2] of scale and middle): level q stands for (q - 8) * scale + middle."""
    rows, depth = weight.shape
    groups = weight.float().view(rows, depth // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp_min_(1e-12)
    levels = ((groups - low.unsqueeze(-1)) / scales.unsqueeze(-1)).round_().clamp_(0, 15)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.to(torch.int32).view(rows, depth), 1)
    pairs = torch.stack([scales, low + 8 * scales], dim=-1)
    return packed, pairs.transpose(0, 1).contiguous().to(weight.dtype)


def quantize(decoder: Decoder, kind: Quantization) -> None:
    """Replace the layers' matrices one by one. Raises `UnsupportedFeature` naming a matrix that does not fit, or a
    device other than the CPU."""
    if decoder.rope.device.type != "cpu":
        raise UnsupportedFeature("works on the CPU only", place="quantization")
    for index, layer in enumerate(decoder.layers):
        for name in _NAMES:
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            rows, depth = linear.weight.shape
            if kind == "int4" and (depth % GROUP or rows % _ROWS):
                raise UnsupportedFeature(
                    f"int4 needs rows in multiples of {_ROWS} and inputs in multiples of {GROUP}; "
                    f"layers.{index}.{name} is {rows} x {depth}",
                    place="quantization",
                    hint="use int8",
                )
            setattr(layer, name, PackedLinear(linear, kind))
