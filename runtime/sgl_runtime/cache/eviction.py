"""Which leaf to give up next: a heap of leaves, kept up to date by lazy entries, never a walk over the tree.

Leaves that nothing in the queue will read go first, least recently used first. Then those with a known next use,
farthest first: for these the future is known and this is Belady's rule.

An entry is stale when its leaf is no longer an unlocked leaf, or was used or given another next use since. Stale
entries are skipped when they come up. Whoever makes a leaf evictable, or its next use later, pushes a new entry; a
next use that came nearer is noticed when the entry comes up.
"""

from __future__ import annotations

import heapq

from sgl_runtime.cache.node import Node

__all__ = ["LeafHeap"]


class LeafHeap:
    """Evictable leaves of the device. `next_use` False: least recently used first, whatever the queue tells."""

    def __init__(self, next_use: bool) -> None:
        self._by_next_use = next_use
        self._idle: list[tuple[int, int, Node]] = []  # (last use, serial, leaf)
        self._known: list[tuple[float, int, int, Node]] = []  # (-next use, last use, serial, leaf)

    def __len__(self) -> int:
        return len(self._idle) + len(self._known)

    def push(self, node: Node) -> None:
        """`node` may be an evictable leaf now; anything else is ignored."""
        if node.is_leaf and not node.locks and node.parent is not None:
            heapq.heappush(self._idle, (node.tick, node.serial, node))

    def pop(self, later_than: float | None = None) -> Node | None:
        """The leaf to evict now, out of the heap; None if there is none, or all are read by `later_than`."""
        while self._idle or self._known:
            if not self._idle and later_than is not None and -self._known[0][0] <= later_than:
                return None
            node = self._pop_idle() if self._idle else self._pop_known()
            if node is not None:
                return node
        return None

    def _pop_idle(self) -> Node | None:
        tick, _, node = heapq.heappop(self._idle)
        if tick != node.tick or not self._evictable(node):
            return None
        position = node.next_use() if self._by_next_use else None
        if position is None:
            return node
        heapq.heappush(self._known, (-position, tick, node.serial, node))
        return None

    def _pop_known(self) -> Node | None:
        position, tick, serial, node = heapq.heappop(self._known)
        if tick != node.tick or not self._evictable(node):
            return None
        current = node.next_use()
        if current is not None and -current != position:
            heapq.heappush(self._known, (-current, tick, serial, node))
            return None
        return node

    @staticmethod
    def _evictable(node: Node) -> bool:
        return node.is_leaf and not node.locks and node.parent is not None

    def compact(self, nodes: int) -> None:
        """Drop stale entries once they outnumber the nodes; O(1) per push on average."""
        if len(self) > 2 * nodes + 64:
            idle = {entry[1]: entry for entry in self._idle if self._right(entry[0], entry[2])}
            known = {entry[2]: entry for entry in self._known if self._right(entry[1], entry[3])}
            self._idle = list(idle.values())
            self._known = [entry for serial, entry in known.items() if serial not in idle]
            heapq.heapify(self._idle)
            heapq.heapify(self._known)

    def _right(self, tick: int, node: Node) -> bool:
        return tick == node.tick and self._evictable(node)
