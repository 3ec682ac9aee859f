"""Stops are found in text that arrives in pieces, as `re` and `str.find` find them in the whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lang.errors import InvalidRequest
from sgl_runtime.program.stopping import Found, StopFinder, StopRegex

PATTERNS = [
    "ab",
    "a+b",
    "(a|bc)d?",
    "[0-9]{2,3}",
    "x.y",
    "(?i)stop",
    "[^a-z]+!",
    r"\d+\s\w",
    "(?:ab){2}c*",
    "é|ü中",
    "a{3}",
    "(a|ab)(c|bcd)",
]


def search(pattern: str, pieces: list[str]) -> Found | None:
    finder, data = StopFinder((), StopRegex(pattern)), bytearray()
    for piece in pieces:
        before = len(data)
        data += piece.encode()
        found = finder.push(data, before)
        if found is not None:
            return found
    return None


def first_end(pattern: str, text: str) -> int | None:
    """Length of the shortest prefix of `text` that contains a match."""
    return next((end for end in range(1, len(text) + 1) if re.search(pattern, text[:end])), None)


@given(
    pattern=st.sampled_from(PATTERNS),
    pieces=st.lists(st.text(alphabet="abcdxy01 9!éü中STOPstop\n", max_size=5), max_size=12),
)
def test_a_regex_stops_where_a_match_first_exists(pattern: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    found = search(pattern, pieces)
    end = first_end(pattern, text)
    if end is None:
        assert found is None
        return
    assert found is not None
    assert found.end == len(text[:end].encode())
    match = re.search(pattern, text[:end])
    assert match is not None
    assert found.start == len(text[: match.start()].encode())


@given(
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), min_size=1, max_size=3),
    data=st.text(alphabet="abéc", max_size=24),
    sizes=st.lists(st.integers(1, 5), min_size=24, max_size=24),
)
def test_strings_are_found_across_pieces_and_text_is_held_back(
    stops: list[str], data: str, sizes: list[int]
) -> None:
    finder, text, shown = StopFinder(stops), bytearray(), 0
    whole = data.encode()
    found = None
    for size in sizes:
        before = len(text)
        text += whole[before : before + size]
        found = finder.push(text, before)
        if found is not None or len(text) == len(whole):
            break
        shown = max(shown, finder.hold(text))
    places = [place for place in (whole.find(stop.encode()) for stop in stops) if place >= 0]
    if len(text) == len(whole) or found is not None:
        assert (found is not None) == bool(places and min(places) < len(text))
    if found is not None:
        assert bytes(text[found.start : found.end]).decode() == found.stop
        assert shown <= found.start


def test_no_pattern_takes_long() -> None:
    finder, text = StopFinder((), StopRegex("(a+)+b|(.*x){12}y")), bytearray()
    for _ in range(3000):
        text += b"a"
        assert finder.push(text, len(text) - 1) is None  # a backtracking matcher would not come back


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        ("a*", "empty text"),
        ("^a", "at is not supported"),
        (r"(a)\1", "groupref is not supported"),
        ("(?=a)b", "assert is not supported"),
        ("(a{1000}){1000}", "states"),
    ],
)
def test_what_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        StopRegex(pattern)
