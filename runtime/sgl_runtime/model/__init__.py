"""Model execution: a config-driven decoder, Hugging Face folders, weights, runners."""

from sgl_runtime.model.config import FAMILIES, DecoderConfig
from sgl_runtime.model.info import GenerationDefaults, ModelInfo
from sgl_runtime.model.loader import LoadOptions, load_runner

__all__ = ["FAMILIES", "DecoderConfig", "GenerationDefaults", "LoadOptions", "ModelInfo", "load_runner"]
