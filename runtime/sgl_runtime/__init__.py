"""The runtime: an engine that knows the programs it runs, and its server.

`launch` starts an engine in this process and gives a client to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgl_runtime.config import EngineConfig, Limits
    from sgl_runtime.engine.client import EngineClient
    from sgl_runtime.engine.launch import launch

__all__ = ["EngineClient", "EngineConfig", "Limits", "launch"]

_HOMES = {
    "EngineClient": "sgl_runtime.engine.client",
    "EngineConfig": "sgl_runtime.config",
    "Limits": "sgl_runtime.config",
    "launch": "sgl_runtime.engine.launch",
}


def __getattr__(name: str) -> Any:
    """Exports are loaded when they are first used: importing a small part of the runtime must not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
