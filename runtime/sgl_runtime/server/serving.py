"""What all handlers share: the engine, its model, and how a request becomes a running program."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from sgl_grammars.tools import ReasoningFormat, ToolFormat, find_format, find_reasoning
from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import ProgramOptions
from sgl_runtime.engine.client import EngineClient
from sgl_runtime.model.info import ModelInfo
from sgl_runtime.server.bridge import Mailbox, ProgramStream
from sgl_runtime.server.failures import NotFound
from sgl_runtime.server.guard import Load
from sgl_runtime.server.options import ServerOptions

__all__ = ["Serving", "new_id"]

_SALT_LENGTH = 256


@dataclass
class Serving:
    """One server's engine and options. `model` is the name that clients use."""

    client: EngineClient
    options: ServerOptions
    info: ModelInfo = field(init=False)
    model: str = field(init=False)
    tool_format: ToolFormat | None = field(init=False)
    reasoning: ReasoningFormat | None = field(init=False)
    started: int = field(init=False)
    load: Load = field(default_factory=Load)
    _mailbox: Mailbox | None = None

    def __post_init__(self) -> None:
        self.info = self.client.info()
        self.model = self.options.served_model_name or self.info.name
        self.started = int(time.time())
        source = "" if self.client.template is None else str(getattr(self.client.template, "source", ""))
        special = self.client.tokenizer.vocabulary.special
        self.tool_format, self.reasoning = find_format(special, source), find_reasoning(special)

    @property
    def tokenizer(self) -> Any:
        return self.client.tokenizer

    def check_model(self, name: str | None) -> None:
        """Raises `NotFound` unless `name` is the model that is served (or is not said)."""
        if name not in (None, "", "default", self.model):
            raise NotFound(
                f"there is no model {name!r}", place="model", hint=f"this server has {self.model!r}"
            )

    def stream(self, options: ProgramOptions) -> ProgramStream:
        """Begin a program. Use the result as a context manager."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return ProgramStream(self.client, options, self._mailbox, most=self.options.slow_client_events)

    def namespace(self, tenant: str, salt: str | None) -> str:
        """The cache namespace of a request: nothing is shared across tenants or salts."""
        if salt is not None and not 0 < len(salt) <= _SALT_LENGTH:
            raise InvalidRequest(f"must have 1 to {_SALT_LENGTH} characters", place="cache_salt")
        return f"{tenant}/{salt}" if salt else tenant


def new_id(kind: str) -> str:
    """An id that nobody can guess."""
    return f"{kind}-{secrets.token_hex(16)}"
