"""Regex combinators."""

import datetime
import enum

import pytest

import sgl_lang as sgl
from sgl_grammars.spec import Regex
from sgl_lang import patterns as p
from sgl_lang.testing import FakeBackend


@pytest.mark.parametrize(
    ("pattern", "regex", "yes", "no"),
    [
        (p.text("a.b(c)"), r"a\.b\(c\)", ["a.b(c)"], ["axb(c)"]),
        ("+" + p.digits(1, 3), r"\+[0-9]{1,3}", ["+1", "+123"], ["1", "+1234"]),
        (p.digits(2), "[0-9]{2}", ["12"], ["1", "123"]),
        (p.any_of("yes", "no."), r"(yes|no\.)", ["yes", "no."], ["nox"]),
        ("a" | p.digit, "(a|[0-9])", ["a", "7"], ["b"]),
        (p.some("ab"), "(ab)+", ["ab", "abab"], ["", "aba"]),
        (p.many(p.letter) + "!", "[A-Za-z]*!", ["!", "ab!"], ["1!"]),
        (p.optional("-") + p.digit, "-?[0-9]", ["-1", "1"], ["--1"]),
        (p.between('"', p.many(p.char_not_in('"]')), '"'), r'"[^"\]]*"', ['""', '"a"'], ['"]"']),
        (p.char_in("a-^"), r"[a\-\^]", ["-", "^"], ["b"]),
        (p.times(p.any_of("a", "b"), 2), "(a|b){2}", ["ab"], ["a"]),
        (p.raw("a|b") + "c", "(a|b)c", ["ac", "bc"], ["a"]),
        (p.optional(p.text("a") + "b"), "(ab)?", ["", "ab"], ["a"]),
    ],
    ids=str,
)
def test_patterns(pattern, regex, yes, no):
    assert str(pattern) == regex
    assert all(pattern.matches(text) for text in yes)
    assert not any(pattern.matches(text) for text in no)
    assert sgl.gen("x", regex=pattern).form.constraint == Regex(regex)


def test_in_a_program():
    program = sgl.function(lambda s: s.append(sgl.gen("x", regex=p.letters(3))))
    assert p.letters(3).matches(program.run(backend=FakeBackend())["x"])


@pytest.mark.parametrize(
    "make", [lambda: p.raw("("), lambda: p.times("a", 3, 2), p.any_of, lambda: p.char_in("")]
)
def test_wrong_patterns(make):
    with pytest.raises(sgl.InvalidConstraint):
        make()


class Kind(enum.Enum):
    INSIDE = "inside"
    OUTSIDE = "outside"


def test_captured_parts():
    @sgl.function
    def program(s):
        s += "I book: " + sgl.grammar(
            "booking", "Table for ", p.named("guests", int), p.optional(" on " + p.named("day", datetime.date)),
            " at ", p.named("place", p.word), " (", p.named("kind", Kind), ")",
        )  # fmt: skip

    text = "Table for 4 at Luna (inside)"
    state = program.run(backend=FakeBackend({"booking": text}))
    assert state["booking"] == {"guests": 4, "place": "Luna", "kind": Kind.INSIDE}
    assert state.text() == f"I book: {text}"
    full = program.run(backend=FakeBackend({"booking": "Table for 2 on 2024-05-03 at Sol (outside)"}))[
        "booking"
    ]
    assert full["day"] == datetime.date(2024, 5, 3)
    constraint = sgl.grammar("x", p.named("a", "1"), "(?P<b>2)").form.constraint
    assert constraint == Regex(r"(1)\(\?P<b>2\)")


@pytest.mark.parametrize(
    "make",
    [
        lambda: sgl.grammar("x", "only text"),
        lambda: p.named("a b", "x"),
        lambda: p.named("a", "x") + p.named("a", "y"),
        lambda: p.named("a", list[int]),
        lambda: p.raw("(?P<a>b)"),
    ],
)
def test_wrong_captures(make):
    with pytest.raises(sgl.InvalidConstraint):
        make()
