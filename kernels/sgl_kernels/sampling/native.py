"""The C++ op for the CPU: two passes over the allowed logits, nothing written but the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from sgl_kernels.native import library

if TYPE_CHECKING:
    from sgl_kernels.sampling import Draws

__all__ = ["draw", "fits", "log_sum"]


def fits(logits: torch.Tensor) -> bool:
    return logits.device.type == "cpu" and logits.stride(-1) == 1 and library() is not None


def _library() -> Any:
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ ops are not available here")
    return loaded


def draw(logits: torch.Tensor, draws: Draws) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """See `sgl_kernels.sampling.draw`."""
    rows, width = logits.shape
    masks = None if draws.masks is None else np.ascontiguousarray(draws.masks, dtype=np.int32)
    numbers: list[npt.NDArray[Any]] = [
        np.ascontiguousarray(draws.mask_index, dtype=np.int64),
        np.ascontiguousarray(draws.temperature, dtype=np.float32),
        np.ascontiguousarray(draws.top_k, dtype=np.int64),
        np.ascontiguousarray(draws.top_p, dtype=np.float64),
        np.ascontiguousarray(draws.min_p, dtype=np.float32),
        np.ascontiguousarray(draws.uniforms, dtype=np.float64),
    ]
    tokens, finite = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.bool_)
    _library().sgl_sample(
        logits.data_ptr(),
        rows,
        width,
        logits.stride(0),
        None if masks is None else masks.ctypes.data,
        0 if masks is None else masks.shape[1],
        *(part.ctypes.data for part in numbers),
        tokens.ctypes.data,
        finite.ctypes.data,
    )
    return tokens, finite


def log_sum(logits: torch.Tensor) -> torch.Tensor:
    """See `sgl_kernels.sampling.log_sum`."""
    out = torch.empty(len(logits))
    _library().sgl_log_sum(logits.data_ptr(), len(logits), logits.shape[1], logits.stride(0), out.data_ptr())
    return out
