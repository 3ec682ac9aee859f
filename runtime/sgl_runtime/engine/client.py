"""How the rest of the world talks to an engine, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sgl_lang.tree import Event, Operation, ProgramOptions
from sgl_runtime.engine.engine import Engine
from sgl_runtime.model.info import ModelInfo
from sgl_runtime.program.text import TokenizerLike

__all__ = ["EngineClient", "LocalClient"]


class EngineClient(Protocol):
    """One interface for an engine in this process and for one in another.

    `open` gives the id of a new program; the engine makes it and nobody can guess it. Operations go one way;
    what comes of them arrives at the program's `listener` on the engine's thread, which must not block. A
    program's last event is `Finished`, or `Failed` with no branch.
    """

    tokenizer: Any
    template: Any

    def open(self, options: ProgramOptions, listener: Callable[[Event], None]) -> str:
        """Raises `Overloaded` if too many programs are open, `EngineFailure` if the engine is dead."""
        ...

    def send(self, program_id: str, operations: Sequence[Operation]) -> None: ...
    def cancel(self, program_id: str) -> None: ...
    def info(self) -> ModelInfo: ...
    def stats(self) -> dict[str, Any]: ...
    def flush_cache(self) -> None: ...
    def healthy(self) -> bool: ...
    def close(self) -> None: ...


class LocalClient:
    """An engine in this process, on a thread of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokenizer: TokenizerLike = engine.codec.tokenizer
        self.template = engine.template
        engine.start()

    def open(self, options: ProgramOptions, listener: Callable[[Event], None]) -> str:
        return self.engine.open(options, listener)

    def send(self, program_id: str, operations: Sequence[Operation]) -> None:
        self.engine.send(program_id, operations)

    def cancel(self, program_id: str) -> None:
        self.engine.cancel(program_id)

    def info(self) -> ModelInfo:
        info: ModelInfo = self.engine.runner.info  # type: ignore[attr-defined]
        return info

    def stats(self) -> dict[str, Any]:
        return self.engine.stats()

    def flush_cache(self) -> None:
        self.engine.flush_cache()

    def healthy(self) -> bool:
        return self.engine.failure is None

    def close(self) -> None:
        self.engine.shutdown()

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
