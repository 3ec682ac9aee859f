"""Looking at a radix tree as a whole: drawn as text, and checked. For tests and debugging; both walk the tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from sgl_runtime.cache.node import WORD, Node
from sgl_runtime.cache.radix import RadixCache

__all__ = ["check", "render"]


def render(cache: RadixCache, namespace: str = "") -> str:
    """One line per node, children indented and in the order of their tokens.

    ``1 2 3 4 @0,1`` are tokens and pages; ``host`` and ``ghost`` nodes have no pages. Then, where there are some:
    ``locks=``, ``next=`` (next use), ``promised=``.
    """
    root = cache.roots.get(namespace)
    return "" if root is None else "\n".join(_lines(root, -1))


def _lines(node: Node, depth: int) -> Iterator[str]:
    if node.parent is not None:
        tokens = " ".join(str(token) for token in np.frombuffer(node.key, dtype=">u4"))
        yield "  " * depth + f"{tokens} {_state(node)}{_marks(node)}"
    for _, child in sorted(node.children.items()):
        yield from _lines(child, depth + 1)


def _state(node: Node) -> str:
    if node.pages is not None:
        return "@" + ",".join(map(str, node.pages))
    return "host" if node.slots is not None else "ghost"


def _marks(node: Node) -> str:
    marks = f" locks={node.locks}" if node.locks else ""
    position = node.next_use()
    marks += "" if position is None else f" next={position:g}"
    return marks + (f" promised={node.promised}" if node.promised else "")


def check(cache: RadixCache) -> None:
    """Assert everything that must hold of the tree, its pool and its counters."""
    cache.pool.check()
    pages: Counter[int] = Counter()
    slots: Counter[int] = Counter()
    nodes = locked = wanted = tokens = 0
    for root in cache.roots.values():
        for node in _walk(root):
            _check_node(node, cache.page_size)
            pages.update(node.pages or ())
            slots.update(node.slots or ())
            nodes += node.parent is not None
            if node.pages is not None:
                locked += len(node.pages) if node.locks else 0
                wanted += len(node.pages) if node.readers and not node.locks else 0
                tokens += node.end - node.start
    stats = cache.stats()
    assert cache.idle_pages == len(pages) - locked - wanted, "the count of idle pages is off"
    assert all(count == 1 for count in pages.values()), "a page is in the tree twice"
    assert all(count == 1 for count in slots.values()), "a host slot is in the tree twice"
    assert all(cache.pool.state(page) == "cached" for page in pages)
    found = (len(pages), locked, tokens, nodes, len(slots))
    counted = (stats.cached_pages, stats.locked_pages, stats.cached_tokens, stats.nodes, stats.host_pages)
    assert found == counted, (
        f"found {found}, counted {counted}: pages, locked pages, tokens, nodes, host slots"
    )


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from _walk(child)


def _check_node(node: Node, size: int) -> None:
    children = list(node.children.values())
    length = node.end - node.start
    for name, child in node.children.items():
        assert child.parent is node, "a child does not know its parent"
        assert child.start == node.end, "a child does not start where its parent ends"
        assert name == child.key[: size * WORD], "a child goes by a wrong name"
    on_device = {name for name, child in node.children.items() if child.pages is not None}
    assert node.device_children == len(on_device)
    assert node.host_children == sum(child.slots is not None for child in children)
    if size > 1:
        assert node.order == sorted(on_device), "the order of children is off"
    if node.parent is None:
        return
    assert length * WORD == len(node.key) > 0
    assert length % size == 0 or (length < size and not children and node.pages is not None), "a torn page"
    assert node.locks >= sum(child.locks for child in children), "a lock does not cover its path"
    assert node.readers >= sum(child.readers for child in children), "a reader does not cover its path"
    assert node.pages is None or node.slots is None, "a node is in two places"
    if node.pages is not None:
        assert len(node.pages) == -(-length // size), "a node has too many or too few pages"
        assert node.parent.pages is not None, "a device node hangs below one that is not"
    else:
        assert not node.locks, "a lock holds what is not there"
        assert not on_device, "a device node hangs below one that is not"
        assert node.slots is not None or node.readers or node.promised or children, "a node without a reason"
