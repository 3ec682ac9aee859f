"""The prefix cache: a pool of KV pages, the radix tree over it, and the host tier. See `sgl_runtime.cache.radix`."""

from sgl_runtime.cache.handles import CacheStats, Handle, InsertResult, Match, NamespaceStats, Outlook, Use
from sgl_runtime.cache.host import HostTier, KVMover, TensorMover
from sgl_runtime.cache.inspection import check, render
from sgl_runtime.cache.node import TokenIds, pack
from sgl_runtime.cache.pool import PagePool
from sgl_runtime.cache.radix import RadixCache, StaleHandle

__all__ = [
    "PagePool",
    "RadixCache",
    "Match",
    "Handle",
    "InsertResult",
    "Use",
    "Outlook",
    "CacheStats",
    "NamespaceStats",
    "StaleHandle",
    "HostTier",
    "KVMover",
    "TensorMover",
    "TokenIds",
    "pack",
    "render",
    "check",
]
