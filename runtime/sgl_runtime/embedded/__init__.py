"""The small trained model that ships with the package: `sgl-tiny`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_NAME", "model_path"]

MODEL_NAME = "sgl-tiny"


def model_path() -> Path:
    """The folder of the embedded model, in the ordinary Hugging Face layout."""
    return Path(__file__).resolve().parent / MODEL_NAME
