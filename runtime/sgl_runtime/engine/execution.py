"""Where steps are computed: at once, when they are asked for, or on a thread of their own.

A step goes through three calls. `launch` gives the forward pass everything it needs, `provide` tells how its
rows are sampled (which for constrained rows is only known once the step before has been collected), `result`
waits for the outcome. Tokens drawn by one step and read by the next stay in a *token pool*: the input id ``-1
- slot`` stands for the token in that slot, and is put in just before the forward pass.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from sgl_runtime.core import Batch, Int64, ModelRunner, SampledRows, SamplingRows
from sgl_runtime.sampling import sample

__all__ = ["Executor", "InlineExecutor", "Outcome", "RowRequest", "ThreadExecutor", "Ticket"]


@dataclass(frozen=True)
class RowRequest:
    """What is wanted of the logit rows of a step.

    `drawn`: rows to sample, described by `sampling`; the token of row i goes to pool slot `slots[i]` (-1:
    nowhere). `scored`: (row, token ids) whose log probabilities are wanted.
    """

    drawn: Int64
    sampling: SamplingRows | None
    slots: Int64
    scored: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Outcome:
    sampled: SampledRows | None
    scores: tuple[tuple[float, ...], ...] = ()


class Ticket:
    """One step on its way."""

    __slots__ = ("batch", "request")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.request: RowRequest | None = None


class _ThreadTicket(Ticket):
    """A step on its way to another thread and back."""

    __slots__ = ("asked", "outcome")

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.asked: queue.SimpleQueue[RowRequest] = queue.SimpleQueue()
        self.outcome: Future[Outcome] = Future()


class Executor(Protocol):
    def launch(self, batch: Batch) -> Ticket: ...
    def provide(self, ticket: Ticket, request: RowRequest) -> None: ...
    def result(self, ticket: Ticket) -> Outcome: ...
    def close(self) -> None: ...


_CLOSE_S = 10.0


class _Computer:
    """Runs one step on the model; the same for every executor."""

    def __init__(self, runner: ModelRunner, slots: int) -> None:
        self._runner = runner
        self._pool: Int64 = np.zeros(slots, dtype=np.int64)

    def forward(self, batch: Batch) -> torch.Tensor:
        ids = batch.token_ids
        unknown = ids < 0
        if unknown.any():
            ids = ids.copy()
            ids[unknown] = self._pool[-1 - ids[unknown]]
            batch = replace(batch, token_ids=ids)
        return self._runner.forward(batch)

    def rows(self, logits: torch.Tensor, request: RowRequest) -> Outcome:
        sampled = None
        if request.sampling is not None:
            whole = len(request.drawn) == len(logits)
            sampled = sample(logits if whole else logits[torch.from_numpy(request.drawn)], request.sampling)
            kept = request.slots >= 0
            self._pool[request.slots[kept]] = sampled.tokens[kept]
        return Outcome(sampled, tuple(self._scores(logits[row], targets) for row, targets in request.scored))

    @staticmethod
    def _scores(row: torch.Tensor, targets: tuple[int, ...]) -> tuple[float, ...]:
        logprobs = row.double().log_softmax(-1)
        return tuple(logprobs[torch.tensor(targets, device=row.device)].tolist())


class InlineExecutor:
    """Computes a step when its result is asked for. Under the overlap loop its results lag one step behind."""

    def __init__(self, runner: ModelRunner, slots: int) -> None:
        self._computer = _Computer(runner, slots)

    def launch(self, batch: Batch) -> Ticket:
        return Ticket(batch)

    def provide(self, ticket: Ticket, request: RowRequest) -> None:
        ticket.request = request

    def result(self, ticket: Ticket) -> Outcome:
        assert ticket.request is not None
        return self._computer.rows(self._computer.forward(ticket.batch), ticket.request)

    def close(self) -> None:
        pass


class ThreadExecutor:
    """Computes steps in order on one thread, so that scheduling runs beside the model."""

    def __init__(
        self, runner: ModelRunner, slots: int, *, on_thread: Callable[[], None] | None = None
    ) -> None:
        self._computer = _Computer(runner, slots)
        self._tickets: queue.SimpleQueue[_ThreadTicket | None] = queue.SimpleQueue()
        self._on_thread = on_thread
        self._thread = threading.Thread(target=self._work, name="sgl-steps", daemon=True)
        self._thread.start()

    def launch(self, batch: Batch) -> Ticket:
        ticket = _ThreadTicket(batch)
        self._tickets.put(ticket)
        return ticket

    def provide(self, ticket: Ticket, request: RowRequest) -> None:
        assert isinstance(ticket, _ThreadTicket)
        ticket.asked.put(request)

    def result(self, ticket: Ticket) -> Outcome:
        assert isinstance(ticket, _ThreadTicket)
        return ticket.outcome.result()

    def close(self) -> None:
        self._tickets.put(None)
        self._thread.join(_CLOSE_S)  # a thread that waits for rows that will never come is left behind

    def _work(self) -> None:
        if self._on_thread is not None:
            self._on_thread()
        while (ticket := self._tickets.get()) is not None:
            try:
                logits = self._computer.forward(ticket.batch)
                ticket.outcome.set_result(self._computer.rows(logits, ticket.asked.get()))
            except Exception as error:
                ticket.outcome.set_exception(error)
