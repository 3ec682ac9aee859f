"""The training form of `sgl-tiny`: a Llama over packed documents, and its export to the Hugging Face layout."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

_HAS_WINDOW = "window_size" in inspect.signature(varlen_attn).parameters
"""Newer releases of torch say `causal` by a window."""


@dataclass(frozen=True, slots=True)
class Config:
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 640
    context: int = 4096
    theta: float = 10_000.0
    eps: float = 1e-5


Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(q [T, H, D], k [T, H, D], v [T, H, D], document bounds [n + 1], longest document) -> [T, H, D], causal per document."""


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    if _HAS_WINDOW:
        return varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0))  # type: ignore[return-value]
    return varlen_attn(q, k, v, bounds, bounds, longest, longest, is_causal=True)  # type: ignore[call-arg, return-value]


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """The same with a dense mask, for the CPU."""
    at = torch.arange(q.shape[0], device=q.device)
    owner = torch.bucketize(at, bounds[1:].to(at.dtype), right=True)
    mask = (owner[:, None] == owner[None, :]) & (at[:, None] >= at[None, :])
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask
    )
    return out.transpose(0, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


class Layer(nn.Module):
    """Attention and SwiGLU, each behind an RMS norm."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c

        def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * scale / math.sqrt(columns))

        out_scale = 1 / math.sqrt(2 * c.layers)
        self.q, self.k, self.v = (
            matrix(c.heads * c.head_dim, c.hidden),
            matrix(c.kv_heads * c.head_dim, c.hidden),
            matrix(c.kv_heads * c.head_dim, c.hidden),
        )
        self.o = matrix(c.hidden, c.heads * c.head_dim, out_scale)
        self.gate, self.up = matrix(c.intermediate, c.hidden), matrix(c.intermediate, c.hidden)
        self.down = matrix(c.hidden, c.intermediate, out_scale)
        self.norm_a, self.norm_m = nn.Parameter(torch.ones(c.hidden)), nn.Parameter(torch.ones(c.hidden))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor, longest: int, attend: Attend
    ) -> Tensor:
        c, t = self.c, x.shape[0]
        h = F.rms_norm(x, (c.hidden,), self.norm_a, c.eps)
        qkv = F.linear(h, torch.cat((self.q, self.k, self.v)))
        q, k, v = qkv.split((c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim), dim=-1)
        q = _rotate(q.view(t, c.heads, c.head_dim), cos, sin).to(v.dtype)
        k = _rotate(k.view(t, c.kv_heads, c.head_dim), cos, sin).to(v.dtype)
        group = c.heads // c.kv_heads
        k = k.repeat_interleave(group, dim=1)
        v = v.view(t, c.kv_heads, c.head_dim).repeat_interleave(group, dim=1)
        x = x + F.linear(attend(q, k, v, bounds, longest).reshape(t, -1), self.o)
        h = F.rms_norm(x, (c.hidden,), self.norm_m, c.eps)
        gate, up = F.linear(h, torch.cat((self.gate, self.up))).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """Tokens to the weighted mean of the next-token losses."""

    def __init__(self, c: Config, device: str) -> None:
        super().__init__()
        self.c = c
        self.embedding = nn.Parameter(torch.randn(c.vocabulary, c.hidden) * 0.02)
        self.blocks = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.Parameter(torch.ones(c.hidden))
        inverse = c.theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
        angles = (
            torch.arange(c.context, dtype=torch.float64)[:, None] * torch.cat((inverse, inverse))[None, :]
        )
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        self.attend: Attend = _attend_varlen if device == "cuda" else _attend_masked

    def forward(
        self, ids: Tensor, positions: Tensor, targets: Tensor, weights: Tensor, bounds: Tensor, longest: int
    ) -> Tensor:
        """ids, positions, targets, weights: [T]; bounds: [n + 1] int32. The loss is a scalar in nats."""
        x = F.embedding(ids, self.embedding)
        cos, sin = self.cos[positions][:, None, :], self.sin[positions][:, None, :]
        for block in self.blocks:
            x = block(x, cos, sin, bounds, longest, self.attend)
        logits = F.linear(F.rms_norm(x, (self.c.hidden,), self.norm, self.c.eps), self.embedding)
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        return (losses * weights).sum() / weights.sum()


_NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "norm_a": "input_layernorm", "norm_m": "post_attention_layernorm",
}  # fmt: skip


def hf_names(c: Config) -> dict[str, str]:
    """Our parameter names to those of LlamaForCausalLM (tied embeddings: no `lm_head`)."""
    names = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    for i in range(c.layers):
        names.update(
            {f"blocks.{i}.{ours}": f"model.layers.{i}.{theirs}.weight" for ours, theirs in _NAMES.items()}
        )
    return names


def hf_config(c: Config) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocabulary, "hidden_size": c.hidden,
        "intermediate_size": c.intermediate, "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim, "hidden_act": "silu", "max_position_embeddings": c.context, "rms_norm_eps": c.eps, "rope_theta": c.theta,
        "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "tie_word_embeddings": True, "use_cache": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [3, 2], "torch_dtype": "bfloat16",
    }  # fmt: skip


def export(model: Llama, folder: Path) -> None:
    """Write config, generation config and bfloat16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(model.named_parameters())
    tensors = {
        theirs: state[ours].detach().to("cpu", torch.bfloat16).contiguous()
        for ours, theirs in hf_names(model.c).items()
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model.c), indent=2) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": [3, 2], "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def load(model: Llama, folder: Path) -> None:
    """Start from exported weights."""
    tensors = load_file(str(folder / "model.safetensors"))
    with torch.no_grad():
        for ours, theirs in hf_names(model.c).items():
            model.get_parameter(ours).copy_(tensors[theirs].float())
