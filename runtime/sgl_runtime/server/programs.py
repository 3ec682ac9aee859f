"""``/v1/programs``: request trees over HTTP.

``POST /v1/programs`` with ``{"options", "operations", "open"}`` answers with server-sent events: first
``{"type": "program", "id": ...}``, then the program's events as in `sgl_lang.tree`, the last one
``finished`` or a ``failed`` without a branch. With ``"open": true`` more operations may follow by ``POST
/v1/programs/{id}/operations``; otherwise the server adds the `End`. ``DELETE /v1/programs/{id}`` cancels. A
client that hangs up cancels too. Ids are made by the engine, cannot be guessed, and are matched whole and
within the tenant.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_lang.tree import End, Operation, ProgramOptions
from sgl_runtime.server.bridge import ProgramStream
from sgl_runtime.server.failures import NotFound
from sgl_runtime.server.openai.fields import decode
from sgl_runtime.server.responses import Events, sse
from sgl_runtime.server.serving import Serving

__all__ = ["ProgramBody", "ProgramStarted", "Programs"]


class ProgramBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/programs``."""

    options: ProgramOptions = ProgramOptions()
    operations: tuple[Operation, ...] = ()
    open: bool = False
    model: str | None = None


class OperationsBody(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /v1/programs/{id}/operations``."""

    operations: tuple[Operation, ...]


class ProgramStarted(msgspec.Struct, tag="program", frozen=True):
    """The first event."""

    id: str


_encoder = msgspec.json.Encoder()


class Programs:
    """The programs that clients have open on this server."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._open: dict[str, tuple[str, ProgramStream]] = {}

    @property
    def count(self) -> int:
        return len(self._open)

    async def begin(self, request: Request) -> Response:
        body = decode(await request.body(), ProgramBody)
        return Events(self._events(body, request.state.tenant))

    async def extend(self, request: Request, program_id: str) -> Response:
        body = decode(await request.body(), OperationsBody)
        self._find(program_id, request.state.tenant).send(body.operations)
        return Response(b"{}", status_code=202, media_type="application/json")

    async def cancel(self, request: Request, program_id: str) -> Response:
        self._find(program_id, request.state.tenant).cancel()
        return Response(b"{}", status_code=202, media_type="application/json")

    def _find(self, program_id: str, tenant: str) -> ProgramStream:
        owner, program = self._open.get(program_id, (None, None))
        if program is None or owner != tenant:
            raise NotFound("there is no such program, or it is over", place="id")
        return program

    async def _events(self, body: ProgramBody, tenant: str) -> AsyncGenerator[bytes, None]:
        with self.opened(body, tenant) as program:
            yield sse(_encoder.encode(ProgramStarted(program.id)))
            async for events in program.batches():
                yield b"".join(sse(_encoder.encode(event)) for event in events)

    @contextmanager
    def opened(self, body: ProgramBody, tenant: str) -> Iterator[ProgramStream]:
        """Run a program; leaving the block ends it."""
        self._serving.check_model(body.model)
        salt = body.options.namespace or None
        namespace = self._serving.namespace(tenant, salt)
        options = msgspec.structs.replace(body.options, namespace=namespace)
        with self._serving.stream(options) as program:
            self._open[program.id] = (tenant, program)
            try:
                program.send(body.operations if body.open else (*body.operations, End()))
                yield program
            finally:
                del self._open[program.id]
