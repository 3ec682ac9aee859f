"""Bookkeeping of the paged KV memory: which pages are free, cached or held. The tensors belong to the runner.

A page is in exactly one state::

    free     nobody has it                               alloc ->
    held     callers have references, the tree has none  release (last reference) -> free,  adopt -> cached
    cached   the radix tree owns it; callers may hold    disown -> held while references are left, else free
             references on top

`free + cached + held == total` at any time (invariant 1). The pool knows nothing of steps: whoever gives a page back
(or unlocks a handle) that a step in flight still uses does so after that step is collected (invariant 2).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PagePool"]


class PagePool:
    """`num_pages` pages of `page_size` tokens, ids 0 .. num_pages - 1. All calls are O(pages named)."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs pages and a page size, got {num_pages} x {page_size}")
        self.total = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))  # a stack: low ids come first
        self._references = [0] * num_pages
        self._in_tree = bytearray(num_pages)
        self._cached = 0

    @property
    def free(self) -> int:
        """Pages that `alloc` can give now."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Pages that the radix tree owns, locked or not."""
        return self._cached

    @property
    def held(self) -> int:
        """Pages that only callers own."""
        return self.total - len(self._free) - self._cached

    def alloc(self, count: int) -> list[int] | None:
        """`count` pages with one reference each, or None (and nothing changes) where fewer are free."""
        if count > len(self._free):
            return None
        if count <= 0:
            return []
        pages = self._free[: -count - 1 : -1]
        del self._free[-count:]
        for page in pages:
            self._references[page] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """One more reference on each page, to be given back by `release`."""
        for page in pages:
            if self.state(page) == "free":
                raise ValueError(f"page {page} is free and cannot be shared")
            self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Give one reference on each page back; pages without any become free, unless the tree owns them."""
        for page in pages:
            if not self._references[page]:
                raise ValueError(f"page {page} is {self.state(page)}: nobody holds a reference to release")
            self._references[page] -= 1
            if not self._references[page] and not self._in_tree[page]:
                self._free.append(page)

    def adopt(self, pages: Sequence[int]) -> None:
        """The tree takes over the caller's reference on each page."""
        for page in pages:
            if self._in_tree[page] or not self._references[page]:
                raise ValueError(f"page {page} cannot be cached: it is {self.state(page)}")
            self._references[page] -= 1
            self._in_tree[page] = 1
        self._cached += len(pages)

    def disown(self, pages: Sequence[int]) -> int:
        """The tree gives pages up: to free where nobody refers to them; returns how many became free."""
        before = len(self._free)
        for page in pages:
            if not self._in_tree[page]:
                raise ValueError(f"page {page} is not cached: it is {self.state(page)}")
            self._in_tree[page] = 0
            if not self._references[page]:
                self._free.append(page)
        self._cached -= len(pages)
        return len(self._free) - before

    def state(self, page: int) -> str:
        """``"cached"``, ``"held"`` or ``"free"``."""
        if self._in_tree[page]:
            return "cached"
        return "held" if self._references[page] else "free"

    def references(self, page: int) -> int:
        """References that callers hold on a page."""
        return self._references[page]

    def check(self) -> None:
        """Assert invariant 1 page by page. O(total); for tests and idle moments."""
        free = set(self._free)
        assert len(free) == len(self._free), "a page is free twice"
        assert self._cached == sum(self._in_tree), "the count of cached pages is off"
        for page in range(self.total):
            assert (self.state(page) == "free") == (page in free), f"page {page} is {self.state(page)}"
        assert self.free + self.cached + self.held == self.total
