"""Drawing from probabilities: by inverse distribution function, whole or cut by top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from sgl_runtime.core import SamplingParams

__all__ = ["draw", "draw_filtered", "is_filtered"]

_BLOCK = 128
_BELOW_ONE = 1.0 - 2.0**-53
_CANDIDATES = 1024
"""How many of the likeliest tokens are sorted for top-p before all of them are."""


def is_filtered(params: SamplingParams) -> bool:
    """Whether tokens must be ranked; min-p alone is a threshold."""
    return params.top_k > 0 or params.top_p < 1.0


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Column drawn in proportion to weights [n, V] >= 0 by uniforms [n] in [0, 1): int64 [n].

    Two levels: first a block of columns by the blocks' sums, then a column inside it by what is left of the
    uniform number. A column of weight 0 is never drawn, for the cumulated weights are flat there.
    """
    count, size = weights.shape
    blocks = F.pad(weights, (0, -size % _BLOCK)).view(count, -1, _BLOCK)
    block, share = _invert(blocks.sum(-1), uniforms)
    inside = blocks[torch.arange(count, device=weights.device), block]
    column, _ = _invert(inside, share)
    return block * _BLOCK + column


def _invert(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(column [n] where the cumulated weights pass the uniform number, how far into that column it lies, in
    [0, 1))."""
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    targets = uniforms.unsqueeze(-1) * cumulated[:, -1:]
    columns = torch.searchsorted(cumulated, targets, right=True).clamp_(max=weights.shape[-1] - 1)
    width = weights.gather(-1, columns).double()
    start = cumulated.gather(-1, columns) - width
    share = ((targets - start) / width).clamp_(0.0, _BELOW_ONE)
    return columns.squeeze(-1), share.squeeze(-1)


def draw_filtered(
    probabilities: torch.Tensor, params: Sequence[SamplingParams], uniforms: torch.Tensor
) -> torch.Tensor:
    """As `draw`, each row cut by its own `top_k`, then `top_p` of what is left, then `min_p` of the
    likeliest.

    Rows are grouped by how many candidates they need, never by what else is in the batch, so a row's result
    does not depend on the others.
    """
    tokens = torch.empty(len(params), dtype=torch.int64, device=probabilities.device)
    groups: dict[int, list[int]] = {}
    for row, one in enumerate(params):
        groups.setdefault(_candidates(one, probabilities.shape[-1]), []).append(row)
    while groups:
        width, members = groups.popitem()
        index = torch.tensor(members, device=probabilities.device)
        chosen = [params[row] for row in members]
        drawn, enough = _draw_among(probabilities[index], chosen, uniforms[index], width)
        tokens[index] = drawn
        if not enough.all():
            short = [row for row, good in zip(members, enough.tolist(), strict=True) if not good]
            groups.setdefault(probabilities.shape[-1], []).extend(short)
    return tokens


def _candidates(params: SamplingParams, size: int) -> int:
    """How many of the likeliest tokens to look at: a power of two that covers `top_k`."""
    if params.top_k > 0:
        return min(size, max(64, 1 << (params.top_k - 1).bit_length()))
    return min(size, _CANDIDATES)


def _draw_among(
    probabilities: torch.Tensor, params: Sequence[SamplingParams], uniforms: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, whether the `width` likeliest were enough to decide), each [n]."""
    best, ids = probabilities.topk(width, dim=-1)
    device = best.device
    size = probabilities.shape[-1]
    top_k = torch.tensor([one.top_k or size for one in params], device=device).unsqueeze(-1)
    top_p = torch.tensor([one.top_p for one in params], dtype=torch.float64, device=device).unsqueeze(-1)
    min_p = torch.tensor([one.min_p for one in params], dtype=best.dtype, device=device).unsqueeze(-1)
    weights = best * (torch.arange(width, device=device) < top_k)
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    # What top-p is a share of: all the mass, unless top-k has cut it.
    all_mass = probabilities.sum(-1, keepdim=True, dtype=torch.float64)
    whole = torch.where(top_k < size, cumulated[:, -1:], all_mass)
    before = cumulated - weights  # mass of the likelier tokens
    kept = ((before < top_p * whole) | (top_p >= 1.0)) & (best >= min_p * best[:, :1])
    kept[:, 0] = True
    # If the last candidate is kept, unlikelier tokens might be too.
    decided = ~kept[:, -1] | (top_k.squeeze(-1) <= width) | (width == size)
    columns = draw(weights * kept, uniforms).unsqueeze(-1)
    return ids.gather(-1, columns).squeeze(-1), decided
