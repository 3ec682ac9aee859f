"""The cache against a naive model: pages that know which tokens they hold, and every question answered by looking at
all of them. Random actions, all accounting checked after each."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sgl_runtime.cache import HostTier, PagePool, RadixCache, Use, check
from sgl_runtime.cache.node import Node

PAGES = 24
Tokens = tuple[int, ...]
Content = tuple[str, Tokens]  # namespace and all tokens up to the last one that the page holds

tokens_strategy = st.lists(st.integers(0, 2), max_size=22).map(tuple)
namespaces = st.sampled_from(["", "other"])
numbers = st.integers(0, 10**6)


class Memory:
    """The KV of pages and host slots, as contents; a `KVMover`."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.pages: list[Content | None] = [None] * PAGES
        self.slots: list[Content | None] = [None] * num_slots

    def copy_out(self, pages, slots) -> None:
        for page, slot in zip(pages, slots, strict=True):
            self.slots[slot] = self.pages[page]

    def copy_in(self, slots, pages) -> None:
        for slot, page in zip(slots, pages, strict=True):
            self.pages[page] = self.slots[slot]


def shared(left: Tokens, right: Tokens) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


class CacheMachine(RuleBasedStateMachine):
    size = 4
    slots = 0

    @initialize()
    def begin(self) -> None:
        self.memory = Memory(self.slots)
        self.pool = PagePool(PAGES, self.size)
        self.cache = RadixCache(self.pool, host=HostTier(self.memory) if self.slots else None)
        self.locked: list[tuple[str, Tokens, object]] = []
        self.leased: list[tuple[str, Tokens, object, float]] = []
        self.uses: list[tuple[str, Tokens, Use]] = []
        self.order = 0
        self.clock = 0.0

    # ------------------------------------------------------------------------------------------------ the naive answers

    def cached(self, namespace: str) -> list[Tokens]:
        """What the cached pages of a namespace hold, each with all that comes before it."""
        contents = (self.memory.pages[page] for page in range(PAGES) if self.pool.state(page) == "cached")
        return [content[1] for content in contents if content is not None and content[0] == namespace]

    def naive_length(self, namespace: str, wanted: Tokens) -> int:
        held, depth = set(self.cached(namespace)), 0
        while depth + self.size <= len(wanted) and wanted[: depth + self.size] in held:
            depth += self.size
        ends = [
            tokens
            for tokens in held
            if depth < len(tokens) <= depth + self.size and tokens[:depth] == wanted[:depth]
        ]
        return max([depth, *(shared(tokens, wanted) for tokens in ends)])

    def write(self, pages: list[int], namespace: str, tokens: Tokens, start: int = 0) -> None:
        """What a forward step does."""
        for at, page in enumerate(pages, start // self.size):
            assert self.pool.state(page) == "held", "only held pages are written"
            self.memory.pages[page] = (namespace, tokens[: (at + 1) * self.size])

    # ------------------------------------------------------------------------------------------------------------ rules

    @rule(namespace=namespaces, tokens=tokens_strategy)
    def compute_all(self, namespace: str, tokens: Tokens) -> None:
        """A sequence that found nothing and computed all of its tokens."""
        pages = self.cache.alloc(-(-len(tokens) // self.size))
        if pages is None:
            return
        self.write(pages, namespace, tokens)
        before = self.naive_length(namespace, tokens)
        result = self.cache.insert(tokens, pages, namespace)
        assert set(result.duplicates) <= set(pages)
        assert result.cached in (before, before // self.size * self.size)
        self.pool.release(result.duplicates)
        assert self.cache.match(tokens, namespace).length == len(tokens)

    @rule(namespace=namespaces, tokens=tokens_strategy, keep=st.booleans())
    def go_on_from_match(self, namespace: str, tokens: Tokens, keep: bool) -> None:
        """A sequence that uses what is cached, copies a partial page, computes the rest, and ends or stays locked."""
        match = self.cache.match(tokens, namespace)
        self.cache.lock(match.handle)
        whole = match.length // self.size
        own = self.cache.alloc(-(-len(tokens) // self.size) - whole)
        if own is None:
            self.cache.unlock(match.handle)
            return
        self.write(own, namespace, tokens, whole * self.size)
        result = self.cache.insert(tokens, [*match.pages[:whole], *own], namespace)
        assert set(result.duplicates) <= set(own)
        self.pool.release(result.duplicates)
        if keep:
            self.cache.lock(result.handle)
            self.locked.append((namespace, tokens, result.handle))
        self.cache.unlock(match.handle)

    @rule(namespace=namespaces, tokens=tokens_strategy)
    def look(self, namespace: str, tokens: Tokens) -> None:
        match = self.cache.match(tokens, namespace)
        assert match.length == self.naive_length(namespace, tokens)
        assert len(match.pages) == -(-match.length // self.size)
        for at, page in enumerate(match.pages):
            end = min((at + 1) * self.size, match.length)
            content = self.memory.pages[page]
            assert self.pool.state(page) == "cached"
            assert content is not None
            assert content[0] == namespace
            assert content[1][:end] == tokens[:end]

    @rule(namespace=namespaces, tokens=tokens_strategy)
    def lock(self, namespace: str, tokens: Tokens) -> None:
        match = self.cache.match(tokens, namespace)
        self.cache.lock(match.handle)
        self.locked.append((namespace, tokens[: match.length], match.handle))

    @precondition(lambda self: self.locked)
    @rule(number=numbers)
    def unlock(self, number: int) -> None:
        self.cache.unlock(self.locked.pop(number % len(self.locked))[2])

    @precondition(lambda self: self.locked)
    @rule(number=numbers, wait=st.integers(0, 3))
    def lease(self, number: int, wait: int) -> None:
        namespace, tokens, handle = self.locked.pop(number % len(self.locked))
        self.cache.lease(handle, self.clock + wait)
        self.cache.unlock(handle)
        self.leased = [item for item in self.leased if item[2] is not handle]
        self.leased.append((namespace, tokens, handle, self.clock + wait))

    @rule(seconds=st.integers(0, 2))
    def time_goes_by(self, seconds: int) -> None:
        self.clock += seconds
        over = [item for item in self.leased if item[3] <= self.clock]
        assert self.cache.expire(self.clock) == len(over)
        self.leased = [item for item in self.leased if item[3] > self.clock]

    @precondition(lambda self: self.leased)
    @rule(number=numbers)
    def end_lease(self, number: int) -> None:
        assert self.cache.end_lease(self.leased.pop(number % len(self.leased))[2])

    @rule(namespace=namespaces, tokens=tokens_strategy, position=st.integers(0, 9))
    def expect(self, namespace: str, tokens: Tokens, position: int) -> None:
        self.uses.append((namespace, tokens, self.cache.expect(tokens, namespace, position)))

    @precondition(lambda self: self.uses)
    @rule(number=numbers, action=st.sampled_from(["move", "promise", "forget"]), position=st.integers(0, 9))
    def change_use(self, number: int, action: str, position: int) -> None:
        at = number % len(self.uses)
        use = self.uses[at][2]
        if action == "move":
            self.cache.set_next_use(use, position)
        elif action == "promise":
            self.cache.promise(use)
        else:
            self.cache.forget(use)
            del self.uses[at]

    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        possible = self.cache.evictable_pages
        assert self.cache.evict(count) == min(count, possible)

    @rule()
    def evict_one_and_it_is_the_right_one(self) -> None:
        best = min(self.naive_leaves(), default=None)
        freed = {page for page in range(PAGES) if self.pool.state(page) == "cached"}
        self.cache.evict(1)
        freed -= {page for page in range(PAGES) if self.pool.state(page) == "cached"}
        if best is None:
            assert not freed
        else:
            same = [leaf[-1] for leaf in self.naive_before if leaf[:-1] == best[:-1]]
            assert len(freed) == 1
            assert freed <= set(same)

    def naive_leaves(self) -> list[tuple[float, float, int, int]]:
        """(known?, -next use, last use, page to go) of all that may be evicted, by a walk over the tree."""
        found = []
        for namespace, root in self.cache.roots.items():
            for node, path in walk(root, ()):
                if node.parent is None or node.pages is None or node.locks or node.device_children:
                    continue
                positions = [
                    use.position
                    for name, tokens, use in self.uses
                    if name == namespace and use.waiting and self.reads(tokens, path)
                ]
                known = -min(positions) if positions else 0.0
                found.append((float(bool(positions)), known, node.tick, node.pages[-1]))
        self.naive_before = found
        return found

    def evictable_leaves_are_listed(self) -> bool:
        """Every leaf that may be evicted has an entry in the heap."""
        leaves = self.cache._leaves
        listed = {(entry[-1], entry[0]) for entry in leaves._idle} | {
            (entry[-1], entry[1]) for entry in leaves._known
        }
        return all((node, node.tick) in listed for node in self.unlocked_leaves())

    def unlocked_leaves(self):
        for root in self.cache.roots.values():
            for node, _ in walk(root, ()):
                if node.parent is not None and node.is_leaf and not node.locks:
                    yield node

    def reads(self, tokens: Tokens, path: Tokens) -> bool:
        """Whole pages only."""
        whole = tokens[: len(tokens) // self.size * self.size]
        return len(path) % self.size == 0 and whole[: len(path)] == path

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        assert self.pool.cached == self.cache.stats().locked_pages
        assert self.cache.stats().host_pages == 0

    @precondition(lambda self: self.slots)
    @rule(namespace=namespaces, tokens=tokens_strategy)
    def bring_back(self, namespace: str, tokens: Tokens) -> None:
        match = self.cache.match(tokens, namespace)
        start = match.length // self.size * self.size
        if match.host_length <= start:
            return
        self.cache.lock(match.handle)
        pages = self.pool.alloc((match.host_length - start) // self.size)
        if pages is not None:
            handle = self.cache.restore(tokens, match.host_length, pages, namespace)
            assert self.cache.match(tokens, namespace).length >= match.host_length
            self.cache.lock(handle)
            self.cache.unlock(handle)
        self.cache.unlock(match.handle)

    # ------------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def all_accounts_agree(self) -> None:
        if not hasattr(self, "cache"):
            return
        check(self.cache)
        assert self.pool.held == 0
        assert self.evictable_leaves_are_listed()

    @invariant()
    def what_is_locked_is_there(self) -> None:
        if not hasattr(self, "cache"):
            return
        for namespace, tokens, *_ in [*self.locked, *self.leased]:
            assert self.cache.match(tokens, namespace).length == len(tokens)

    @invariant()
    def outlooks_are_right(self) -> None:
        if not hasattr(self, "cache"):
            return
        for namespace, tokens, use in self.uses:
            whole = tokens[: len(tokens) // self.size * self.size]
            cached = self.naive_length(namespace, whole) // self.size * self.size
            promises = [
                shared(other[: len(other) // self.size * self.size], whole) // self.size * self.size
                for name, other, item in self.uses
                if name == namespace and item.promised and item is not use
            ]
            outlook = self.cache.outlook(use)
            assert outlook.cached == cached
            assert outlook.promised == max([cached, *promises])

    def teardown(self) -> None:
        for _, _, handle in self.locked:
            self.cache.unlock(handle)
        self.cache.expire(float("inf"))
        for _, _, use in self.uses:
            self.cache.forget(use)
        self.cache.flush()
        check(self.cache)
        assert self.pool.free == PAGES
        assert self.cache.roots == {}


def walk(node: Node, path: Tokens):
    at = (
        tuple(int.from_bytes(node.key[i : i + 4], "big") for i in range(0, len(node.key), 4))
        if node.parent
        else ()
    )
    yield node, path + at
    for child in node.children.values():
        yield from walk(child, path + at)


@pytest.mark.parametrize(
    ("size", "slots"), [(1, 0), (2, 0), (3, 0), (4, 0), (16, 0), (64, 0), (1, 6), (2, 6), (3, 20), (4, 3)]
)
def test_cache_against_the_model(size: int, slots: int) -> None:
    machine = type(f"Machine{size}x{slots}", (CacheMachine,), {"size": size, "slots": slots})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None, print_blob=True)
    )
