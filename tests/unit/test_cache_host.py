"""The host tier with a real KV tensor: what comes back is what went."""

import pytest
import torch

from sgl_runtime.cache import HostTier, PagePool, RadixCache, TensorMover, check

LAYERS, PAGES, SIZE, HEADS, DIM = 2, 6, 4, 2, 3
PAGE_BYTES = LAYERS * 2 * SIZE * HEADS * DIM * 4


def make(slots: int) -> tuple[RadixCache, torch.Tensor]:
    kv = torch.zeros(LAYERS, 2, PAGES, SIZE, HEADS, DIM)
    mover = TensorMover(kv, slots * PAGE_BYTES + PAGE_BYTES // 2)
    assert mover.num_slots == slots
    return RadixCache(PagePool(PAGES, SIZE), host=HostTier(mover)), kv


def compute(cache: RadixCache, kv: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Fill pages with random KV, insert them, and return that KV in the order of the tokens."""
    pages = cache.alloc(len(tokens) // SIZE)
    assert pages is not None
    kv[:, :, pages] = torch.rand(LAYERS, 2, len(pages), SIZE, HEADS, DIM)
    cache.pool.release(cache.insert(tokens, pages).duplicates)
    return kv[:, :, pages].clone()


def test_evicted_kv_comes_back_bit_by_bit() -> None:
    cache, kv = make(slots=10)
    first = list(range(16))
    written = compute(cache, kv, first)
    compute(cache, kv, list(range(100, 124)))  # takes all six pages
    found = cache.match(first)
    assert (found.length, found.host_length) == (0, 16)
    pages = cache.alloc(4)
    assert pages is not None
    kv[:, :, pages] = -1.0
    cache.lock(cache.restore(first, 16, pages))
    assert torch.equal(kv[:, :, list(cache.match(first).pages)], written)
    check(cache)
    assert cache.stats().host_restored_pages == 4


def test_host_memory_is_bounded() -> None:
    cache, kv = make(slots=2)
    for start in range(0, 100, 10):
        compute(cache, kv, [start + i for i in range(8)])
        check(cache)
    assert cache.stats().host_pages == 2
    assert cache.stats().host_evicted_pages == cache.stats().host_saved_pages - 2


def test_a_leaf_longer_than_the_host_keeps_its_beginning() -> None:
    cache, kv = make(slots=2)
    tokens = list(range(24))
    compute(cache, kv, tokens)
    cache.evict(6)
    check(cache)
    assert cache.match(tokens).host_length == 8


def test_memory_for_less_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match=f"hold no page of {PAGE_BYTES} bytes"):
        make(slots=0)
