"""The HTTP server: OpenAI's interface and our own, over an `EngineClient`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgl_runtime.server.app import create_app
    from sgl_runtime.server.options import ServerOptions

__all__ = ["ServerOptions", "create_app"]

_HOMES = {"create_app": "sgl_runtime.server.app", "ServerOptions": "sgl_runtime.server.options"}


def __getattr__(name: str) -> Any:
    """Exports are loaded when they are first used: ``sgl --help`` must not load a web framework."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
