"""What a decoder is made of, read from a Hugging Face ``config.json``.

`FAMILIES` maps an architecture's name to the traits in which it differs from the plain Llama decoder;
everything else comes from the numbers in the file. Whatever this package does not compute is refused here,
by name, before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sgl_lang.errors import InvalidRequest, UnsupportedFeature
from sgl_runtime.model.rope import RopeParameters

__all__ = ["FAMILIES", "DecoderConfig", "Family"]


@dataclass(frozen=True)
class Family:
    """Traits of an architecture: biases and norms that its ``config.json`` does not spell out.

    `qkv_bias` None: as ``attention_bias`` says (which then also holds for the output projection).
    """

    qkv_bias: bool | None = None
    qk_norm: bool = False


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(qkv_bias=False),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_norm=True),
}

_BY_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True)
class DecoderConfig:
    """A dense decoder: RMSNorm, rotary attention with grouped KV heads, SwiGLU. Sizes count elements.

    `dtype` is what the file declares for its weights ("" if nothing).
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeParameters
    max_context: int
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys (or values) in one layer."""
        return self.num_kv_heads * self.head_dim

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> DecoderConfig:
        """Read the content of a ``config.json``; raises `InvalidRequest` for a missing or impossible number
        and `UnsupportedFeature` for an architecture or a feature that is not supported."""
        architecture = _architecture(data)
        family = FAMILIES[architecture]
        _refuse_unsupported(data)
        hidden, heads = _positive(data, "hidden_size"), _positive(data, "num_attention_heads")
        kv_heads = _positive(data, "num_key_value_heads", heads)
        head_dim = _positive(data, "head_dim", max(1, hidden // heads))
        if heads % kv_heads or head_dim % 2:
            raise InvalidRequest(
                f"{heads} heads over {kv_heads} KV heads of {head_dim}: heads must be a multiple of KV heads "
                "and head_dim even",
                place="config.json",
            )
        max_context = _positive(data, "max_position_embeddings")
        attention_bias = bool(data.get("attention_bias", False))
        return DecoderConfig(
            architecture=architecture,
            vocab_size=_positive(data, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(data, "intermediate_size"),
            num_layers=_positive(data, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            rope=RopeParameters.from_dict(data, head_dim, max_context),
            max_context=max_context,
            tie_embeddings=bool(data.get("tie_word_embeddings", False)),
            qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
            output_bias=attention_bias and family.qkv_bias is None,
            mlp_bias=bool(data.get("mlp_bias", False)),
            qk_norm=family.qk_norm,
            dtype=str(data.get("dtype") or data.get("torch_dtype") or ""),
        )


def _architecture(data: Mapping[str, Any]) -> str:
    named = [str(name) for name in data.get("architectures") or ()]
    if not named:
        named = [_BY_MODEL_TYPE.get(str(data.get("model_type")), str(data.get("model_type")))]
    for name in named:
        if name in FAMILIES:
            return name
    raise UnsupportedFeature(
        f"the architecture {named[0]} is not supported",
        place="config.json: architectures",
        hint="supported: " + ", ".join(sorted(FAMILIES)),
    )


def _refuse_unsupported(data: Mapping[str, Any]) -> None:
    """Refuse what would silently change the output if it were ignored."""
    activation = data.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedFeature(
            f"the activation {activation!r} is not supported", place="config.json: hidden_act"
        )
    if data.get("quantization_config"):
        raise UnsupportedFeature(
            "checkpoints that are already quantised are not supported",
            place="config.json: quantization_config",
            hint="load the original weights with quantization='int8' or 'int4'",
        )
    sliding = data.get("sliding_window") if data.get("use_sliding_window", True) else None
    kinds = {str(kind) for kind in data.get("layer_types") or ()} - {"full_attention"}
    context = int(data.get("max_position_embeddings") or 0)
    if kinds or (sliding is not None and int(sliding) < context):
        raise UnsupportedFeature(
            f"sliding window attention ({sliding or ', '.join(sorted(kinds))}) is not supported",
            place="config.json: sliding_window",
        )
    if float(data.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedFeature("partial rotary embeddings are not supported", place="config.json")


def _positive(data: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = data.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or value < 1:
        raise InvalidRequest(f"must be a positive integer, got {value!r}", place=f"config.json: {name}")
    return value
