"""What holds for one run of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sgl_lang import sampling
from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import ProgramOptions

if TYPE_CHECKING:
    from sgl_lang.backends.base import Backend

DEFAULT_WAIT_S = 3600.0
"""No wait is longer than this (seconds) when nothing else is said."""


@dataclass(frozen=True)
class RunOptions:
    """Options of `run`, `run_batch` and `stream`.

    `sampling` (also given as plain keywords) holds for gens that do not say otherwise. `deadline_s`: the program is
    cancelled after so many seconds. `budget_tokens`: bound on the sampled tokens of all branches together.
    `budget_dollars`: the program is cancelled once its backend, if it knows its prices, has charged more. `trace` asks
    the engine for the tokens of known nodes (for `render`). `merge_text` off keeps adjacent texts as separate nodes.
    `lazy_format` off makes f-strings wait for values.
    """

    backend: Backend | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float | None = None
    budget_tokens: int | None = None
    budget_dollars: float | None = None
    priority: int = 0
    namespace: str = ""
    stream: bool = False
    trace: bool = False
    merge_text: bool = True
    lazy_format: bool = True

    def program_options(self) -> ProgramOptions:
        return ProgramOptions(
            priority=self.priority,
            namespace=self.namespace,
            deadline_s=self.deadline_s,
            max_tokens=self.budget_tokens,
            stream=self.stream,
            trace=self.trace,
        )

    def with_keywords(self, keywords: Mapping[str, Any]) -> RunOptions:
        """These options changed by keywords: own names, and sampling parameters."""
        own = {name: value for name, value in keywords.items() if name in OWN_NAMES}
        rest = {name: value for name, value in keywords.items() if name not in OWN_NAMES}
        if own.get("deadline_s") is not None and not own["deadline_s"] > 0:
            raise InvalidRequest("must be above 0", place="deadline_s")
        if own.get("budget_dollars") is not None and not own["budget_dollars"] >= 0:
            raise InvalidRequest("must be at least 0", place="budget_dollars")
        fields = {**self.sampling, **sampling.normalised(rest)}
        sampling.params(fields, {})
        return replace(self, **{**own, "sampling": fields})


OWN_NAMES = frozenset(RunOptions.__dataclass_fields__) - {"sampling"}
NAMES = OWN_NAMES | sampling.NAMES
