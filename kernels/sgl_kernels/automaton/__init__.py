"""Constrained steps on the device: mask, temperature, top-k, top-p, min-p, draw and advance, for a batch of rows.

Each row follows its own token-class automaton (or none) from its own state. Everything a step needs is in tensors, so
a step has no host in it. `step` picks the backend: Triton (one launch) on CUDA, torch elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sgl_kernels.automaton import reference

__all__ = ["FREE", "Automata", "Backend", "Rows", "Table", "pack", "step"]

Backend = Literal["auto", "torch", "triton"]

FREE = -1
"""The automaton of a row that is held to nothing."""


@dataclass(frozen=True)
class Table:
    """One automaton: ``next[state, class_of[token]]`` is the state after the token, 0 if it is not allowed.

    `class_of`: integers ``[V]``; `next`: integers ``[states, classes]``; `accepting`: bool ``[states]``. Class 0 and
    state 0 are dead.
    """

    class_of: npt.NDArray[np.signedinteger]
    next: npt.NDArray[np.signedinteger]
    accepting: npt.NDArray[np.bool_]
    start: int


@dataclass(frozen=True)
class Automata:
    """Several tables in one, on one device.

    `class_of`: int32 ``[A, V]``; `next`: int32, the ``[states, classes]`` tables one after the other; automaton a
    begins at ``offset[a]`` (int64) and has ``classes[a]`` (int32) columns. `start`: int32 ``[A]``. End tokens are in
    the tables: they have a class of their own, which leads from accepting states to a last state, and there to itself.
    """

    class_of: torch.Tensor
    next: torch.Tensor
    offset: torch.Tensor
    classes: torch.Tensor
    start: torch.Tensor

    @property
    def nbytes(self) -> int:
        parts = (self.class_of, self.next, self.offset, self.classes, self.start)
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True)
class Rows:
    """What a step knows of its L rows; all tensors are contiguous and on the logits' device.

    `automaton`: int32, an index into `Automata` or `FREE`. `state`: int32, moved on by each step. `temperature`
    (float32) 0 takes the largest logit, of equal ones the lowest id; `top_k` (int32) 0, `top_p` (float32) 1 and `min_p`
    (float32) 0 are off. Tokens as likely as the last one that is kept are kept, too. `seed` and `counter`: int64; a
    row's draw depends on these two alone (SplitMix64), and each step moves the counter on by one.
    """

    automaton: torch.Tensor
    state: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    seed: torch.Tensor
    counter: torch.Tensor


def pack(
    tables: Sequence[Table], eos_token_ids: Sequence[int], *, device: str | torch.device = "cpu"
) -> Automata:
    """Put `tables`, which share a vocabulary, and the end tokens into one set of tensors."""
    if not tables:
        raise ValueError("there must be at least one automaton")
    class_of, bodies, offsets, widths = [], [], [], []
    total = 0
    for table in tables:
        states, classes = table.next.shape
        own = table.class_of.astype(np.int32)
        own[list(eos_token_ids)] = classes
        body = np.zeros((states + 1, classes + 1), dtype=np.int32)
        body[:states, :classes] = table.next
        body[:states, classes] = np.where(table.accepting, states, 0)
        body[states, classes] = states
        class_of.append(own)
        bodies.append(body.reshape(-1))
        offsets.append(total)
        widths.append(classes + 1)
        total += body.size

    def tensor(values: npt.ArrayLike, dtype: type[np.signedinteger]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=dtype)).to(device)

    return Automata(
        tensor(np.stack(class_of), np.int32),
        tensor(np.concatenate(bodies), np.int32),
        tensor(offsets, np.int64),
        tensor(widths, np.int32),
        tensor([table.start for table in tables], np.int32),
    )


def step(
    logits: torch.Tensor, automata: Automata, rows: Rows, *, backend: Backend = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token from each row of float32 logits [L, V] under its automaton, and move `rows` on by it.

    Returns (tokens int64 [L], good bool [L]). A row with NaN, +inf or no allowed token is not good: its token is 0 and
    its state stays. `rows.state` and `rows.counter` change in place; the logits do not. No row sees another's data.
    """
    _check(logits, automata, rows)
    if backend == "auto":
        backend = "triton" if logits.is_cuda else "torch"
    if backend == "torch":
        return reference.step(logits, automata, rows)
    from sgl_kernels.automaton import triton_step  # Triton is not everywhere

    return triton_step.step(logits, automata, rows)


def _check(logits: torch.Tensor, automata: Automata, rows: Rows) -> None:
    if logits.dtype != torch.float32 or logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError("logits must be float32 [rows, vocabulary] with contiguous rows")
    if automata.class_of.shape[1] != logits.shape[1]:
        raise ValueError(
            f"the automata are over {automata.class_of.shape[1]} tokens, the logits over {logits.shape[1]}"
        )
    for name, part in vars(rows).items():
        if part.shape != logits.shape[:1] or part.device != logits.device or not part.is_contiguous():
            raise ValueError(f"rows.{name} must be contiguous, one number per row, on the logits' device")
