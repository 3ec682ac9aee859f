"""A test seam that ships: a deterministic fake model, a byte tokenizer and a chat template for engines
without weights.

`FakeRunner` stores in its "KV memory" the token ids themselves and computes logits from the history that it
reads back
through the page table. A wrong page, slot, copy or position therefore changes its output, as it would on a
real model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sgl_grammars.vocabulary import Vocabulary
from sgl_lang.tree import Event, Operation, ProgramOptions
from sgl_runtime.core import Batch, Int64

__all__ = ["ByteTokenizer", "Collected", "FakeRunner", "PlainTemplate", "drive", "run_program"]

_SPECIAL = ("<eos>", "<bos>", "<system>", "<user>", "<assistant>", "<tool>", "<end>", "<pad>")


class ByteTokenizer:
    """One token per byte, and a few special tokens after them."""

    def __init__(self, *, bos: bool = False) -> None:
        special = {name: 256 + index for index, name in enumerate(_SPECIAL)}
        tokens = tuple([bytes([byte]) for byte in range(256)] + [b""] * len(_SPECIAL))
        self.vocabulary = Vocabulary(tokens, frozenset({special["<eos>"]}), special)
        self.bos_token_id = special["<bos>"] if bos else None
        self.eos_token_ids = frozenset({special["<eos>"]})

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        if not special:
            return list(text.encode())
        for name, token in self.vocabulary.special.items():
            if name in text:
                before, after = text.split(name, 1)
                return [*self.encode(before, special=True), token, *self.encode(after, special=True)]
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        names = {token: name for name, token in self.vocabulary.special.items()}
        parts = [bytes([i]) if i < 256 else b"" if skip_special else names[i].encode() for i in ids]
        return b"".join(parts).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        return _SPECIAL[token - 256] if token >= 256 else bytes([token]).decode("latin-1")


class PlainTemplate:
    """``<role>content<end>`` for each message."""

    def render(
        self,
        messages: Sequence[Any],
        tools: Any = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **options: Any,
    ) -> list[tuple[str, bool]]:
        conversation, pieces = self.conversation(tools), []
        for index, message in enumerate(messages):
            pieces += [*conversation.begin(message["role"]), (message["content"], False)]
            if not (continue_final_message and index == len(messages) - 1):
                pieces += conversation.end()
        if add_generation_prompt and not continue_final_message:
            pieces += conversation.begin("assistant")
        return pieces

    def conversation(self, tools: Any = None) -> PlainConversation:
        return PlainConversation()


class PlainConversation:
    def begin(self, role: str, name: str | None = None, call_id: str | None = None) -> list[tuple[str, bool]]:
        return [(f"<{role}>", True)]

    def end(self) -> list[tuple[str, bool]]:
        return [("<end>", True)]

    def content(self, text: str) -> None:
        pass


class FakeRunner:
    """A `ModelRunner` whose logits are a function of the token history alone.

    `rows` different rows of logits exist; `end_bias` is added to the end token's logit. `before` is called
    with every
    batch (to fail, to count, to look).
    """

    def __init__(
        self,
        *,
        vocab_size: int = 264,
        num_pages: int = 64,
        page_size: int = 4,
        max_context: int = 4096,
        eos: int = 256,
        end_bias: float = 0.0,
        rows: int = 509,
        printable: bool = True,
        before: Callable[[Batch], None] | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.page_size = page_size
        self.num_pages = num_pages
        self.kv: Int64 = np.full(num_pages * page_size, -1, dtype=np.int64)
        self.computed_tokens = 0
        self.steps = 0
        self.before = before
        random = np.random.default_rng(7)
        table = random.normal(size=(rows, vocab_size)).astype(np.float32) * 3
        if printable:
            table[:, :32] -= 20.0
            table[:, 127:] -= 20.0
        table[:, eos] += (20.0 if printable else 0.0) + end_bias
        self._table = torch.from_numpy(table)

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.before is not None:
            self.before(batch)
        size = self.page_size
        for source, target, count in batch.copies.tolist():
            self.kv[target * size : target * size + count] = self.kv[source * size : source * size + count]
        self.kv[batch.slots] = batch.token_ids
        self.computed_tokens += batch.num_tokens
        self.steps += 1
        run_of = np.repeat(np.arange(batch.num_runs), batch.run_lengths)
        picks = [self._pick(batch, int(run_of[row]), int(batch.positions[row])) for row in batch.logit_rows]
        return self._table[torch.tensor(picks, dtype=torch.long)].clone()

    def _pick(self, batch: Batch, run: int, position: int) -> int:
        places = np.arange(position + 1)
        slots = batch.page_table[run][places // self.page_size] * self.page_size + places % self.page_size
        history = self.kv[slots]
        if (history < 0).any():
            raise AssertionError("a step reads KV that was never written")
        return zlib.crc32(history.tobytes()) % len(self._table)


class Collected:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def drive(engine: Any, *, turns: int = 100_000, check: Callable[[], None] | None = None) -> None:
    """Step an engine by hand until it has nothing to do. `check` is called after every step."""
    for _ in range(turns):
        worked = engine.step()
        if check is not None:
            check()
        if not worked:
            return
    raise AssertionError(f"the engine still works after {turns} turns")


def run_program(engine: Any, operations: Sequence[Operation], **options: Any) -> Collected:
    """One program through an engine that is stepped by hand."""
    collected = Collected()
    program = engine.open(ProgramOptions(**options), collected)
    engine.send(program, operations)
    drive(engine)
    return collected
