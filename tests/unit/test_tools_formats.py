"""Tool-call formats: writing and parsing are inverse, however the text is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_grammars.spec import JsonSchema
from sgl_grammars.tools import FORMATS, Tool, ToolCallParser, find_format

TOOLS = [Tool("search", '{"type":"object","properties":{"q":{"type":"string"}}}'), Tool("now", strict=True)]
ARGUMENTS = ['{"q":"a } b \\" c"}', "{}", '{"x":{"y":[1,{"z":"}<|/call|>"}]}}', '{"q": "ü"}']


def cut_up(parser: ToolCallParser, text: str, sizes: list[int]):
    parts, place = [], 0
    for size in sizes:
        parts += parser.push(text[place : place + size])
        place += size
    return [*parts, *parser.push(text[place:]), *parser.finish()]


@pytest.mark.parametrize("name", FORMATS)
@given(
    calls=st.lists(st.tuples(st.sampled_from(["search", "now"]), st.sampled_from(ARGUMENTS)), max_size=3),
    text=st.sampled_from(["", "Let me see. ", "a < b | c [TOOL {"]),
    sizes=st.lists(st.integers(1, 9), max_size=40),
)
def test_parsing_undoes_writing_for_any_cut(name, calls, text, sizes):
    form = FORMATS[name]
    answer = text + form.separator.join(form.write(tool, arguments) for tool, arguments in calls)
    parser = ToolCallParser(form)
    parts = cut_up(parser, answer, sizes)
    assert "".join(part.text for part in parts if part.kind == "text") == text
    assert [(call.name, call.arguments) for call in parser.calls] == calls
    for index, (tool, arguments) in enumerate(calls):
        mine = [part for part in parts if part.kind != "text" and part.index == index]
        assert (mine[0].kind, mine[0].text) == ("call", tool)
        assert "".join(part.text for part in mine[1:]) == arguments
    assert form.parse(answer) == (text, parser.calls)


def test_a_broken_off_call_keeps_what_came():
    parser = ToolCallParser(FORMATS["sgl-tiny"])
    parts = [*parser.push('<|call|>{"name":"search","arguments":{"q":"par'), *parser.finish()]
    assert [(part.kind, part.text) for part in parts] == [("call", "search"), ("arguments", '{"q":"par')]
    assert parser.calls == []
    parser = ToolCallParser(FORMATS["sgl-tiny"])
    parts = [*parser.push('<|call|>{"name":"sea'), *parser.finish()]
    assert "".join(part.text for part in parts) == '<|call|>{"name":"sea'


def test_a_name_without_end_is_text_and_costs_no_more():
    parser = ToolCallParser(FORMATS["sgl-tiny"])
    text = '<|call|>{"name":"' + "x" * 5000
    shown = "".join(part.text for piece in text for part in parser.push(piece))
    assert (shown + "".join(part.text for part in parser.finish())) == text


def test_constraints_say_what_choice_allows():
    form = FORMATS["sgl-tiny"]
    auto = form.constraint(TOOLS)
    assert auto.free_text
    assert auto.at_least == 0
    assert auto.triggers == ("<|call|>",)
    assert auto.tags[0].begin == '<|call|>{"name":"search","arguments":'
    assert isinstance(auto.tags[1].content, JsonSchema)
    assert [tag.content.strict for tag in auto.tags] == [False, True]
    required = form.constraint(TOOLS[:1], choice="required", at_most=1)
    assert (required.free_text, required.at_least, required.at_most) == (False, 1, 1)
    assert FORMATS["llama-json"].constraint(TOOLS).at_most == 1, "this family cannot call twice in a turn"


def test_formats_are_found_by_marks_and_templates():
    assert find_format(["<|call|>", "<|/call|>", "<|end|>"]).name == "sgl-tiny"
    assert find_format(["<|im_end|>"], "... <tool_call> ...").name == "hermes"
    assert find_format(["[TOOL_CALLS]", "[ARGS]"]).name == "mistral-args"
    assert find_format(["<|im_end|>"], "plain") is None


def test_values_are_read_as_json_only():
    _, calls = FORMATS["hermes"].parse(FORMATS["hermes"].write("now", '{"a": 1}'))
    assert calls[0].value() == {"a": 1}
    assert json.loads(calls[0].arguments) == {"a": 1}
