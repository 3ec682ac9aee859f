"""Regex combinators."""

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
