"""The grammar engines by name; a library is imported when its engine is made."""

from __future__ import annotations

from sgl_grammars.backends.base import Backend
from sgl_grammars.vocabulary import Vocabulary
from sgl_lang.errors import InvalidRequest

__all__ = ["BACKENDS", "Backend", "make_backend"]

BACKENDS = ("automaton", "llguidance", "xgrammar", "outlines")


def make_backend(name: str, vocabulary: Vocabulary) -> Backend:
    """Raises `InvalidRequest` for an unknown name."""
    if name == "automaton":
        from sgl_grammars.backends.automaton import AutomatonBackend

        return AutomatonBackend(vocabulary)
    if name == "llguidance":
        from sgl_grammars.backends.llguidance import LlguidanceBackend

        return LlguidanceBackend(vocabulary)
    if name == "xgrammar":
        from sgl_grammars.backends.xgrammar import XgrammarBackend

        return XgrammarBackend(vocabulary)
    if name == "outlines":
        from sgl_grammars.backends.outlines import OutlinesBackend

        return OutlinesBackend(vocabulary)
    raise InvalidRequest(f"must be auto or one of {', '.join(BACKENDS)}, got {name!r}", place="backend")
