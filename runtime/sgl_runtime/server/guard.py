"""What every request passes before its handler: the API key, the body's size, the number of requests at once.

Plain ASGI, so that bodies are counted while they arrive and streams are not buffered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgl_lang.errors import Overloaded, SglError
from sgl_runtime.server.failures import TooLarge, Unauthorized, error_response
from sgl_runtime.server.options import ServerOptions

__all__ = ["Guard", "Load"]

OPEN_PATHS = frozenset({"/health", "/", "/favicon.ico"})
"""Paths that need no key and are never refused for load."""


@dataclass
class Load:
    """How many requests are being served."""

    running: int = 0

    @contextmanager
    def admitted(self, most: int) -> Iterator[None]:
        """Count one more. Raises `Overloaded` if there are `most` already."""
        if self.running >= most:
            raise Overloaded(f"{self.running} requests are being served", hint="try again later")
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


class Guard:
    """ASGI middleware. Puts the tenant of a request into ``scope["state"]["tenant"]``."""

    def __init__(self, app: ASGIApp, options: ServerOptions, load: Load) -> None:
        self._app = app
        self._options = options
        self._load = load
        self._keys = [(key.encode(), _tenant(key)) for key in options.api_key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["tenant"] = self._authorize(scope)
            self._check_length(scope)
            with self._load.admitted(self._options.max_requests):
                await self._app(scope, self._counted(receive), send)
        except SglError as error:
            await error_response(error)(scope, receive, send)

    def _authorize(self, scope: Scope) -> str:
        """The tenant that the request's key belongs to; "" where keys are off."""
        if not self._keys:
            return ""
        given = _header(scope, b"authorization").removeprefix(b"Bearer ").strip() or _header(
            scope, b"x-api-key"
        )
        found = [tenant for key, tenant in self._keys if hmac.compare_digest(key, given)]
        if not found:
            raise Unauthorized("a valid API key is needed", hint="send it as Authorization: Bearer KEY")
        return found[0]

    def _check_length(self, scope: Scope) -> None:
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._options.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._options.max_body_bytes} bytes", place="body")

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._options.max_body_bytes:
                raise self._too_large()
            return message

        return counted


def _is_open(scope: Scope) -> bool:
    """Sockets are guarded like requests; their refusal is an answer to the handshake."""
    if scope["type"] == "websocket":
        return False
    return scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS"


def _header(scope: Scope, name: bytes) -> bytes:
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), b"")


def _tenant(key: str) -> str:
    """A name for the cache namespace of a key; the key cannot be found from it."""
    return hashlib.sha256(b"tenant:" + key.encode()).hexdigest()[:16]
