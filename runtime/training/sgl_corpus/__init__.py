"""The corpus of `sgl-tiny`: seeded generators of texts, questions, calls and answers. See ../README.md."""

from .core import Document, Rng
from .mix import EVALUATION, MIXTURE, document, documents, held_out

__all__ = ["EVALUATION", "MIXTURE", "Document", "Rng", "document", "documents", "held_out"]
