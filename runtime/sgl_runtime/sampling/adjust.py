"""What is done to the logits of single rows before the mask: bias, penalties, suppressed ends."""

from __future__ import annotations

import numpy as np
import torch

from sgl_lang.errors import InvalidRequest
from sgl_runtime.core import Int64, SamplingParams, SamplingRows

__all__ = ["adjust", "check_params", "needs_adjusting"]


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidRequest` for token ids that the model does not have; `sample` relies on this check."""
    for place, ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
        beyond = [token for token in ids if not 0 <= token < vocab_size]
        if beyond:
            raise InvalidRequest(f"token {beyond[0]} is not one of the model's {vocab_size}", place=place)


def _penalised(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1.0 or params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
    )


def needs_adjusting(rows: SamplingRows) -> list[int]:
    """Indices of the rows whose logits `adjust` would change."""
    suppressed = rows.eos_suppressed
    return [
        row
        for row, params in enumerate(rows.params)
        if params.logit_bias or _penalised(params) or (suppressed and suppressed[row])
    ]


def adjust(logits: torch.Tensor, rows: SamplingRows, row: int) -> None:
    """Change one row [V] in place: bias; then repetition, frequency and presence penalties; then suppressed
    ids.

    Repetition (Keskar et al. 2019) divides positive and multiplies negative logits of every token seen,
    prompt included; frequency and presence count the generated tokens only, as OpenAI's interface defines
    them.
    """
    params = rows.params[row]
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(
            list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device
        )
    if params.repetition_penalty != 1.0:
        seen = _tokens(rows.history, row, logits)
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if params.frequency_penalty or params.presence_penalty:
        ids, counts = torch.unique(_tokens(rows.generated, row, logits), return_counts=True)
        logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
    if rows.eos_suppressed and rows.eos_suppressed[row]:
        logits[list(rows.eos_suppressed[row])] = -torch.inf


def _tokens(lists: tuple[Int64 | None, ...], row: int, logits: torch.Tensor) -> torch.Tensor:
    """The row's tokens as an index; a row that has a penalty must bring them."""
    tokens = lists[row] if lists else None
    if tokens is None:
        raise ValueError(f"row {row} has penalties but brings no tokens to count")
    return torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(logits.device)
