"""From logits to tokens, for all rows of a step at once."""

from __future__ import annotations

import numpy as np
import torch

from sgl_kernels import bitmask
from sgl_runtime.core import SampledRows, SamplingRows
from sgl_runtime.sampling.adjust import adjust, needs_adjusting
from sgl_runtime.sampling.filters import draw, draw_filtered, is_filtered
from sgl_runtime.sampling.logprobs import token_logprobs
from sgl_runtime.sampling.randomness import uniforms

__all__ = ["sample"]


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: SamplingRows) -> SampledRows:
    """Draw one token from each row of float32 logits [L, V], which are left as they are.

    Order per row: logit bias, penalties, grammar mask, temperature, top-k, top-p, min-p. Temperature 0
    takes the largest logit, of equal ones the lowest id. Log probabilities are of the model's own
    distribution, before all that. A row with NaN or +inf, or with no token allowed, is marked in `finite`
    and touches no other row.
    """
    adjusted = _adjusted(logits, rows)
    tokens = _first_largest(adjusted)
    largest = adjusted.gather(-1, tokens.unsqueeze(-1))
    finite = largest.isfinite().squeeze(-1)
    if not all(one.temperature == 0.0 for one in rows.params):
        _draw_rows(adjusted, largest, finite, rows, tokens)
    sampled = np.asarray(tokens.cpu().numpy(), dtype=np.int64)
    return SampledRows(sampled, finite.cpu().numpy(), token_logprobs(logits, rows.params, sampled))


def _adjusted(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """The logits with bias, penalties and masks in them; a copy if anything changes."""
    changed = needs_adjusting(rows)
    masked = rows.masks is not None and bool((rows.mask_index >= 0).any())
    if not changed and not masked:
        return logits
    logits = logits.clone()
    for row in changed:
        adjust(logits[row], rows, row)
    if masked and rows.masks is not None:
        bitmask.apply(logits, rows.masks, rows.mask_index)
    return logits


def _first_largest(logits: torch.Tensor) -> torch.Tensor:
    """Index of the first largest logit of each row, or of its first NaN. numpy is 10 times faster at it on
    the CPU."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _draw_rows(
    logits: torch.Tensor,
    largest: torch.Tensor,
    finite: torch.Tensor,
    rows: SamplingRows,
    tokens: torch.Tensor,
) -> None:
    """Put the draws of the rows with a temperature into `tokens`; rows that are not finite keep what they
    have."""
    usable = finite.tolist()
    drawn = [row for row, one in enumerate(rows.params) if one.temperature > 0.0 and usable[row]]
    plain = [row for row in drawn if not is_filtered(rows.params[row])]
    filtered = [row for row in drawn if is_filtered(rows.params[row])]
    for members in (plain, filtered):
        if not members:
            continue
        whole = len(members) == len(logits)
        index = slice(None) if whole else torch.tensor(members, device=logits.device)
        params = [rows.params[row] for row in members]
        heat = torch.tensor([one.temperature for one in params], device=logits.device).unsqueeze(-1)
        # exp((x - max) / temperature): proportional to the probabilities, the largest is 1
        weights = ((logits[index] - largest[index]) / heat).exp_()
        if members is plain and any(one.min_p > 0.0 for one in params):
            least = torch.tensor([one.min_p for one in params], device=logits.device).unsqueeze(-1)
            weights *= weights >= least
        numbers = torch.from_numpy(uniforms([rows.seeds[row] for row in members])).to(logits.device)
        tokens[index] = (
            draw(weights, numbers) if members is plain else draw_filtered(weights, params, numbers)
        )
