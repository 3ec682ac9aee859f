"""From a constraint to a compiled grammar: off the engine's thread, once per constraint, remembered within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from sgl_grammars.backends.llguidance import LlguidanceBackend
from sgl_grammars.matcher import CompiledGrammar
from sgl_grammars.spec import Constraint, canonical_key
from sgl_grammars.vocabulary import Vocabulary
from sgl_lang.errors import InvalidConstraint, InvalidRequest, SglError

BACKENDS = ("auto", "llguidance")


class Compiler:
    """Compiles constraints for one vocabulary.

    One compile per canonical key at a time (single flight); results are kept, least recently used first out, up to
    `cache_bytes`. Errors are not kept.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        backend: str = "auto",
        timeout_s: float = 5.0,
        memory_bytes: int = 2 << 30,
        cache_bytes: int = 256 << 20,
        workers: int = 1,
    ) -> None:
        if backend not in BACKENDS:
            raise InvalidRequest(f"must be one of {', '.join(BACKENDS)}, got {backend!r}", place="backend")
        self.vocabulary = vocabulary
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[bytes, CompiledGrammar] = OrderedDict()
        self._flying: dict[bytes, Future[CompiledGrammar]] = {}
        self._held = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="grammar")
        self._backend: LlguidanceBackend | None = None

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        """Blocking; raises `InvalidConstraint`, `UnsupportedFeature`."""
        return self.submit(constraint).result()

    def submit(self, constraint: Constraint) -> Future[CompiledGrammar]:
        """Compile on a worker thread. The future is shared by all who wait for the same constraint."""
        key = canonical_key(constraint)
        with self._lock:
            cached = self._cached.get(key)
            if cached is not None:
                self._cached.move_to_end(key)
                done: Future[CompiledGrammar] = Future()
                done.set_result(cached)
                return done
            flying = self._flying.get(key)
            if flying is None:
                flying = self._flying[key] = self._pool.submit(self._run, key, constraint)
            return flying

    def _run(self, key: bytes, constraint: Constraint) -> CompiledGrammar:
        try:
            grammar = self._compile(constraint)
            self._remember(key, grammar)
            return grammar
        finally:
            with self._lock:
                self._flying.pop(key, None)

    def _compile(self, constraint: Constraint) -> CompiledGrammar:
        try:
            if self._backend is None:
                self._backend = LlguidanceBackend(self.vocabulary)
            return self._backend.compile(constraint)
        except SglError:
            raise
        except Exception as error:  # a fault of the library is this constraint's fault, never the engine's
            raise InvalidConstraint(f"cannot be compiled: {str(error)[:300]}", place="constraint") from error

    def _remember(self, key: bytes, grammar: CompiledGrammar) -> None:
        with self._lock:
            self._cached[key] = grammar
            self._held += grammar.nbytes
            while self._held > self._cache_bytes and len(self._cached) > 1:
                _, old = self._cached.popitem(last=False)
                self._held -= old.nbytes

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
