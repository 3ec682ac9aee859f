"""What `Regex` and `Ebnf` texts mean before any engine sees them."""

import pytest

from sgl_grammars.backends.gbnf import is_recursive, parse, to_lark
from sgl_grammars.backends.patterns import plain_pattern
from sgl_lang.errors import InvalidConstraint


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        ("abc", "abc"),
        ("^abc$", "abc"),
        (r"\Aabc\Z", "abc"),
        ("^a|^b$|c$", "a|b|c"),
        ("^(a|b)$", "(a|b)"),
        ("(^a|b$)", "(a|b)"),
        ("(?i)^a", "(?i)a"),
        ("(?:^a)b", "(?:a)b"),
        ("a(b$)", "a(b)"),
        (r"[$^]\$\^", r"[$^]\$\^"),
        (r"[]^$]a", r"[]^$]a"),
        (r"\uD83D\uDE00", "\U0001f600"),
        ("a{2,3}?", "a{2,3}?"),
    ],
)
def test_anchors_that_say_nothing_are_dropped(pattern: str, plain: str) -> None:
    assert plain_pattern(pattern) == plain


@pytest.mark.parametrize(
    ("pattern", "offset"),
    [
        ("a^b", 1),
        ("a$b", 2),
        ("(a$)b", 4),
        ("(^a)*", 3),
        ("(a$)?b", 3),
        (r"a\b", 1),
        (r"(a)\1", 3),
        ("a(?=b)", 1),
        ("(?<=a)b", 0),
        ("[abc", 0),
        ("ab\\", 2),
        ("a)b", 1),
    ],
)
def test_what_engines_would_get_wrong_is_refused_at_its_offset(pattern: str, offset: int) -> None:
    with pytest.raises(InvalidConstraint) as caught:
        plain_pattern(pattern)
    assert caught.value.place == f"regex at offset {offset}"


@pytest.mark.parametrize(
    ("grammar", "place", "says"),
    [
        ("root ::= missing", "ebnf line 1, column 10", "missing"),
        ('root ::= "a"\nroot ::= "b"', "ebnf line 2, column 1", "twice"),
        ('root ::= "a', "ebnf line 1, column 10", "not closed"),
        ('a ::= "x"\nroot ::= [a', "ebnf line 2, column 10", "not closed"),
        ('root ::= ("a"', "ebnf line 1, column 10", "not closed"),
        ("root ::= [z-a]", "ebnf line 1, column 14", "empty"),
        ('root ::= "a"{5,2}', "ebnf line 1, column 13", "repeat"),
        ('root ::= "\\q"', "ebnf line 1, column 13", "escape"),
        ("root := x", "ebnf line 1, column 1", "rule"),
        ("root ::= root", "ebnf", "no finite text"),
        ('root ::= "a" root', "ebnf", "no finite text"),
        ('other ::= "a"', "ebnf", "no rule 'root'"),
        ("root ::= " + "(" * 300, "ebnf line 1, column 110", "nested"),
    ],
)
def test_grammar_mistakes_are_named_by_line_and_column(grammar: str, place: str, says: str) -> None:
    with pytest.raises(InvalidConstraint) as caught:
        to_lark(grammar)
    assert caught.value.place == place
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("grammar", "recursive"),
    [
        ('root ::= "a" b\nb ::= "c"', False),
        ('root ::= "a" b b\nb ::= c c\nc ::= "x"', False),
        ('root ::= root "a" | "a"', True),
        ('root ::= b\nb ::= "(" root ")" | ""', True),
        ('root ::= "a"\nb ::= b "x" | ""', False),
    ],
)
def test_recursion_is_found_where_the_root_needs_it(grammar: str, recursive: bool) -> None:
    assert is_recursive(parse(grammar), "root") is recursive
