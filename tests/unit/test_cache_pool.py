"""Accounting of pages: free + cached + held == total, whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_runtime.cache import PagePool


def test_all_or_nothing() -> None:
    pool = PagePool(4, 16)
    first = pool.alloc(3)
    assert first == [0, 1, 2]
    assert pool.alloc(2) is None
    assert (pool.free, pool.cached, pool.held) == (1, 0, 3)
    assert pool.alloc(0) == []
    assert pool.alloc(1) == [3]


def test_a_shared_page_is_free_with_its_last_reference() -> None:
    pool = PagePool(2, 16)
    pages = pool.alloc(1)
    assert pages is not None
    pool.share(pages)
    pool.release(pages)
    assert pool.free == 1
    pool.release(pages)
    assert pool.free == 2


def test_a_disowned_page_waits_for_its_references() -> None:
    pool = PagePool(1, 16)
    pages = pool.alloc(1)
    assert pages is not None
    pool.adopt(pages)
    pool.share(pages)
    assert pool.disown(pages) == 0
    assert (pool.free, pool.cached, pool.held) == (0, 0, 1)
    pool.release(pages)
    assert pool.free == 1


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda pool: pool.release([1]), "page 1 is free: nobody holds"),
        (lambda pool: pool.share([1]), "page 1 is free and cannot be shared"),
        (lambda pool: pool.adopt([1]), "page 1 cannot be cached: it is free"),
        (lambda pool: pool.disown([0]), "page 0 is not cached: it is held"),
        (lambda pool: (pool.adopt([0]), pool.adopt([0])), "page 0 cannot be cached: it is cached"),
        (lambda pool: (pool.release([0]), pool.release([0])), "page 0 is free: nobody holds"),
        (lambda pool: (pool.adopt([0]), pool.release([0])), "page 0 is cached: nobody holds"),
    ],
)
def test_misuse_is_an_error(action, message: str) -> None:
    pool = PagePool(2, 16)
    assert pool.alloc(1) == [0]
    with pytest.raises(ValueError, match=message):
        action(pool)
    pool.check()


def test_a_pool_needs_pages() -> None:
    with pytest.raises(ValueError, match="0 x 16"):
        PagePool(0, 16)


@given(
    st.lists(st.tuples(st.sampled_from(["alloc", "share", "release", "adopt", "disown"]), st.integers(0, 7)))
)
def test_against_a_dict_of_counts(actions: list[tuple[str, int]]) -> None:
    pool, references, tree = PagePool(8, 1), dict.fromkeys(range(8), 0), set()
    for action, number in actions:
        if action == "alloc":
            idle = [page for page in range(8) if not references[page] and page not in tree]
            pages = pool.alloc(number)
            assert (pages is None) == (number > len(idle))
            assert set(pages or ()) <= set(idle)
            references.update(dict.fromkeys(pages or (), 1))
        elif action == "share" and (references[number] or number in tree):
            pool.share([number])
            references[number] += 1
        elif action == "release" and references[number]:
            pool.release([number])
            references[number] -= 1
        elif action == "adopt" and references[number] and number not in tree:
            pool.adopt([number])
            references[number] -= 1
            tree.add(number)
        elif action == "disown" and number in tree:
            assert pool.disown([number]) == (not references[number])
            tree.discard(number)
        pool.check()
        assert pool.cached == len(tree)
        assert pool.held == sum(count > 0 and page not in tree for page, count in references.items())
