"""Attention backends: one interface, one file per backend."""

from sgl_runtime.attention.base import Attention, KVShape
from sgl_runtime.attention.reference import ReferenceAttention

__all__ = ["Attention", "KVShape", "ReferenceAttention"]
