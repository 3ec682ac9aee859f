"""Sampling: pure functions from logits and parameters to tokens."""

from sgl_runtime.sampling.adjust import check_params
from sgl_runtime.sampling.logprobs import logprobs
from sgl_runtime.sampling.randomness import uniforms
from sgl_runtime.sampling.sampler import sample

__all__ = ["check_params", "logprobs", "sample", "uniforms"]
