"""Sets of Unicode code points as sorted, disjoint, inclusive ranges, and the classes that patterns name."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

__all__ = [
    "ANY",
    "DOT",
    "Charset",
    "complement",
    "contains",
    "difference",
    "fold_case",
    "intersection",
    "named",
    "normal",
    "posix",
    "single",
    "union",
]

Charset = tuple[tuple[int, int], ...]

ANY: Charset = ((0, 0xD7FF), (0xE000, 0x10FFFF))
_LAST = 0x10FFFF


def normal(ranges: Iterable[tuple[int, int]]) -> Charset:
    """Sort, merge, and leave out surrogates, which no UTF-8 text contains."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        elif low <= high:
            merged.append((low, high))
    return tuple(_without_surrogates(merged))


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for low, high in ranges:
        if low < 0xD800:
            yield low, min(high, 0xD7FF)
        if high > 0xDFFF:
            yield max(low, 0xE000), high


def single(character: str) -> Charset:
    return ((ord(character), ord(character)),)


def union(*sets: Charset) -> Charset:
    return normal(part for one in sets for part in one)


def complement(one: Charset) -> Charset:
    gaps, position = [], 0
    for low, high in one:
        if low > position:
            gaps.append((position, low - 1))
        position = high + 1
    if position <= _LAST:
        gaps.append((position, _LAST))
    return normal(gaps)


def intersection(left: Charset, right: Charset) -> Charset:
    return complement(union(complement(left), complement(right)))


def difference(left: Charset, right: Charset) -> Charset:
    return intersection(left, complement(right))


def contains(one: Charset, point: int) -> bool:
    index = bisect_right(one, (point, _LAST + 1)) - 1
    return index >= 0 and one[index][0] <= point <= one[index][1]


DOT: Charset = complement(single("\n"))


@lru_cache(maxsize=1)
def _categories() -> dict[str, Charset]:
    """General category -> code points, from one pass over Unicode."""
    found: dict[str, list[tuple[int, int]]] = {}
    start = 0
    for category, members in groupby(map(unicodedata.category, map(chr, range(_LAST + 1)))):
        end = start + sum(1 for _ in members)
        found.setdefault(category, []).append((start, end - 1))
        start = end
    return {category: normal(ranges) for category, ranges in found.items()}


_LONG_NAMES = {
    "letter": "L",
    "uppercase_letter": "Lu",
    "lowercase_letter": "Ll",
    "mark": "M",
    "number": "N",
    "decimal_number": "Nd",
    "punctuation": "P",
    "symbol": "S",
    "separator": "Z",
    "other": "C",
}


@lru_cache(maxsize=64)
def named(name: str) -> Charset | None:
    r"""The set that ``\p{name}`` means: a general category, by its short name or a common long one, or None."""
    bare = name.split("=", 1)[1] if name.lower().startswith(("gc=", "general_category=")) else name
    if bare.lower() == "any":
        return ANY
    short = _LONG_NAMES.get(bare.lower().replace(" ", "_"), bare)
    parts = [members for category, members in _categories().items() if category.startswith(short)]
    return union(*parts) if parts and len(short) in (1, 2) else None


@lru_cache(maxsize=8)
def word(ascii_only: bool) -> Charset:
    """Letters, digits and ``_``; beyond ASCII only what Python's and Rust's regex engines agree on."""
    basic = normal([(48, 57), (65, 90), (95, 95), (97, 122)])
    if ascii_only:
        return basic
    return union(basic, *(named(name) or () for name in ("L", "Nd", "Nl")))


@lru_cache(maxsize=8)
def digit(ascii_only: bool) -> Charset:
    return ((48, 57),) if ascii_only else named("Nd") or ()


def space(ecma: bool) -> Charset:
    """Unicode's White_Space; ECMA-262 has U+FEFF and lacks U+0085."""
    common = [(9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
    common += [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)]
    return normal([*common, (0xFEFF, 0xFEFF) if ecma else (0x85, 0x85)])


_POSIX = {
    "alpha": ((65, 90), (97, 122)),
    "digit": ((48, 57),),
    "alnum": ((48, 57), (65, 90), (97, 122)),
    "upper": ((65, 90),),
    "lower": ((97, 122),),
    "space": ((9, 13), (32, 32)),
    "blank": ((9, 9), (32, 32)),
    "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "xdigit": ((48, 57), (65, 70), (97, 102)),
    "word": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "print": ((32, 126),),
    "graph": ((33, 126),),
    "cntrl": ((0, 31), (127, 127)),
}


def posix(name: str) -> Charset | None:
    return _POSIX.get(name)


@lru_cache(maxsize=1)
def _case_partners() -> dict[int, tuple[int, ...]]:
    """Code point -> the others that differ from it by case only (one-to-one mappings)."""
    groups: dict[int, set[int]] = {}
    for category in ("Lu", "Ll", "Lt", "Mn", "Nl", "So"):
        for low, high in _categories().get(category, ()):
            for point in range(low, high + 1):
                folded = chr(point).casefold()
                folded = folded if len(folded) == 1 else chr(point).lower()
                if len(folded) == 1 and ord(folded) != point:
                    groups.setdefault(ord(folded), {ord(folded)}).add(point)
    return {point: tuple(group - {point}) for group in groups.values() for point in group}


def fold_case(one: Charset) -> Charset:
    """The set with every case variant of its members."""
    partners = _case_partners()
    more = [(other, other) for point, others in partners.items() if contains(one, point) for other in others]
    return union(one, normal(more))
