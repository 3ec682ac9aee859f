"""Keywords of `gen` and `run` to one `SamplingParams`, SGLang's names included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypedDict

from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import SamplingParams


class SamplingKeywords(TypedDict, total=False):
    """What `gen(...)` and `run(...)` take; see `SamplingParams`. The rest of SGLang's names are aliases."""

    max_tokens: int | None
    max_new_tokens: int | None
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int | None
    logit_bias: Mapping[int, float]
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int]
    stop_regex: str | None
    include_stop: bool
    ignore_eos: bool
    logprobs: int | None
    return_logprob: bool
    top_logprobs_num: int
    skip_special_tokens: bool


NAMES = frozenset(SamplingKeywords.__annotations__)


def normalised(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `SamplingParams`, as given; `None` means not given. Raises `InvalidRequest` for unknown
    names.
    """
    fields: dict[str, Any] = {}
    for name, value in keywords.items():
        if name not in NAMES:
            raise InvalidRequest(
                "not a sampling parameter", place=name, hint=f"known: {', '.join(sorted(NAMES))}"
            )
        if value is not None:
            fields.update(_field(name, value, keywords))
    return fields


def _field(name: str, value: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    if name == "max_new_tokens":
        return {"max_tokens": value}
    if name == "stop":
        return {"stop": (value,) if isinstance(value, str) else tuple(value)}
    if name == "stop_token_ids":
        return {"stop_token_ids": tuple(value)}
    if name == "top_k":
        return {"top_k": 0 if value == -1 else value}
    if name == "return_logprob":
        return {"logprobs": keywords.get("top_logprobs_num") or 0} if value else {}
    if name == "top_logprobs_num":
        return {"logprobs": value} if value else {}
    return {name: value}


def params(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingParams:
    """`fields` over `defaults`."""
    merged = {**defaults, **fields}
    try:
        return _checked(tuple(merged.items()))
    except TypeError:  # not hashable: `logit_bias`
        return SamplingParams(**merged)


@lru_cache(maxsize=1024)
def _checked(fields: tuple[tuple[str, Any], ...]) -> SamplingParams:
    return SamplingParams(**dict(fields))
