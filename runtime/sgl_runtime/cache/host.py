"""The second tier: evicted pages wait in host memory and come back when they match.

The cache decides what moves; a `KVMover` moves it. `TensorMover` does so for KV memory that is one tensor.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sgl_runtime.cache.node import Node

if TYPE_CHECKING:
    import torch

__all__ = ["HostTier", "KVMover", "TensorMover"]


class KVMover(Protocol):
    """Copies the KV of whole pages, in all layers, between device pages and host slots. `pages[i]` is `slots[i]`.

    Both calls take effect, as seen by later steps, in the order in which they were made.
    """

    num_slots: int

    def copy_out(self, pages: Sequence[int], slots: Sequence[int]) -> None: ...

    def copy_in(self, slots: Sequence[int], pages: Sequence[int]) -> None: ...


class HostTier:
    """Slots of host memory and the order in which nodes give theirs up: host leaves, least recently used first."""

    def __init__(self, mover: KVMover) -> None:
        self.mover = mover
        self._free = list(range(mover.num_slots - 1, -1, -1))
        self._leaves: list[tuple[int, int, Node]] = []

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.mover.num_slots - len(self._free)

    def save(self, pages: Sequence[int]) -> list[int] | None:
        """Copy `pages` to the host; None where there is no room for all of them."""
        if len(pages) > len(self._free):
            return None
        slots = [self._free.pop() for _ in pages]
        self.mover.copy_out(pages, slots)
        return slots

    def release(self, slots: Sequence[int]) -> None:
        self._free.extend(slots)

    def push(self, node: Node) -> None:
        """`node` may be a leaf of the host now; anything else is ignored."""
        if self._is_leaf(node):
            heapq.heappush(self._leaves, (node.tick, node.serial, node))

    def pop(self) -> Node | None:
        """The host leaf to give up next, None if there is none."""
        while self._leaves:
            tick, _, node = heapq.heappop(self._leaves)
            if tick == node.tick and self._is_leaf(node):
                return node
        return None

    @staticmethod
    def _is_leaf(node: Node) -> bool:
        return node.slots is not None and not node.host_children


class TensorMover:
    """Moves pages of one KV tensor `[layers, 2, pages, page_size, kv_heads, head_dim]` within `host_bytes`.

    Host memory is pinned where the tensor lies on a CUDA device. Raises ValueError where not even one page fits.
    """

    def __init__(self, kv: torch.Tensor, host_bytes: int) -> None:
        import torch

        self._kv = kv
        page_bytes = kv[:, :, 0].numel() * kv.element_size()
        self.num_slots = host_bytes // page_bytes
        if self.num_slots < 1:
            raise ValueError(f"{host_bytes} bytes of host memory hold no page of {page_bytes} bytes")
        shape = (self.num_slots, kv.shape[0], kv.shape[1], *kv.shape[3:])
        self._host = torch.empty(shape, dtype=kv.dtype, pin_memory=kv.is_cuda)

    def copy_out(self, pages: Sequence[int], slots: Sequence[int]) -> None:
        import torch

        gathered = (
            self._kv[:, :, torch.tensor(list(pages), device=self._kv.device)].movedim(2, 0).contiguous()
        )
        self._host[torch.tensor(list(slots))] = gathered.to("cpu")

    def copy_in(self, slots: Sequence[int], pages: Sequence[int]) -> None:
        import torch

        saved = self._host[torch.tensor(list(slots))].to(self._kv.device)
        self._kv[:, :, torch.tensor(list(pages), device=self._kv.device)] = saved.movedim(0, 2)
