"""The prefix cache: a radix tree over token ids, in whole pages, with what the queue is going to read drawn in.

::

    cache = RadixCache(pool)
    match = cache.match(tokens)            # longest cached prefix; changes nothing
    cache.lock(match.handle)               # nothing on its path is evicted until `unlock`
    ...                                    # compute the rest into pages of one's own
    result = cache.insert(tokens, pages)   # the tree takes over the pages it does not have
    pool.release(result.duplicates)        # they are still ours
    cache.unlock(match.handle)

Pages in the tree are never written again. `match` goes to the token: where it ends inside a page, the caller copies
that page's beginning into a page of its own. `insert` stores a partial last page too.

Time does not depend on the size of the tree: a child is found by the bytes of its first page, a page that is shared in
part by its neighbour in sorted order, and the leaf to evict by a heap.

`expect` tells the tree what waits in the queue. The tokens are drawn in as *ghosts* as far as they are not cached, so
that eviction knows the next use of every page, and the scheduler knows (`outlook`) how much is cached of what waits
and what a running sequence is computing already, without matching anything again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from sgl_runtime.cache.eviction import LeafHeap
from sgl_runtime.cache.handles import CacheStats, Handle, InsertResult, Match, NamespaceStats, Outlook, Use
from sgl_runtime.cache.host import HostTier
from sgl_runtime.cache.node import WORD, Node, TokenIds, common, pack
from sgl_runtime.cache.pool import PagePool

__all__ = ["RadixCache", "StaleHandle"]

_MAX_NAMESPACE_STATS = 1024


class StaleHandle(ValueError):
    """A handle was not locked, and what it ends at has been evicted since: match again."""


class RadixCache:
    """Prefix cache over the pages of `pool`. Not thread safe: it belongs to the engine's thread.

    `next_use` False: evict least recently used first, whatever `expect` told. `host`: where evicted pages go.
    """

    def __init__(self, pool: PagePool, *, next_use: bool = True, host: HostTier | None = None) -> None:
        self.pool = pool
        self.page_size = pool.page_size
        self.host = host
        self._page_bytes = pool.page_size * WORD
        self._roots: dict[str, Node] = {}
        self._leaves = LeafHeap(next_use)
        self._leases: list[tuple[float, int, Handle]] = []
        self._serial = 0
        self._tick = 0
        self._locked_pages = 0
        self._wanted_pages = 0
        self._stats = CacheStats()

    # -------------------------------------------------------------------------------------------------------- matching

    def match(self, tokens: TokenIds, namespace: str = "") -> Match:
        """The longest cached prefix of `tokens`. Pure: no lock, no statistics, no use is noted."""
        root = self._roots.get(namespace)
        if root is None:
            return Match(0, (), Handle(_detached_root(), 0))
        key = pack(tokens)
        node, depth, pages = self._descend(root, key)
        host_length = self._host_length(node, depth, key) if self.host is not None else depth
        rest = key[depth * WORD : depth * WORD + self._page_bytes]
        near, shared = self._nearest_page(node, depth, rest) if self.page_size > 1 else (None, 0)
        if near is not None and shared:
            assert near.pages is not None
            pages.append(near.pages[(depth - near.start) // self.page_size])
            node, depth = near, depth + shared
        return Match(depth, tuple(pages), Handle(node, depth), host_length)

    def _descend(self, node: Node, key: bytes) -> tuple[Node, int, list[int]]:
        """Follow `key` over whole device pages: the last node, the depth reached in it, the pages on the way."""
        depth, size, pages = 0, self._page_bytes, list[int]()
        end = len(key) // size * self.page_size
        while depth < end:
            at = depth * WORD
            child = node.children.get(key[at : at + size])
            if child is None or child.pages is None:
                break
            shared = self._whole(child, key, depth, end)
            depth += shared
            node = child
            if depth < child.end:
                pages += child.pages[: shared // self.page_size]
                break
            pages += child.pages
        return node, depth, pages

    def _whole(self, child: Node, key: bytes, depth: int, end: int) -> int:
        """Tokens in whole pages that `child` shares with `key[depth:end]`."""
        stop = min(child.end, end)
        shared = common(child.key, key[depth * WORD : stop * WORD])
        return shared // self.page_size * self.page_size

    # --------------------------------------------------------------------------------------------------------- locking

    def lock(self, handle: Handle) -> None:
        """Keep the path of `handle` from being evicted, until as many `unlock`. Raises `StaleHandle`."""
        if not handle.locks:
            handle.node = self._end_node(handle)
            self._lock_path(handle.node)
        handle.locks += 1

    def unlock(self, handle: Handle) -> None:
        """Take one lock back. What a step in flight reads must stay locked until that step is collected."""
        if not handle.locks:
            raise ValueError("this handle is not locked")
        handle.locks -= 1
        if not handle.locks:
            self._unlock_path(handle.node)

    def _end_node(self, handle: Handle) -> Node:
        """The node that ends where `handle` does (rounded up to a page), made by a split if need be."""
        node, end = handle.node, -(-handle.length // self.page_size) * self.page_size
        while node.parent is not None and node.start >= end:
            node = node.parent
        if node.pages is None:
            raise StaleHandle(f"the {handle.length} tokens of this handle were evicted before it was locked")
        return self._split(node, end) if end < node.end else node

    def _lock_path(self, end: Node) -> None:
        self._tick += 1
        for node in self._path(end):
            if not node.locks and node.pages:
                self._locked_pages += len(node.pages)
                self._wanted_pages -= len(node.pages) if node.readers else 0
            node.locks += 1
            node.tick = self._tick

    def _unlock_path(self, end: Node) -> None:
        self._tick += 1
        node = end
        for node in self._path(end):
            node.locks -= 1
            if not node.locks and node.pages:
                self._locked_pages -= len(node.pages)
                self._wanted_pages += len(node.pages) if node.readers else 0
            node.tick = self._tick
        self._drop_root(node)
        if not end.locks and self._is_dominated(end):
            end.tick = 0
        self._push(end)

    def _is_dominated(self, tail: Node) -> bool:
        """Is all that a partial page holds also in a sibling? Then it is the first to go."""
        if len(tail.key) >= self._page_bytes or tail.parent is None:
            return False
        order = tail.parent.order
        at = bisect_left(order, tail.key)
        return at + 1 < len(order) and order[at + 1].startswith(tail.key)

    def lease(self, handle: Handle, until: float) -> None:
        """Lock `handle` until the time `until` (`expire` is told the time). Again: only the time changes."""
        if handle.expires is None:
            self.lock(handle)
        handle.expires = until
        self._serial += 1
        heapq.heappush(self._leases, (until, self._serial, handle))

    def end_lease(self, handle: Handle) -> bool:
        """Give the lease up; False if it had expired (or there was none), and then the path may be gone."""
        if handle.expires is None:
            return False
        handle.expires = None
        self.unlock(handle)
        return True

    def expire(self, now: float) -> int:
        """End the leases that are over at `now` (infinity: all of them); returns how many."""
        ended = 0
        while self._leases and self._leases[0][0] <= now:
            until, _, handle = heapq.heappop(self._leases)
            if handle.expires == until:
                ended += self.end_lease(handle)
        return ended

    # ------------------------------------------------------------------------------------------------------- inserting

    def insert(self, tokens: TokenIds, pages: Sequence[int], namespace: str = "") -> InsertResult:
        """Store the KV of `tokens`, computed in `pages` (`ceil(len(tokens) / page_size)` of them, from the start).

        The tree takes over the caller's reference on each page whose tokens it does not have; pages that are the
        tree's already may be among them. The others come back as duplicates. A partial last page is a duplicate where
        a longer page of the tree begins with the same tokens. Taken pages must not be written any more.
        """
        key, size = pack(tokens), self.page_size
        total = len(key) // WORD
        whole = total // size * size
        if len(pages) != -(-total // size):
            raise ValueError(f"{total} tokens lie in {-(-total // size)} pages of {size}, got {len(pages)}")
        self._tick += 1
        node, cached, duplicates = self._fill_path(self._root(namespace), key, pages, whole)
        if node.end < whole:
            cut = node.end
            node = self._append(node, key[cut * WORD : whole * WORD], pages[cut // size : whole // size])
        if whole < total:
            node, had = self._add_tail(node, whole, key[whole * WORD :], pages[-1], duplicates)
            cached = total if had else cached
        self._push(node)
        self._drop_root(node)
        return InsertResult(Handle(node, total), tuple(duplicates), cached)

    def _fill_path(
        self, node: Node, key: bytes, pages: Sequence[int], whole: int
    ) -> tuple[Node, int, list[int]]:
        """Follow `key`, giving pages to ghosts on the way: the last node, tokens cached before, duplicates."""
        depth, cached, size, duplicates = 0, 0, self.page_size, list[int]()
        while depth < whole:
            child = node.children.get(key[depth * WORD : depth * WORD + self._page_bytes])
            if child is None:
                break
            end = depth + self._whole(child, key, depth, whole)
            if end < child.end and (end < whole or child.pages is None):
                child = self._split(child, end)
            given = pages[depth // size : end // size]
            if child.pages is None:
                self._become_device(child, given)
            else:
                cached = end
                duplicates += [page for page, ours in zip(given, child.pages, strict=False) if page != ours]
            child.tick = self._tick
            node, depth = child, end
        return node, cached, duplicates

    def _append(self, parent: Node, key: bytes, pages: Sequence[int]) -> Node:
        """Device node(s) for new whole pages below `parent`; a lone leaf that nobody refers to grows instead."""
        if parent.parent is not None and not (
            parent.children or parent.locks or parent.readers or parent.promised or parent.slots
        ):
            assert parent.pages is not None
            self.pool.adopt(pages)
            parent.key += key
            parent.pages += pages
            parent.end += len(key) // WORD
            self._stats.cached_tokens += len(key) // WORD
            return parent
        return self._become_device(self._add_child(parent, key), pages)

    def _add_tail(
        self, parent: Node, at: int, key: bytes, page: int, duplicates: list[int]
    ) -> tuple[Node, bool]:
        """A leaf for the partial last page at `at`, unless a page there begins with its tokens; was it there?"""
        near, shared = self._nearest_page(parent, at, key)
        if near is not None and shared == len(key) // WORD:
            assert near.pages is not None
            if near.pages[(at - near.start) // self.page_size] != page:
                duplicates.append(page)
            return near, True
        if at < parent.end:
            lower, parent = parent, self._split(parent, at)
            self._push(lower)  # it was touched as a whole
        return self._become_device(self._add_child(parent, key), [page]), False

    def _nearest_page(self, node: Node, depth: int, key: bytes) -> tuple[Node | None, int]:
        """Of the pages that begin at `depth` in or below `node`, the one that shares most tokens with `key`."""
        if depth == node.end:
            return node.nearest(key)
        at = (depth - node.start) * WORD
        return node, common(node.key[at : at + self._page_bytes], key)

    def _add_child(self, parent: Node, key: bytes) -> Node:
        self._serial += 1
        child = Node(parent, parent.end, key, self._serial)
        child.tick = self._tick
        parent.children[key[: self._page_bytes]] = child
        self._stats.nodes += 1
        return child

    def _become_device(self, node: Node, pages: Sequence[int]) -> Node:
        """A new node, a ghost or a host node gets device pages."""
        parent = node.parent
        assert parent is not None
        self.pool.adopt(pages)
        self._drop_host_copy(node)
        node.pages = list(pages)
        self._wanted_pages += len(pages) if node.readers else 0
        parent.device_children += 1
        self._stats.cached_tokens += node.end - node.start
        if self.page_size > 1:
            name = node.key[: self._page_bytes]
            parent.add_ordered(name)
            self._demote_prefix(parent, name)
        return node

    def _demote_prefix(self, parent: Node, name: bytes) -> None:
        """A partial page whose tokens now begin another page becomes the first to be evicted."""
        at = bisect_left(parent.order, name)
        if at and name.startswith(parent.order[at - 1]):
            tail = parent.children[parent.order[at - 1]]
            if not tail.locks:
                tail.tick = 0
                self._push(tail)

    def _split(self, node: Node, at: int) -> Node:
        """Cut `node` in two at the page boundary `at`; the new upper half is returned, `node` is the lower one.

        ::

            parent - [start ........ end)          parent - [start .. at) - [at .. end)
                     node                                   upper           node
        """
        parent, cut, size = node.parent, at - node.start, self.page_size
        assert parent is not None
        assert 0 < cut < node.end - node.start
        assert cut % size == 0
        self._serial += 1
        upper = Node(parent, node.start, node.key[: cut * WORD], self._serial)
        upper.tick, upper.locks, upper.promised = node.tick, node.locks, node.promised
        upper.readers, upper.reader_heap = node.readers, node.reader_heap.copy()
        parent.children[upper.key[: self._page_bytes]] = upper
        node.parent, node.start, node.key = upper, at, node.key[cut * WORD :]
        name = node.key[: self._page_bytes]
        upper.children[name] = node
        if node.pages is not None:
            upper.pages, node.pages = node.pages[: cut // size], node.pages[cut // size :]
            upper.device_children = 1
            if size > 1:
                upper.order.append(name)
        if node.slots is not None:
            upper.slots, node.slots = node.slots[: cut // size], node.slots[cut // size :]
            upper.host_children = 1
        self._stats.nodes += 1
        return upper

    # -------------------------------------------------------------------------------------------------------- evicting

    @property
    def evictable_pages(self) -> int:
        """Cached pages that are not locked."""
        return self.pool.cached - self._locked_pages

    @property
    def idle_pages(self) -> int:
        """Cached pages that are not locked and that nothing in the queue is going to read."""
        return self.evictable_pages - self._wanted_pages

    def alloc(self, count: int, later_than: float | None = None) -> list[int] | None:
        """`count` pages from the pool, evicting as many as that takes; None if too few can be had.

        `later_than`: pages that something reads at this position of the order or before it are not evicted for it.
        """
        missing = count - self.pool.free
        if missing > 0:
            if missing > self.evictable_pages:
                return None
            self.evict(missing, later_than)
        return self.pool.alloc(count)

    def evict(self, pages: int, later_than: float | None = None) -> int:
        """Free `pages` pages of the tree, leaves first and from their ends; returns how many became free.

        `later_than`: only what nobody reads, or not before this position of the order has passed.
        """
        freed = 0
        while freed < pages:
            leaf = self._leaves.pop(later_than)
            if leaf is None:
                break
            assert leaf.pages is not None
            spare = len(leaf.pages) - (pages - freed)
            if spare > 0:
                self._split(leaf, leaf.start + spare * self.page_size)
            freed += self._evict_leaf(leaf)
        return freed

    def flush(self) -> int:
        """Free everything that is not locked, in the host tier too; returns the device pages that became free."""
        host, self.host = self.host, None
        freed = self.evict(self.pool.total)
        self.host = host
        while host is not None and (node := host.pop()) is not None:
            self._forget_host_copy(node)
        return freed

    def _evict_leaf(self, leaf: Node) -> int:
        assert leaf.pages is not None
        host = self.host if len(leaf.key) >= self._page_bytes else None
        if host is not None and len(leaf.pages) > host.mover.num_slots:
            self._split(
                leaf, leaf.start + host.mover.num_slots * self.page_size
            )  # its beginning is the next leaf
        elif host is not None:
            self._save_to_host(leaf, leaf.pages, host)
        parent, pages = leaf.parent, leaf.pages
        assert parent is not None
        assert pages is not None
        leaf.pages = None
        self._wanted_pages -= len(pages) if leaf.readers else 0
        parent.device_children -= 1
        if self.page_size > 1:
            parent.drop_ordered(leaf.key[: self._page_bytes])
        self._stats.evicted_pages += len(pages)
        self._stats.cached_tokens -= leaf.end - leaf.start
        freed = self.pool.disown(pages)
        self._push(parent)
        self._drop_if_empty(leaf)
        return freed

    def _push(self, node: Node) -> None:
        self._leaves.push(node)
        self._leaves.compact(self._stats.nodes)

    def _drop_if_empty(self, node: Node) -> None:
        """Remove `node`, and then its ancestors, as long as nothing needs them."""
        while node.parent is not None and not (
            node.children or node.readers or node.promised or node.pages is not None or node.slots is not None
        ):
            parent = node.parent
            del parent.children[node.key[: self._page_bytes]]
            node.parent = None
            self._stats.nodes -= 1
            node = parent
        self._drop_root(node)

    # ------------------------------------------------------------------------------------------------------- the queue

    def expect(self, tokens: TokenIds, namespace: str = "", position: float = 0.0) -> Use:
        """Something in the queue is going to read `tokens`; `position`: its place in the order, smaller is sooner.

        To be told again by `set_next_use` when the place changes, `promise` when it is admitted, `forget` when it is
        cancelled, or done with computing its tokens. Counts whole pages only.
        """
        key = pack(tokens)
        end = len(key) // self._page_bytes * self.page_size
        node, depth = self._root(namespace), 0
        while depth < end:
            child = node.children.get(key[depth * WORD : depth * WORD + self._page_bytes])
            if child is None:
                node = self._add_child(node, key[depth * WORD : end * WORD])
                break
            depth += self._whole(child, key, depth, end)
            node = self._split(child, depth) if depth < child.end else child
        self._serial += 1
        use = Use(node, self._serial, position)
        self._add_readers(use, 1)
        self._note_position(use)
        return use

    def set_next_use(self, use: Use, position: float | None) -> None:
        """`use` has another place in the order now; None: it is not wanted any more (`forget`)."""
        if position is None:
            self.forget(use)
        elif use.waiting and position != use.position:
            use.position = position
            self._note_position(use)
            self._push(self._device_end(use))

    def promise(self, use: Use) -> None:
        """`use` was admitted: its tokens are being computed. Who waits for the same tokens sees it by `outlook`."""
        if use.waiting:
            use.waiting, use.promised = False, True
            self._add_readers(use, -1)
            for item in self._path(use.node):
                item.promised += 1
            self._push(self._device_end(use))

    def forget(self, use: Use) -> None:
        """`use` is over: cancelled, preempted, or its tokens are computed. Calling it again does nothing."""
        if not (use.waiting or use.promised):
            return
        device_end = self._device_end(use)
        if use.waiting:
            self._add_readers(use, -1)
        else:
            for item in self._path(use.node):
                item.promised -= 1
        use.waiting = use.promised = False
        self._push(device_end)
        self._drop_if_empty(use.node)

    def cached_length(self, use: Use) -> int:
        """`outlook(use).cached`, for callers that ask for many uses at every step."""
        node = use.node
        while node.pages is None:
            assert node.parent is not None
            node = node.parent
        return node.end

    def outlook(self, use: Use) -> Outlook:
        """What is cached, saved and promised of `use`; O(nodes on its path)."""
        missing: list[Node] = []
        node = use.node
        while node.pages is None and node.parent is not None:
            missing.append(node)
            node = node.parent
        cached = host = promised = node.end
        for item in reversed(missing):
            if item.slots is None or host != item.start:
                break
            host = item.end
        for item in reversed(missing):
            if not item.promised - use.promised:
                break
            promised = item.end
        return Outlook(cached, host, promised)

    def _add_readers(self, use: Use, change: int) -> None:
        for item in self._path(use.node):
            wanted = bool(item.readers)
            item.readers += change
            if wanted != bool(item.readers) and item.pages and not item.locks:
                self._wanted_pages += len(item.pages) * change

    def _note_position(self, use: Use) -> None:
        for item in self._path(use.node):
            if item.parent is not None:
                if len(item.reader_heap) > 2 * item.readers + 8:
                    item.reader_heap = [entry for entry in item.reader_heap if entry[2].reads_at(entry[0])]
                    heapq.heapify(item.reader_heap)
                heapq.heappush(item.reader_heap, (use.position, use.serial, use))

    @staticmethod
    def _device_end(use: Use) -> Node:
        node = use.node
        while node.pages is None and node.parent is not None:
            node = node.parent
        return node

    @staticmethod
    def _path(node: Node) -> Iterator[Node]:
        item: Node | None = node
        while item is not None:
            yield item
            item = item.parent

    # ------------------------------------------------------------------------------------------------------- host tier

    def restore(self, tokens: TokenIds, length: int, pages: Sequence[int], namespace: str = "") -> Handle:
        """Bring `tokens[:length]` back from the host into `pages`, which the tree takes over.

        `length`: whole pages, at most `Match.host_length`; `pages`: as many as lie on the host of these. What is on
        the device already must be locked. The handle returned ends at `length`, and is to be locked at once.
        Raises `StaleHandle` if it has left the host since the match: getting `pages` by `alloc` may evict others
        to the host, which then gives up what was used longest ago.
        """
        if self.host is None:
            raise ValueError("there is no host tier")
        key = pack(tokens)[: length * WORD]
        node, depth, _ = self._descend(self._roots.get(namespace, _detached_root()), key)
        at = 0
        while depth < length:
            child = node.children.get(key[depth * WORD : depth * WORD + self._page_bytes])
            if child is None or child.slots is None:
                raise StaleHandle(
                    f"only {depth} of {length} tokens are on the device and the host: match again"
                )
            depth += self._whole(child, key, depth, length)
            node = self._split(child, depth) if depth < child.end else child
            assert node.slots is not None
            given = pages[at : at + len(node.slots)]
            self.host.mover.copy_in(node.slots, given)
            self._stats.host_restored_pages += len(given)
            self._become_device(node, given)
            at += len(given)
        if at != len(pages):
            raise ValueError(f"{at} pages lie on the host, got {len(pages)}")
        self._push(node)
        return Handle(node, length)

    def _host_length(self, node: Node, depth: int, key: bytes) -> int:
        end = len(key) // self._page_bytes * self.page_size
        while depth == node.end and depth < end:
            child = node.children.get(key[depth * WORD : depth * WORD + self._page_bytes])
            if child is None or child.slots is None:
                break
            depth += self._whole(child, key, depth, end)
            node = child
        return depth

    def _save_to_host(self, leaf: Node, pages: list[int], host: HostTier) -> None:
        """Copy a leaf that is about to be evicted, making room by giving up host leaves used longer ago."""
        parent = leaf.parent
        assert parent is not None
        while host.free < len(pages) and (old := host.pop()) is not None:
            self._forget_host_copy(old)
        slots = host.save(pages)
        if slots is not None:
            leaf.slots = slots
            parent.host_children += 1
            self._stats.host_saved_pages += len(slots)
            host.push(leaf)

    def _forget_host_copy(self, node: Node) -> None:
        assert node.slots is not None
        self._stats.host_evicted_pages += len(node.slots)
        parent = node.parent
        self._drop_host_copy(node)
        self._drop_if_empty(node)
        if self.host is not None and parent is not None:
            self.host.push(parent)

    def _drop_host_copy(self, node: Node) -> None:
        if node.slots is not None:
            assert self.host is not None
            assert node.parent is not None
            self.host.release(node.slots)
            node.slots = None
            node.parent.host_children -= 1

    # ----------------------------------------------------------------------------------------------------------- roots

    def _root(self, namespace: str) -> Node:
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = _detached_root()
            root.key = namespace.encode()
        return root

    def _drop_root(self, node: Node) -> None:
        """Forget the namespace of a root that nothing hangs on, so that tenants who left take no memory."""
        if node.parent is None and not (node.children or node.locks or node.readers or node.promised):
            name = node.key.decode()
            if self._roots.get(name) is node:
                del self._roots[name]

    # ------------------------------------------------------------------------------------------------------ statistics

    def count(self, queried: int, hit: int, namespace: str = "") -> None:
        """Note that a sequence of `queried` known tokens was admitted and `hit` of them were cached."""
        by_name = self._stats.namespaces
        if namespace not in by_name and len(by_name) >= _MAX_NAMESPACE_STATS:
            del by_name[next(iter(by_name))]
        for item in (self._stats, by_name.setdefault(namespace, NamespaceStats())):
            item.queries += 1
            item.query_tokens += queried
            item.hit_tokens += hit

    def stats(self) -> CacheStats:
        """The counts so far and the state now, as a copy."""
        now = CacheStats(**{name: getattr(self._stats, name) for name in CacheStats.__dataclass_fields__})
        now.namespaces = {name: NamespaceStats(**vars(item)) for name, item in self._stats.namespaces.items()}
        now.cached_pages = self.pool.cached
        now.locked_pages = self._locked_pages
        now.host_pages = 0 if self.host is None else self.host.used
        return now

    @property
    def roots(self) -> dict[str, Node]:
        """The roots by namespace, for `sgl_runtime.cache.inspect`; not to be changed."""
        return self._roots


def _detached_root() -> Node:
    root = Node(None, 0, b"", 0)
    root.pages = []
    return root
