"""Reasoning before an answer is split off, however the text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sgl_grammars.tools import REASONING, ReasoningParser, find_reasoning

FORM = REASONING[0]


@given(
    thought=st.sampled_from([None, "", "3 * 4 = 12; < |/think", "a<|/thin b"]),
    answer=st.sampled_from(["", "17", "<|think|", "a <|think|>b<|/think|>"]),
    sizes=st.lists(st.integers(1, 5), max_size=30),
)
def test_any_cut_gives_the_same_parts(thought, answer, sizes):
    text = answer if thought is None else f"{FORM.begin}{thought}{FORM.end}{answer}"
    parser, parts, place = ReasoningParser(FORM), [], 0
    for size in sizes:
        parts += parser.push(text[place : place + size])
        place += size
    parts += [*parser.push(text[place:]), *parser.finish()]
    assert "".join(part for is_thought, part in parts if is_thought) == (thought or "")
    assert "".join(part for is_thought, part in parts if not is_thought) == answer
    assert FORM.parse(text) == (thought or "", answer)


def test_reasoning_that_never_ends_is_no_answer():
    assert FORM.parse("<|think|>1 + 1 <|/th") == ("1 + 1 <|/th", "")


def test_formats_are_found_by_their_tokens():
    assert find_reasoning(["<|think|>", "<|/think|>"]) is FORM
    assert find_reasoning(["<|think|>"]) is None
