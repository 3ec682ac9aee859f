"""Sampling parameters of a request body."""

from __future__ import annotations

from typing import Any

from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import ProgramOptions, SamplingParams
from sgl_runtime.model.info import GenerationDefaults
from sgl_runtime.server.openai.fields import CommonBody
from sgl_runtime.server.options import ServerOptions

__all__ = ["choices_of", "program_options", "sampling_of", "seeded"]

_PLAIN = (
    "min_tokens", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "temperature", "seed", "stop_regex", "ignore_eos", "skip_special_tokens",
)  # fmt: skip
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_of(
    body: CommonBody, defaults: GenerationDefaults, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """What the body says, then the model folder's generation_config.json, then `SamplingParams`' own
    defaults.

    Raises `InvalidRequest` naming the parameter.
    """
    values: dict[str, Any] = {name: getattr(body, name) for name in _PLAIN}
    for name in _DEFAULTS:
        if values[name] is None:
            values[name] = getattr(defaults, name)
    if values["top_k"] == -1:  # vLLM's and SGLang's way to say "off"
        values["top_k"] = 0
    values |= {
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "stop": _stop(body.stop),
        "stop_token_ids": None if body.stop_token_ids is None else tuple(body.stop_token_ids),
        "logit_bias": _logit_bias(body.logit_bias),
        "include_stop": body.include_stop_str_in_output or body.no_stop_trim,
    }
    return SamplingParams(**{name: value for name, value in values.items() if value is not None})


def seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """The parameters of choice `index`: with a seed, each choice draws its own but repeatable tokens."""
    if sampling.seed is None or index == 0:
        return sampling
    values = {name: getattr(sampling, name) for name in sampling.__struct_fields__}
    seed = (sampling.seed + index + 2**63) % 2**64 - 2**63
    return SamplingParams(**{**values, "seed": seed})


def choices_of(body: CommonBody, options: ServerOptions) -> int:
    """The body's n, checked."""
    n = 1 if body.n is None else body.n
    if not 1 <= n <= options.max_choices:
        raise InvalidRequest(f"must be between 1 and {options.max_choices}, got {n}", place="n")
    return n


def program_options(body: CommonBody, namespace: str) -> ProgramOptions:
    if body.deadline_s is not None and not body.deadline_s > 0:
        raise InvalidRequest("must be above 0", place="deadline_s")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("is only for streams", place="stream_options", hint="set stream to true")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        raise InvalidRequest("is not supported", place="stream_options.include_obfuscation")
    return ProgramOptions(
        priority=body.priority or 0,
        namespace=namespace,
        deadline_s=body.deadline_s,
        stream=bool(body.stream),
    )


def _stop(value: str | list[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def _logit_bias(value: dict[str, float] | None) -> dict[int, float] | None:
    if value is None:
        return None
    bias: dict[int, float] = {}
    for token, number in value.items():
        if not token.isdecimal():
            raise InvalidRequest(f"{token!r} is no token id", place="logit_bias")
        if not -100 <= number <= 100:
            raise InvalidRequest(f"must be between -100 and 100, got {number:g}", place=f"logit_bias.{token}")
        bias[int(token)] = number
    return bias
