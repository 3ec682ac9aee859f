"""Log probabilities of the model's own distribution: no temperature, no mask, no penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sgl_kernels.sampling import log_sum
from sgl_lang.tree import TokenLogprob
from sgl_runtime.core import Int64, SamplingParams

__all__ = ["logprobs", "token_logprobs"]


@torch.inference_mode()
def logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log_softmax(logits)[i, tokens[i]] of float32 logits [L, V] and int64 tokens [L] (or [L, n]): same
    shape as tokens.

    What `select` adds up along its choices. Only one number per row is kept, not a second array of logits.
    """
    wanted = tokens.unsqueeze(-1) if tokens.dim() == 1 else tokens
    chosen = logits.gather(-1, wanted) - log_sum(logits).unsqueeze(-1)
    return chosen.squeeze(-1) if tokens.dim() == 1 else chosen


def token_logprobs(
    logits: torch.Tensor, params: Sequence[SamplingParams], tokens: Int64
) -> tuple[TokenLogprob | None, ...]:
    """What each row with `SamplingParams.logprobs` set has asked for; () if no row has."""
    asking = [row for row, one in enumerate(params) if one.logprobs is not None]
    if not asking:
        return ()
    found: list[TokenLogprob | None] = [None] * len(params)
    index = torch.tensor(asking, device=logits.device)
    known = logits[index]
    known -= log_sum(known).unsqueeze(-1)
    chosen = known.gather(-1, torch.from_numpy(tokens[asking]).to(known.device).unsqueeze(-1)).squeeze(-1)
    width = min(max(params[row].logprobs or 0 for row in asking), known.shape[-1])
    values, ids = (part.tolist() for part in known.topk(width, dim=-1))
    for place, (row, own) in enumerate(zip(asking, chosen.tolist(), strict=True)):
        count = params[row].logprobs or 0
        top = dict(zip(ids[place][:count], values[place][:count], strict=True))
        found[row] = TokenLogprob(token=int(tokens[row]), logprob=own, top=top)
    return tuple(found)
