"""From a constraint to a compiled grammar: limits, routing, one compile per key, a cache bounded by bytes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from sgl_grammars import limits
from sgl_grammars.backends.llguidance import LlguidanceBackend
from sgl_grammars.forced import Forcer
from sgl_grammars.matcher import CompiledGrammar
from sgl_grammars.spec import Constraint
from sgl_grammars.vocabulary import Vocabulary

__all__ = ["Compiler"]

BackendName = Literal["auto", "llguidance", "xgrammar", "outlines"]


class Compiler:
    """Compiles constraints for one vocabulary."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        backend: BackendName = "auto",
        timeout_s: float = 5.0,
        memory_bytes: int = 2 << 30,
        cache_bytes: int = 256 << 20,
        workers: int = 1,
    ) -> None:
        self.vocabulary = vocabulary
        self._engine = LlguidanceBackend(vocabulary)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sgl-grammar")
        self._forcer = self._threads.submit(Forcer.create, vocabulary)

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        """Compile and wait. Raises `InvalidConstraint`."""
        return self.submit(constraint).result()

    def submit(self, constraint: Constraint) -> Future[CompiledGrammar]:
        return self._threads.submit(self._compile, constraint)

    def _compile(self, constraint: Constraint) -> CompiledGrammar:
        limits.check(constraint)
        compiled = self._engine.compile(constraint)
        compiled.forcer = self._forcer.result()
        return compiled

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
