"""The backend that runs programs when none is named: the embedded engine, started at the first run."""

from __future__ import annotations

import atexit
import threading

from sgl_lang.backends.base import Backend


class DefaultBackend:
    """Holds one backend for the process; starts the embedded engine when asked and none was set."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._lock = threading.Lock()

    def set(self, backend: Backend | None) -> None:
        with self._lock:
            self._backend = backend

    def get(self) -> Backend:
        with self._lock:
            if self._backend is None:
                self._backend = self._embedded()
            return self._backend

    def _embedded(self) -> Backend:
        from sgl_lang.backends.local import Engine

        engine = Engine()
        atexit.register(engine.close)
        return engine


_default = DefaultBackend()


def set_default_backend(backend: Backend | None) -> None:
    """Run programs on `backend` unless they say otherwise; None: back to the embedded engine."""
    _default.set(backend)


def get_default_backend() -> Backend:
    """The backend set last; else the embedded engine, which is started now."""
    return _default.get()
