"""Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) and the ways checkpoints stretch them.

Supported scalings: none, ``linear``, ``llama3`` (frequency bands, Llama 3.1) and ``yarn`` (Peng et al.
2023, arXiv 2309.00071).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from sgl_lang.errors import InvalidRequest, UnsupportedFeature

__all__ = ["RopeParameters", "rope_table"]

_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeParameters:
    """Base `theta`, the `kind` of scaling and its numbers as the checkpoint gives them."""

    theta: float
    head_dim: int
    kind: str = "default"
    numbers: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def from_dict(data: Mapping[str, Any], head_dim: int, max_context: int) -> RopeParameters:
        """Read both spellings: ``rope_parameters`` (with the base inside) and ``rope_theta`` +
        ``rope_scaling``."""
        given = dict(data.get("rope_parameters") or data.get("rope_scaling") or {})
        theta = float(given.pop("rope_theta", None) or data.get("rope_theta") or 10000.0)
        kind = str(given.pop("rope_type", None) or given.pop("type", None) or "default")
        given.pop("type", None)
        if kind not in _KINDS:
            raise UnsupportedFeature(
                f"the rope scaling {kind!r} is not supported",
                place="config.json: rope_scaling",
                hint="supported: " + ", ".join(_KINDS),
            )
        if float(given.pop("partial_rotary_factor", None) or 1.0) != 1.0:
            raise UnsupportedFeature("partial rotary embeddings are not supported", place="config.json")
        if kind in ("llama3", "yarn"):
            given.setdefault("original_max_position_embeddings", max_context)
        numbers = {str(key): float(value) for key, value in given.items() if isinstance(value, (int, float))}
        _require(kind, numbers)
        return RopeParameters(theta, head_dim, kind, numbers)

    def frequencies(self) -> torch.Tensor:
        """Angle per position of each pair, float32 [head_dim / 2]."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / (self.theta**exponents)
        if self.kind == "linear":
            return plain / self.numbers["factor"]
        if self.kind == "llama3":
            return _llama3(plain, self.numbers)
        if self.kind == "yarn":
            return _yarn(plain, self)
        return plain

    @property
    def magnitude(self) -> float:
        """Factor on cosine and sine (yarn's attention temperature; 1 elsewhere)."""
        if self.kind != "yarn":
            return 1.0
        numbers, factor = self.numbers, self.numbers["factor"]
        if "attention_factor" in numbers:
            return numbers["attention_factor"]
        if numbers.get("mscale") and numbers.get("mscale_all_dim"):
            return _yarn_scale(factor, numbers["mscale"]) / _yarn_scale(factor, numbers["mscale_all_dim"])
        return _yarn_scale(factor, 1.0)


def rope_table(rope: RopeParameters, positions: int) -> torch.Tensor:
    """Cosines, then sines: float32 [positions, head_dim], the halves [.., : head_dim / 2] and [.., head_dim
    / 2 :]."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), rope.frequencies())
    return torch.cat([angles.cos(), angles.sin()], dim=-1) * rope.magnitude


def _require(kind: str, numbers: Mapping[str, float]) -> None:
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
        "yarn": ("factor",),
    }[kind]
    missing = [name for name in needed if name not in numbers]
    if missing:
        raise InvalidRequest(f"{kind} rope needs {', '.join(missing)}", place="config.json: rope_scaling")


def _llama3(plain: torch.Tensor, numbers: Mapping[str, float]) -> torch.Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between are blended."""
    original = numbers["original_max_position_embeddings"]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    waves = 2 * math.pi / plain
    blend = ((original / waves - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * plain / numbers["factor"] + blend * plain


def _yarn(plain: torch.Tensor, rope: RopeParameters) -> torch.Tensor:
    numbers, dim = rope.numbers, rope.head_dim
    original = numbers["original_max_position_embeddings"]

    def pair_of(rotations: float) -> float:
        """Index of the pair that turns `rotations` times over the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_of(numbers.get("beta_fast") or 32.0), pair_of(numbers.get("beta_slow") or 1.0)
    if numbers.get("truncate", 1.0):
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, dim - 1.0)
    span = high - low if high != low else 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / span).clamp(0.0, 1.0)
    return plain / numbers["factor"] * ramp + plain * (1 - ramp)


def _yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
