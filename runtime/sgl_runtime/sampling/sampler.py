"""From logits to tokens, for all rows of a step at once."""

from __future__ import annotations

import numpy as np
import torch

from sgl_kernels.sampling import Draws, draw
from sgl_runtime.core import SampledRows, SamplingRows
from sgl_runtime.sampling.adjust import adjust, needs_adjusting
from sgl_runtime.sampling.logprobs import token_logprobs
from sgl_runtime.sampling.randomness import uniforms

__all__ = ["sample"]


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: SamplingRows) -> SampledRows:
    """Draw one token from each row of float32 logits [L, V], which are left as they are.

    Order per row: logit bias, penalties, grammar mask, temperature, top-k, top-p, min-p. Temperature 0 takes the
    largest logit, of equal ones the lowest id. Log probabilities are of the model's own distribution, before all that.
    A row with NaN or +inf, or with no token allowed, is marked in `finite` and touches no other row.
    """
    adjusted = logits
    changed = needs_adjusting(rows)
    if changed:
        adjusted = logits.clone()
        for row in changed:
            adjust(adjusted[row], rows, row)
    tokens, finite = draw(adjusted, _draws(rows))
    return SampledRows(tokens, finite, token_logprobs(logits, rows.params, tokens))


def _draws(rows: SamplingRows) -> Draws:
    """The parameters as arrays; uniform numbers are only made where a row draws."""
    params, index = rows.params, np.asarray(rows.mask_index, dtype=np.int64)
    if all(one.temperature == 0.0 for one in params):
        return Draws.greedy(len(params), rows.masks, index)
    return Draws(
        temperature=np.array([one.temperature for one in params], dtype=np.float32),
        top_k=np.array([one.top_k for one in params], dtype=np.int64),
        top_p=np.array([one.top_p for one in params], dtype=np.float64),
        min_p=np.array([one.min_p for one in params], dtype=np.float32),
        uniforms=uniforms(rows.seeds),
        masks=rows.masks,
        mask_index=index,
    )
