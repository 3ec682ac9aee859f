"""The radix tree, in small readable trees. Pages of 4 tokens unless a test says otherwise."""

from itertools import count

import numpy as np
import pytest

from sgl_runtime.cache import HostTier, Match, PagePool, RadixCache, StaleHandle, check, pack, render


def make(pages: int = 64, size: int = 4, **options) -> RadixCache:
    return RadixCache(PagePool(pages, size), **options)


def tokens(text: str) -> list[int]:
    """ "ab" -> [97, 98]: one letter a token."""
    return [ord(letter) for letter in text]


def insert(cache: RadixCache, text: str, namespace: str = ""):
    """What a sequence does that computed everything itself and ends: insert all, free the duplicates."""
    pages = cache.alloc(-(-len(text) // cache.page_size))
    assert pages is not None
    result = cache.insert(tokens(text), pages, namespace)
    cache.pool.release(result.duplicates)
    return result


def match(cache: RadixCache, text: str, namespace: str = "") -> Match:
    return cache.match(tokens(text), namespace)


def tree(cache: RadixCache, namespace: str = "") -> str:
    """The tree with letters for tokens and without page ids: ``abcd\n  efgh``."""
    lines = []
    for line in render(cache, namespace).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        words = line.split()
        letters = "".join(chr(int(word)) for word in words if word.isdigit())
        marks = [word for word in words if not word.isdigit() and not word.startswith("@")]
        lines.append(indent + " ".join([letters, *marks]))
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------- match and insert


@pytest.mark.parametrize(
    ("inserted", "drawn"),
    [
        (["abcdefgh"], "abcdefgh"),
        (["abcdefgh", "abcdefgh"], "abcdefgh"),
        (["abcdefgh", "abcdxxxx"], "abcd\n  efgh\n  xxxx"),
        (["abcdefgh", "abxxefgh"], "abcdefgh\nabxxefgh"),
        (["abcd", "abcdefgh"], "abcdefgh"),  # a leaf that nobody refers to grows
        (["abcdefgh", "abcd"], "abcdefgh"),
        (["abcdef"], "abcd\n  ef"),  # a partial page is a leaf of its own
        (["abcdef", "abcdefgh"], "abcd\n  ef\n  efgh"),
        (["abcdefgh", "abcdef"], "abcdefgh"),  # covered
        (["abcdef", "abcdeg"], "abcd\n  ef\n  eg"),
        (["ab", "cd"], "ab\ncd"),
    ],
)
def test_insert(inserted: list[str], drawn: str) -> None:
    cache = make()
    for text in inserted:
        insert(cache, text)
        check(cache)
    assert tree(cache) == drawn
    assert cache.pool.held == 0


@pytest.mark.parametrize(
    ("wanted", "length"),
    [
        ("", 0),
        ("x", 0),
        ("a", 1),
        ("abcd", 4),
        ("abcdef", 6),
        ("abcdefghi", 9),
        ("abcdefghij", 9),
        ("abcdefxx", 6),  # ends inside a page, inside an edge
        ("abcdxxxx", 6),  # the neighbour "xxyy" shares most
        ("abcdxyyy", 5),
        ("abxxxxxx", 2),
    ],
)
def test_match_to_the_token(wanted: str, length: int) -> None:
    cache = make()
    for text in ["abcdefghi", "abcdxxyy"]:
        insert(cache, text)
    before = render(cache)
    found = match(cache, wanted)
    assert found.length == length
    assert len(found.pages) == -(-length // 4)
    assert render(cache) == before


def test_pages_of_a_match_are_those_inserted() -> None:
    cache = make()
    insert(cache, "abcdefgh")
    insert(cache, "abcdxxxxyy")
    assert match(cache, "abcdefgh").pages == (0, 1)
    assert match(cache, "abcdxxxxyz").pages == (0, 3, 4)
    assert match(cache, "abcdex").pages == (0, 1)


@pytest.mark.parametrize("form", [list, tuple, np.array, pack])
def test_forms_of_tokens(form) -> None:
    cache = make()
    insert(cache, "abcdef")
    assert cache.match(form(tokens("abcdex"))).length == 5


def test_tokens_sort_as_numbers() -> None:
    """Bytes of 1, 255, 256 and 65536 must sort like the numbers, or the nearest page is not the neighbour."""
    cache = make()
    for first in (1, 255, 256, 65536, 2**31 + 5):
        cache.insert([first, 7, 7, 7], cache.alloc(1) or [])
        cache.insert([first, 9, 9, 9], cache.alloc(1) or [])
    for first in (1, 255, 256, 65536, 2**31 + 5):
        assert cache.match([first, 7, 7, 8]).length == 3
        assert cache.match([first, 9, 8, 8]).length == 2


def test_duplicates_stay_with_the_caller() -> None:
    cache = make()
    mine, theirs = cache.pool.alloc(3), cache.pool.alloc(3)
    assert mine is not None
    assert theirs is not None
    cache.insert(tokens("abcdefghij"), theirs)
    result = cache.insert(tokens("abcdefghij"), mine)
    assert result.duplicates == tuple(mine)
    assert result.cached == 10
    again = cache.insert(tokens("abcdefghij"), theirs)
    assert again.duplicates == ()
    cache.pool.release(mine)
    assert cache.pool.held == 0


def test_half_of_the_pages_are_duplicates() -> None:
    cache = make()
    insert(cache, "abcdefgh")
    pages = cache.pool.alloc(3)
    assert pages is not None
    result = cache.insert(tokens("abcdefxxyyyy"), pages)
    assert result.duplicates == (pages[0],)
    assert result.cached == 4
    assert match(cache, "abcdefxxyyyy").pages == (0, *pages[1:])


def test_pages_and_tokens_must_agree() -> None:
    with pytest.raises(ValueError, match="5 tokens lie in 2 pages of 4, got 1"):
        make().insert(tokens("abcde"), [0])


def test_namespaces_do_not_see_each_other() -> None:
    cache = make()
    insert(cache, "abcdefgh", "one")
    assert match(cache, "abcdefgh", "two").length == 0
    assert match(cache, "abcdefgh").length == 0
    insert(cache, "abcdefgh", "two")
    assert match(cache, "abcdefgh", "one").pages != match(cache, "abcdefgh", "two").pages
    cache.flush()
    assert cache.roots == {}


@pytest.mark.parametrize("size", [1, 2, 3, 16, 64])
def test_all_page_sizes(size: int) -> None:
    cache = make(70, size)
    text = "".join(chr(200 + i) for i in range(70))
    insert(cache, text)
    for length in range(71):
        assert match(cache, text[:length] + "x").length == length
    check(cache)


# ------------------------------------------------------------------------------------------------------------ locking


def test_what_is_locked_stays() -> None:
    cache = make()
    insert(cache, "abcdefghijkl")
    handle = match(cache, "abcdefxx").handle
    cache.lock(handle)
    assert (
        tree(cache) == "abcdefgh locks=1\n  ijkl"
    )  # the page that holds "ef" is needed, the one after it is not
    assert cache.evictable_pages == 1
    assert cache.evict(99) == 1
    cache.lock(handle)
    cache.unlock(handle)
    assert cache.flush() == 0
    cache.unlock(handle)
    assert cache.flush() == 2
    assert cache.pool.free == cache.pool.total


def test_unlocking_twice_is_an_error() -> None:
    cache = make()
    handle = insert(cache, "abcd").handle
    cache.lock(handle)
    cache.unlock(handle)
    with pytest.raises(ValueError, match="not locked"):
        cache.unlock(handle)


def test_a_handle_that_was_evicted_is_stale() -> None:
    cache = make()
    insert(cache, "abcdefgh")
    handle = match(cache, "abcdefgh").handle
    cache.evict(1)
    with pytest.raises(StaleHandle, match="8 tokens"):
        cache.lock(handle)


def test_handles_survive_splits() -> None:
    cache = make()
    insert(cache, "abcdefghijkl")
    early, late = match(cache, "abcdefgh").handle, match(cache, "abcdefghijkl").handle
    insert(cache, "abcdxxxx")
    cache.lock(early)
    assert tree(cache) == "abcd locks=1\n  efgh locks=1\n    ijkl\n  xxxx"
    cache.lock(late)
    insert(cache, "abcdefghyyyy")
    cache.unlock(early)
    assert tree(cache) == "abcd locks=1\n  efgh locks=1\n    ijkl locks=1\n    yyyy\n  xxxx"
    check(cache)


def test_the_empty_match_can_be_locked() -> None:
    cache = make()
    handle = match(cache, "abcd").handle
    cache.lock(handle)
    cache.unlock(handle)
    assert cache.roots == {}


# ----------------------------------------------------------------------------------------------------------- evicting


def test_least_recently_used_leaves_go_first_and_from_their_ends() -> None:
    cache = make()
    for text in ["abcdefgh", "abcdxxxx", "mnopqrst"]:
        insert(cache, text)
    handle = match(cache, "abcdefgh").handle
    cache.lock(handle)
    cache.unlock(handle)
    for drawn in ["abcd\n  efgh\nmnopqrst", "abcd\n  efgh\nmnop", "abcd\n  efgh", "abcd", ""]:
        assert cache.evict(1) == 1
        assert tree(cache) == drawn
        check(cache)
    assert cache.evict(1) == 0


def test_a_partial_page_that_is_covered_goes_first() -> None:
    cache = make()
    insert(cache, "zzzz")
    insert(cache, "abcdef")
    insert(cache, "abcdefgh")
    cache.evict(1)
    assert tree(cache) == "abcd\n  efgh\nzzzz"


def test_alloc_evicts_what_it_takes_and_no_more() -> None:
    cache = make(4)
    insert(cache, "abcdefghijkl")
    assert len(cache.alloc(2) or []) == 2
    assert tree(cache) == "abcdefgh"
    assert cache.alloc(3) is None
    assert tree(cache) == "abcdefgh"


def test_a_leaf_that_an_insert_splits_can_be_evicted() -> None:
    cache = make()
    insert(cache, "abcdefgh")
    insert(cache, "abcdex")
    assert cache.flush() == 3
    assert cache.pool.free == cache.pool.total


def test_shared_pages_do_not_become_free() -> None:
    cache = make(2)
    insert(cache, "abcdefgh")
    cache.pool.share([1])
    assert cache.evict(1) == 1  # page 1 is evicted but not free, so page 0 has to go as well
    assert (cache.pool.free, cache.pool.held) == (1, 1)


def test_stale_entries_do_not_pile_up() -> None:
    cache = make()
    insert(cache, "abcd")
    for _ in range(1000):
        handle = match(cache, "abcd").handle
        cache.lock(handle)
        cache.unlock(handle)
    assert len(cache._leaves) < 100


# ---------------------------------------------------------------------------------------------------------- next uses


def test_known_next_uses_outlive_recent_pages_farthest_first() -> None:
    cache = make()
    for text in ["aaaabbbb", "cccc", "dddd", "eeee"]:
        insert(cache, text)
    cache.expect(tokens("aaaaxxxx"), position=7)
    near = cache.expect(tokens("ccccyyyy"), position=3)
    far = cache.expect(tokens("dddd"), position=9)
    kept = []
    while cache.evict(1):
        check(cache)
        kept.append("".join(line.split()[0] for line in tree(cache).splitlines() if "ghost" not in line))
    #      bbbb goes    then eeee (unknown)   then the farthest first
    assert kept == ["aaaaccccddddeeee", "aaaaccccdddd", "aaaacccc", "cccc", ""]
    cache.forget(near)
    cache.forget(far)


def test_next_use_can_be_switched_off() -> None:
    cache = make(next_use=False)
    insert(cache, "aaaa")
    insert(cache, "bbbb")
    cache.expect(tokens("aaaa"), position=0)
    cache.evict(1)
    assert tree(cache) == "aaaa ghost next=0\nbbbb"


@pytest.mark.parametrize(("moved_to", "left"), [(1, "aaaa"), (9, "bbbb"), (None, "bbbb")])
def test_a_use_that_moves(moved_to: int | None, left: str) -> None:
    cache = make()
    insert(cache, "aaaa")
    insert(cache, "bbbb")
    use = cache.expect(tokens("aaaa"), position=5)
    cache.expect(tokens("bbbb"), position=6)
    cache.evict(0)
    cache.set_next_use(use, moved_to)
    cache.evict(1)
    assert [line.split()[0] for line in tree(cache).splitlines() if "ghost" not in line] == [left]


def test_outlook_follows_what_is_inserted_and_evicted() -> None:
    cache = make()
    use = cache.expect(tokens("aaaabbbbccccd"))
    assert tree(cache) == "aaaabbbbcccc ghost next=0"
    assert cache.outlook(use).cached == 0
    insert(cache, "aaaabbbbxx")
    assert cache.outlook(use).cached == 8
    cache.evict(2)
    assert cache.outlook(use).cached == 4
    assert tree(cache) == "aaaa next=0\n  bbbb ghost next=0\n    cccc ghost next=0"
    cache.forget(use)
    cache.forget(use)
    assert tree(cache) == "aaaa"
    check(cache)


def test_promises_tell_others_what_is_being_computed() -> None:
    cache = make()
    insert(cache, "aaaa")
    first, second = cache.expect(tokens("aaaabbbbcccc")), cache.expect(tokens("aaaabbbbdddd"))
    cache.promise(first)
    assert (cache.outlook(first).cached, cache.outlook(first).promised) == (4, 4)
    assert (cache.outlook(second).cached, cache.outlook(second).promised) == (4, 8)
    insert(cache, "aaaabbbb")
    assert (cache.outlook(second).cached, cache.outlook(second).promised) == (8, 8)
    cache.forget(first)
    assert tree(cache) == "aaaa next=0\n  bbbb next=0\n    dddd ghost next=0"
    check(cache)


# ------------------------------------------------------------------------------------------------------------- leases


def test_leases_hold_until_they_expire() -> None:
    cache = make()
    handle = insert(cache, "abcdef").handle
    cache.lease(handle, until=10.0)
    cache.lease(handle, until=20.0)
    assert cache.expire(15.0) == 0
    assert cache.evict(9) == 0
    assert cache.expire(20.0) == 1
    assert not cache.end_lease(handle)
    assert cache.evict(9) == 2


def test_a_lease_that_is_given_up_in_time() -> None:
    cache = make()
    handle = insert(cache, "abcd").handle
    cache.lease(handle, until=10.0)
    assert cache.end_lease(handle)
    assert cache.expire(float("inf")) == 0
    assert not handle.locked


# ---------------------------------------------------------------------------------------------------------- host tier


class Shelf:
    """A mover between two lists, that stand for the KV of pages and slots."""

    def __init__(self, pages: int, slots: int) -> None:
        self.num_slots = slots
        self.device: list[object] = [None] * pages
        self.host: list[object] = [None] * slots

    def copy_out(self, pages, slots) -> None:
        for page, slot in zip(pages, slots, strict=True):
            self.host[slot] = self.device[page]

    def copy_in(self, slots, pages) -> None:
        for slot, page in zip(slots, pages, strict=True):
            self.device[page] = self.host[slot]


def with_host(pages: int = 8, slots: int = 8) -> tuple[RadixCache, Shelf]:
    shelf = Shelf(pages, slots)
    return make(pages, host=HostTier(shelf)), shelf


def put(cache: RadixCache, shelf: Shelf, text: str) -> None:
    """Insert `text`, writing what each page holds."""
    pages = cache.alloc(-(-len(text) // 4))
    assert pages is not None
    for at, page in enumerate(pages):
        shelf.device[page] = text[: 4 * at + 4]
    cache.pool.release(cache.insert(tokens(text), pages).duplicates)


def test_evicted_pages_come_back() -> None:
    cache, shelf = with_host()
    put(cache, shelf, "abcdefghijkl")
    cache.evict(2)
    assert tree(cache) == "abcd\n  efghijkl host"
    found = match(cache, "abcdefghijklmn")
    assert (found.length, found.host_length) == (4, 12)
    cache.lock(found.handle)
    pages = cache.alloc(1)
    assert pages is not None
    handle = cache.restore(tokens("abcdefghijkl"), 8, pages)
    cache.lock(handle)
    check(cache)
    found = match(cache, "abcdefghijkl")
    assert (found.length, found.host_length) == (8, 12)
    assert [shelf.device[page] for page in found.pages] == ["abcd", "abcdefgh"]


def test_the_host_gives_up_what_was_used_longest_ago() -> None:
    cache, shelf = with_host(pages=8, slots=2)
    for text in ["aaaabbbb", "cccc", "dddd"]:
        put(cache, shelf, text)
    cache.evict(8)
    assert tree(cache) == "cccc host\ndddd host"
    check(cache)
    assert cache.stats().host_evicted_pages == 2


def test_computing_again_what_lies_on_the_host() -> None:
    cache, shelf = with_host()
    put(cache, shelf, "abcdefgh")
    cache.evict(8)
    put(cache, shelf, "abcd")
    assert tree(cache) == "abcd\n  efgh host"
    check(cache)
    cache.flush()
    assert cache.roots == {}
    assert cache.stats().host_pages == 0


def test_restoring_what_is_gone_is_an_error() -> None:
    cache, shelf = with_host()
    put(cache, shelf, "abcd")
    cache.flush()
    pages = cache.alloc(1)
    assert pages is not None
    with pytest.raises(StaleHandle, match="only 0 of 4"):
        cache.restore(tokens("abcd"), 4, pages)
    with pytest.raises(ValueError, match="no host tier"):
        make().restore(tokens("abcd"), 4, [0])


# ------------------------------------------------------------------------------------------------------------- counts


def test_statistics() -> None:
    cache = make()
    insert(cache, "abcdef", "one")
    insert(cache, "abcd", "two")
    cache.count(10, 6, "one")
    cache.count(10, 0, "two")
    cache.evict(1)
    stats = cache.stats()
    assert (stats.queries, stats.query_tokens, stats.hit_tokens, stats.hit_share) == (2, 20, 6, 0.3)
    assert stats.namespaces["one"].hit_share == 0.6
    assert (stats.evicted_pages, stats.cached_pages, stats.cached_tokens) == (1, 2, 8)
    cache.count(1, 1)
    assert stats.queries == 2, "a snapshot does not change"


def test_statistics_of_many_tenants_are_bounded() -> None:
    cache = make()
    for number in count():
        cache.count(1, 0, f"tenant {number}")
        if number > 3000:
            break
    assert len(cache.stats().namespaces) <= 1024
    assert cache.stats().queries == 3002
