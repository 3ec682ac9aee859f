"""Tools, agents, and control over several branches."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from typing import Literal

import pytest

import sgl_lang as sgl
from sgl_lang.errors import SglError
from sgl_lang.testing import PENDING, FakeBackend
from sgl_lang.tools import Answer, ToolCall
from sgl_lang.tree import Fill, Gen, Hole, Join, RoleBegin


@sgl.tool
def weather(city: str, unit: Literal["C", "F"] = "C") -> dict[str, object]:
    """Look up
    the weather.

    Args:
        city: name of the city
        unit: of the temperature
    """
    return {"city": city, "temperature": 12, "unit": unit}


@dataclass
class Guest:
    name: str
    age: int


@sgl.tool(name="book", description="Book a table.")
async def book_table(guests: list[Guest]) -> str:
    await asyncio.sleep(0)
    return " and ".join(guest.name for guest in guests)


@sgl.tool(timeout_s=0.05)
def slow(seconds: float) -> str:
    """Sleep."""
    time.sleep(seconds)
    return "slept"


def call(name, **arguments):
    return ToolCall(name, arguments)


def test_definition():
    assert weather.definition() == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Look up the weather.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "name of the city"},
                    "unit": {
                        "type": "string",
                        "enum": ["C", "F"],
                        "default": "C",
                        "description": "of the temperature",
                    },
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    assert (book_table.name, book_table.description) == ("book", "Book a table.")
    assert weather("Oslo")["city"] == "Oslo"


def test_running_a_tool_validates_and_reports():
    assert json.loads(weather.run({"city": "Oslo"})) == {"city": "Oslo", "temperature": 12, "unit": "C"}
    assert book_table.run({"guests": [{"name": "Mara", "age": 7}]}) == "Mara"
    assert json.loads(weather.run({"city": "Oslo", "unit": "K"}))["error"].startswith(
        "unit: Input should be 'C' or 'F'"
    )
    assert json.loads(weather.run({"town": "Oslo"}))["error"] == "city: Field required"
    failing = sgl.tool(divide)
    assert json.loads(failing.run({"by": 0})) == {"error": "ZeroDivisionError: division by zero"}


def divide(by: int) -> float:
    return 1 / by


def test_what_cannot_be_a_tool():
    def untyped(x):
        return x

    def many(*xs: int) -> None:
        """."""

    with pytest.raises(sgl.InvalidRequest, match="parameter 'x' has no type"):
        sgl.tool(untyped)
    with pytest.raises(sgl.InvalidRequest, match="cannot take"):
        sgl.tool(many)
    with pytest.raises(sgl.InvalidRequest, match="same name"):
        sgl.tools(weather, weather)


@sgl.function
def ask(s, question):
    s += sgl.tools(weather, book_table)
    s += sgl.system("Help.") + sgl.user(question)
    s += sgl.assistant(sgl.gen_calls("answer"))
    s.run_calls("answer")
    s += sgl.assistant(sgl.gen("reply"))


def test_calls_run_in_holes():
    answer = Answer(
        "Let me see.", [call("weather", city="Oslo"), call("book", guests=[{"name": "M", "age": 1}])]
    )
    backend = FakeBackend({"answer": answer, "reply": "12 degrees"})
    state = ask.run("Weather?", backend=backend)
    assert state["answer"].text == "Let me see."
    assert [(item.name, item.id) for item in state["answer"].calls] == [
        ("weather", "call_0"),
        ("book", "call_1"),
    ]
    roles = [message["role"] for message in state.messages()]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert json.loads(state.messages()[3]["content"])["temperature"] == 12
    assert state.messages()[4]["content"] == "M"
    tree = backend.trees[0]
    begins = [node for _, node in tree.nodes() if isinstance(node, RoleBegin)]
    assert [item["function"]["name"] for item in json.loads(begins[0].tools)] == ["weather", "book"]
    assert all(node.tools is None for node in begins[1:])
    assert [(node.name, node.call_id) for node in begins if node.role == "tool"] == [
        ("weather", "call_0"),
        ("book", "call_1"),
    ]
    assert len([node for _, node in tree.nodes() if isinstance(node, Hole)]) == 2
    assert len([operation for operation in tree.operations if isinstance(operation, Fill)]) == 2


def test_the_grammar_of_calls():
    backend = FakeBackend({"answer": "no call"})
    ask.run("?", backend=backend)
    gen = next(node for _, node in backend.trees[0].nodes() if isinstance(node, Gen))
    assert gen.constraint.triggers == ("<|call|>",)
    assert [tag.begin for tag in gen.constraint.tags] == [
        '<|call|>{"name":"weather","arguments":',
        '<|call|>{"name":"book","arguments":',
    ]
    assert gen.constraint.free_text
    assert gen.sampling.skip_special_tokens is False


def test_required_calls_are_sampled_without_a_script():
    @sgl.function
    def program(s):
        s += sgl.tools(weather) + sgl.user("?")
        s += sgl.assistant(sgl.gen_calls("answer", choice="required", at_most=1))

    state = program.run(backend=FakeBackend())
    assert state["answer"].calls == [ToolCall("weather", {"city": "city"}, "call_0")]
    with pytest.raises(sgl.InvalidRequest, match="neither auto nor required"):
        sgl.gen_calls("x", choice="none")


def test_a_call_that_is_cut_off_is_an_error():
    with pytest.raises(sgl.ValidationFailed, match="cut off"):
        ask.run("?", backend=FakeBackend({"answer": 'So: <|call|>{"name":"weather","argu'}))


def test_tools_must_come_first():
    @sgl.function
    def late(s):
        s += sgl.user("?") + sgl.tools(weather)

    @sgl.function
    def missing(s):
        s += sgl.gen_calls("x")

    with pytest.raises(sgl.ProgramError, match="before the first message"):
        late.run(backend=FakeBackend())
    with pytest.raises(sgl.ProgramError, match="no tools were given"):
        missing.run(backend=FakeBackend())


def test_slow_tools_time_out_and_run_in_parallel():
    @sgl.function
    def program(s):
        s += sgl.tools(slow) + sgl.user("?")
        return s.run_calls([call("slow", seconds=0.3), call("slow", seconds=0.0)])

    results = program.run(backend=FakeBackend()).ret_value
    assert "no result within 0.05 s" in results[0]
    assert results[1] == "slept"


def test_async_tools():
    @sgl.function
    async def program(s):
        s += sgl.tools(weather, book_table, slow) + sgl.user("?")
        s += sgl.assistant(sgl.gen_calls("answer"))
        return await s.run_tools("answer")

    calls = [
        call("book", guests=[{"name": "A", "age": 1}]),
        call("weather", city="Oslo"),
        call("slow", seconds=1),
    ]
    state = asyncio.run(program.run(backend=FakeBackend({"answer": Answer("", calls)})))
    assert state.ret_value[0] == "A"
    assert "Oslo" in state.ret_value[1]
    assert "no result within" in state.ret_value[2]


def test_agent():
    helper = sgl.agent([weather], max_steps=3, instruction="Use tools.")
    answers = {"step_0": Answer("", [call("weather", city="Oslo")]), "step_1": "It is 12 degrees."}
    state = helper.run("Weather in Oslo?", backend=FakeBackend(answers))
    assert state.ret_value == "It is 12 degrees."
    assert [message["role"] for message in state.messages()] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    endless = FakeBackend(lambda want: Answer("", [call("weather", city="Oslo")]))
    with pytest.raises(sgl.ProgramError, match="no answer after 3 steps"):
        helper.run("?", backend=endless)


# ---------------------------------------------------------------------------------------------------------- control


def test_first_of_several():
    @sgl.function
    def program(s):
        forks = s.fork(3)
        forks += sgl.gen("x")
        winners = forks.first(1)
        s += f"won: {s['x'][0]}"
        return [winner.branch for winner in winners]

    backend = FakeBackend({"x": lambda want: "b" if want.branch == 2 else PENDING})
    state = program.run(backend=backend)
    assert state.ret_value == [2]
    assert state.text() == "won: b"
    joins = [node for _, node in backend.trees[0].nodes() if isinstance(node, Join)]
    assert joins[0].first == 1


def test_first_fails_when_too_many_branches_fail():
    @sgl.function
    def program(s):
        forks = s.fork(2)
        forks += sgl.gen("x")
        forks.first(2)

    answers = {"x": lambda want: SglError("broken") if want.branch == 2 else "a"}
    with pytest.raises(SglError, match="broken"):
        program.run(backend=FakeBackend(answers))
    with pytest.raises(sgl.InvalidRequest, match="between 1 and 2"):
        sgl.function(lambda s: s.fork(2).first(3)).run(backend=FakeBackend())


@pytest.mark.parametrize("parallel", [1, 4])
def test_map(parallel):
    seen = set()

    @sgl.function
    def program(s):
        def body(branch, item):
            seen.add(threading.current_thread())
            branch += f" {item}:" + sgl.gen("x")
            return item * 2

        s += "all"
        return s.map([1, 2, 3], body, parallel=parallel)

    state = program.run(backend=FakeBackend(lambda want: want.text[-2:]))
    assert state.ret_value == [2, 4, 6]
    assert state["x"] == ["1:", "2:", "3:"]
    with pytest.raises(sgl.InvalidRequest, match="nothing to map"):
        sgl.function(lambda s: s.map([], print)).run(backend=FakeBackend())


def test_best_of():
    @sgl.function
    def program(s):
        s += "Say: "
        s.best_of(3, sgl.gen("x", int), lambda branch: branch.get("x"))
        s += "!" + s["x"]

    state = program.run(backend=FakeBackend({"x": [3, 9, 5]}))
    assert state.text() == "Say: 9!9"
    assert state["x"] == 9


def test_repeat():
    @sgl.function
    def program(s):
        for step in s.repeat(5, until=lambda: s["x"] == "stop"):  # noqa: B023 - `s += x` is the same s
            s += f"{step}" + sgl.gen("x")

    assert program.run(backend=FakeBackend({"x": ["a", "b", "stop"]})).text() == "0a1b2stop"
    assert program.run(backend=FakeBackend({"x": "a"})).text() == "0a1a2a3a4a"


def test_threads_may_write_to_their_branches_at_once():
    @sgl.function
    def program(s):
        def body(branch, item):
            for at in range(50):
                branch += f"[{item}.{at}]"
                branch += sgl.gen(f"x{at}", max_tokens=1)

        s.map(range(8), body, parallel=8)

    backend = FakeBackend()
    program.run(backend=backend)
    tree = backend.trees[0]
    assert sgl.RequestTree.from_json(tree.to_json()) == tree
    assert sum(isinstance(node, Gen) for _, node in tree.nodes()) == 400


# ------------------------------------------------------------------------------------------- thinking and quoting


def test_think():
    @sgl.function
    def program(s):
        s += sgl.user("?")
        s += sgl.assistant(sgl.think("why", max_tokens=50) + sgl.gen("answer", int))

    state = program.run(backend=FakeBackend({"why": "because", "answer": 4}))
    assert state.variables() == {"why": "because", "answer": 4}
    assert state.messages()[-1]["content"] == "because4"
    lines = program.compile().render().splitlines()
    assert lines[4] == '0 text "<|think|>" special'
    assert 'stop=["<|/think|>"]' in lines[5]
    assert lines[6] == '0 text "<|/think|>" special'
    assert "<a>" in sgl.function(lambda s: s.append(sgl.think(marks=("<a>", "<b>")))).compile().render()


def test_copy_from():
    source = "The door is red. The key is green!\nIt is late"
    expr = sgl.copy_from(source, "quote")
    assert expr.form.constraint.choices == ("The door is red.", "The key is green!", "It is late")
    assert sgl.copy_from(["b", "a", "b"]).form.constraint.choices == ("b", "a")
    with pytest.raises(sgl.InvalidRequest, match="1 to 1000 spans"):
        sgl.copy_from(" ")
