"""Python types to constraints, and texts back to values."""

import dataclasses
import datetime
import decimal
import enum
import json
import re
import uuid
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, Union

import jsonschema
import pydantic
import pytest
from annotated_types import Ge, MaxLen

import sgl_lang as sgl
from sgl_grammars.spec import ANY_JSON, Choice, Ebnf, JsonSchema, Lark, Layout, Regex
from sgl_lang.samples import sample
from sgl_lang.testing import FakeBackend
from sgl_lang.types import form_of


class Address(pydantic.BaseModel):
    street: str
    number: int = pydantic.Field(ge=1)


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date
    home: Address | None = None
    tags: list[Literal["old", "new"]] = []


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Movie(TypedDict, total=False):
    title: str
    year: int


class Pair(NamedTuple):
    left: int
    right: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


KINDS: list[tuple[Any, Any, str]] = [
    (str, "any text", "any text"),
    (int, -42, "-42"),
    (float, 2.5, "2.5"),
    (bool, True, "true"),
    (decimal.Decimal, decimal.Decimal("1.10"), "1.10"),
    (datetime.date, datetime.date(2024, 5, 3), "2024-05-03"),
    (datetime.time, datetime.time(10, 30), "10:30:00"),
    (datetime.datetime, datetime.datetime(2024, 5, 3, 10, 30), "2024-05-03T10:30:00"),
    (uuid.UUID, uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (Literal["a", "b"], "b", "b"),
    (Literal["a", 1, None], 1, "1"),
    (Colour, Colour.BLUE, "blue"),
    (Level, Level.HIGH, "2"),
    (Address, Address(street="S", number=1), '{"street":"S","number":1}'),
    (Person, Person(name="M", born=datetime.date(2000, 1, 2)), '{"name":"M","born":"2000-01-02"}'),
    (Point, Point(1, 2), '{"x":1,"y":2}'),
    (Movie, {"title": "T"}, '{"title":"T"}'),
    (Pair, Pair(1, "r"), '[1,"r"]'),
    (list[int], [1, 2], "[1,2]"),
    (dict[str, int], {"a": 1}, '{"a":1}'),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
    (Optional[int], None, "null"),  # noqa: UP045 - that spelling is the case
    (Union[int, str], "a", '"a"'),  # noqa: UP007
    (int | None, 3, "3"),
    (list[Person], [], "[]"),
    (Annotated[int, Ge(3)], 4, "4"),
    (Annotated[str, pydantic.Field(pattern="^a+$")], "aa", "aa"),
    (Annotated[str, MaxLen(3)], "abc", "abc"),
    (Any, {"a": [1]}, '{"a":[1]}'),
]


@pytest.mark.parametrize(("kind", "value", "text"), KINDS, ids=[str(kind) for kind, _, _ in KINDS])
def test_values_come_back(kind, value, text):
    @sgl.function
    def program(s):
        s += sgl.gen("x", kind)

    state = program.run(backend=FakeBackend({"x": text}))
    got = state.get("x")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS if kind is not str], ids=str)
def test_samples_satisfy_their_types(kind):
    form = form_of(kind)
    text = sample(form.constraint)
    form.value(text)
    if isinstance(form.constraint, JsonSchema):
        jsonschema.validate(json.loads(text), json.loads(form.constraint.schema))


@pytest.mark.parametrize(
    ("kind", "constraint"),
    [
        (str, None),
        (bool, Choice(("true", "false"))),
        (Literal["a", "b"], Choice(("a", "b"))),
        (Colour, Choice(("red", "blue"))),
        (Any, ANY_JSON),
        (Annotated[str, pydantic.Field(pattern="^ab$")], Regex("ab")),
        (Annotated[str, pydantic.Field(pattern="^ab|c$")], Regex(r"(ab[\s\S]*)|([\s\S]*c)")),
        (Annotated[str, pydantic.Field(pattern="b")], Regex(r"[\s\S]*b[\s\S]*")),
        (Annotated[str, pydantic.Field(max_length=3)], Regex(r"[\s\S]{0,3}")),
        (Annotated[int, Ge(3)], JsonSchema('{"minimum":3,"type":"integer"}')),
    ],
    ids=str,
)
def test_constraints(kind, constraint):
    assert form_of(kind).constraint == constraint


def test_objects_are_closed_and_keep_the_order_of_fields():
    schema = json.loads(form_of(Person).constraint.schema)
    assert list(schema["properties"]) == ["name", "born", "home", "tags"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Address"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (datetime.date, "2024-02-30", "not a valid date"),
        (Address, '{"street":"S","number":0}', "number: Input should be greater than or equal to 1"),
        (Colour, "green", "not one of red, blue"),
        (int, "x", "not a valid int"),
        (list[int], "[1", "list"),
    ],
)
def test_what_a_grammar_cannot_say_is_checked_after(kind, text, reason):
    @sgl.function
    def program(s):
        s += sgl.gen("x", kind)

    with pytest.raises(sgl.ValidationFailed, match=reason) as caught:
        program.run(backend=FakeBackend({"x": text}, check=False))
    assert caught.value.line.startswith("test_lang_types.py:")


def test_retry_generates_again_and_keeps_only_the_good_attempt():
    @sgl.function
    def program(s):
        s += "On " + sgl.gen("day", datetime.date, retry=2, temperature=0) + "!"
        return s.get("day")

    backend = FakeBackend({"day": ["2024-02-30", "2024-02-31", "2024-02-28"]})
    state = program.run(backend=backend)
    assert state.text() == "On 2024-02-28!"
    assert state.ret_value == datetime.date(2024, 2, 28)
    assert [want.node.sampling.temperature for want in backend.wants] == [0, 0.7, 0.7]
    assert [want.text for want in backend.wants] == ["On "] * 3
    with pytest.raises(sgl.ValidationFailed):
        program.run(backend=FakeBackend({"day": "2024-02-30"}))


def test_explicit_constraints():
    def constraint(**arguments):
        return sgl.gen("x", **arguments).form.constraint

    assert constraint(regex="a+") == Regex("a+")
    assert constraint(regex=re.compile("a")) == Regex("a")
    assert constraint(ebnf="root ::= x") == Ebnf("root ::= x")
    assert constraint(lark="start: x") == Lark("start: x")
    assert constraint(choices=["a", "b"]) == Choice(("a", "b"))
    assert constraint(json_schema={"type": "integer"}) == JsonSchema('{"type":"integer"}')
    assert constraint(json_schema='{"type": "integer"}') == JsonSchema('{"type": "integer"}')
    assert constraint(json_schema=Point) == form_of(Point).constraint
    assert constraint(type=Point, layout=Layout("spaced")).layout == Layout("spaced")
    assert sgl.gen("x", int, regex="[0-9]{3}").form.value("007") == 7
    assert sgl.gen("x", choices=["a"], choices_method="greedy").method == "greedy"
    assert sgl.select("x", Colour).form.value("red") is Colour.RED


def test_values_of_schemas_are_decoded():
    @sgl.function
    def program(s):
        s += sgl.gen(
            "x", json_schema={"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        )
        s += sgl.gen_string("t")
        s += sgl.gen_int("i")

    state = program.run(backend=FakeBackend({"x": {"a": 1}, "t": '"hi"', "i": 3}))
    assert state.variables() == {"x": {"a": 1}, "t": "hi", "i": 3}


@pytest.mark.parametrize("kind", [3, object(), lambda: None])
def test_what_is_no_type(kind):
    with pytest.raises(sgl.InvalidRequest):
        sgl.gen("x", kind)


def test_ambiguous_literals_are_refused():
    with pytest.raises(sgl.InvalidRequest, match="written alike"):
        sgl.gen("x", Literal["1", 1])
