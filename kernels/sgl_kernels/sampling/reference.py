"""The reference: drawing by inverse distribution function in torch, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from sgl_kernels import bitmask

if TYPE_CHECKING:
    from sgl_kernels.sampling import Draws

__all__ = ["draw"]

_BLOCK = 128
_BELOW_ONE = 1.0 - 2.0**-53
_CANDIDATES = 1024
"""How many of the likeliest tokens are sorted for top-p before all of them are."""


@torch.inference_mode()
def draw(logits: torch.Tensor, draws: Draws) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """See `sgl_kernels.sampling.draw`."""
    if draws.masks is not None and bool((draws.mask_index >= 0).any()):
        logits = logits.clone()
        bitmask.apply(logits, draws.masks, draws.mask_index)
    tokens = logits.argmax(-1)
    largest = logits.gather(-1, tokens.unsqueeze(-1))
    finite = largest.isfinite().squeeze(-1).cpu().numpy()
    warm = (draws.temperature > 0) & finite
    ranked = (draws.top_k > 0) | (draws.top_p < 1.0)
    for members, filtered in ((warm & ~ranked, False), (warm & ranked, True)):
        rows = members.nonzero()[0]
        if not len(rows):
            continue
        index = torch.from_numpy(rows).to(logits.device)
        heat, least = (_column(part[rows], logits) for part in (draws.temperature, draws.min_p))
        # exp((x - max) / temperature): proportional to the probabilities, the largest is 1
        weights = ((logits[index] - largest[index]) / heat).exp_()
        if filtered:
            tokens[index] = _draw_ranked(weights, draws, rows)
        else:
            numbers = torch.from_numpy(draws.uniforms[rows]).to(logits.device)
            tokens[index] = _draw_from(weights * (weights >= least), numbers)
    return np.asarray(tokens.cpu().numpy(), dtype=np.int64), np.asarray(finite, dtype=np.bool_)


def _column(numbers: npt.NDArray[np.generic], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(numbers).to(like.device).unsqueeze(-1)


def _draw_from(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
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


def _draw_ranked(weights: torch.Tensor, draws: Draws, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    """Each of `weights`' rows cut by its own `top_k`, then `top_p` of what is left, then `min_p` of the likeliest.

    Rows are grouped by how many candidates they need, never by what else is in the batch, so a row's result does not
    depend on the others.
    """
    size = weights.shape[-1]
    tokens = torch.empty(len(rows), dtype=torch.int64, device=weights.device)
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(_candidates(int(draws.top_k[row]), size), []).append(place)
    while groups:
        width, members = groups.popitem()
        index = torch.tensor(members, device=weights.device)
        drawn, enough = _draw_among(weights[index], draws, rows[members], width)
        tokens[index] = drawn
        short = [place for place, good in zip(members, enough.tolist(), strict=True) if not good]
        if short:
            groups.setdefault(size, []).extend(short)
    return tokens


def _candidates(top_k: int, size: int) -> int:
    """How many of the likeliest tokens to look at: a power of two that covers `top_k`."""
    return min(size, max(64, 1 << (top_k - 1).bit_length()) if top_k > 0 else _CANDIDATES)


def _draw_among(
    weights: torch.Tensor, draws: Draws, rows: npt.NDArray[np.int64], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, whether the `width` likeliest were enough to decide), each [n]."""
    best, ids = weights.topk(width, dim=-1)
    size = weights.shape[-1]
    top_k, top_p, min_p = (_column(part[rows], best) for part in (draws.top_k, draws.top_p, draws.min_p))
    top_k = torch.where(top_k > 0, top_k, size)
    left = best * (torch.arange(width, device=best.device) < top_k)
    cumulated = left.cumsum(-1, dtype=torch.float64)
    # What top-p is a share of: all the mass, unless top-k has cut it.
    all_mass = weights.sum(-1, keepdim=True, dtype=torch.float64)
    whole = torch.where(top_k < size, cumulated[:, -1:], all_mass)
    before = cumulated - left  # mass of the likelier tokens
    kept = ((before < top_p * whole) | (top_p >= 1.0)) & (best >= min_p)
    kept[:, 0] = True
    # If the last candidate is kept, unlikelier tokens might be too.
    decided = ~kept[:, -1] | (top_k.squeeze(-1) <= width) | (width == size)
    numbers = torch.from_numpy(draws.uniforms[rows]).to(best.device)
    columns, _ = _invert(left * kept, numbers)
    return ids.gather(-1, columns.unsqueeze(-1)).squeeze(-1), decided
