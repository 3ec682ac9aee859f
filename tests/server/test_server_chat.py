"""Chat completions on the real engine."""

from __future__ import annotations

import json
import re

import pytest

CHAT = "/v1/chat/completions"
USER = [
    {
        "role": "user",
        "content": "Text: Mara Veldt lives in Oslo.\n\nWhat is the city? Answer with the value only.",
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Look up a city", "parameters": SCHEMA},
}
OTHER = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "properties": {}}}}


def ask(http, **body):
    body = {"messages": USER, "temperature": 0, "max_tokens": 24, **body}
    return http.post(CHAT, json=body)


def answer(http, **body):
    response = ask(http, **body)
    assert response.status_code == 200, response.text
    return response.json()


def chunks(http, **body):
    response = ask(http, stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def refusal(http, status=400, **body):
    response = ask(http, **body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_an_answer_has_openais_form(http):
    result = answer(http)
    assert result["object"] == "chat.completion"
    assert result["id"].startswith("chatcmpl-")
    assert len(result["id"]) > 30
    (choice,) = result["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = result["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 10


def test_the_prompt_is_the_chat_template_s(http):
    ids = http.post("/tokenize", json={"messages": USER}).json()["tokens"]
    by_chat = answer(http, logprobs=True)
    body = {"prompt": ids, "temperature": 0, "max_tokens": 24, "logprobs": 0}
    by_tokens = http.post("/v1/completions", json=body).json()
    assert by_chat["choices"][0]["message"]["content"] == by_tokens["choices"][0]["text"]
    assert by_chat["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("extra", [{}, {"n": 3, "temperature": 1, "seed": 7}, {"stop": ["a", "e"]}])
def test_a_stream_joins_to_the_whole_answer(http, extra):
    whole = answer(http, **extra)
    parts = chunks(http, stream_options={"include_usage": True}, **extra)
    texts, reasons = {}, {}
    for chunk in parts[:-1]:
        (choice,) = chunk["choices"]
        assert chunk["usage"] is None
        index = choice["index"]
        if index not in texts:
            assert choice["delta"]["role"] == "assistant"
        texts[index] = texts.get(index, "") + choice["delta"].get("content", "")
        reasons[index] = choice["finish_reason"] or reasons.get(index)
    for choice in whole["choices"]:
        assert texts[choice["index"]] == choice["message"]["content"]
        assert reasons[choice["index"]] == choice["finish_reason"]
    assert parts[-1]["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert parts[-1]["usage"][name] == whole["usage"][name]
    assert len({chunk["id"] for chunk in parts}) == 1


def test_choices_share_their_prompt(http):
    one, four = answer(http, n=1), answer(http, n=4, temperature=1, seed=3)
    assert four["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"], "a fork's prompt counts once"
    texts = [choice["message"]["content"] for choice in four["choices"]]
    assert [choice["index"] for choice in four["choices"]] == [0, 1, 2, 3]
    assert texts == [
        choice["message"]["content"] for choice in answer(http, n=4, temperature=1, seed=3)["choices"]
    ]


@pytest.mark.parametrize(
    "form",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
            }
        },
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"json_schema": SCHEMA, "json_layout": "spaced"},
    ],
)
def test_json_of_a_schema(http, form):
    choice = answer(http, max_tokens=200, **form)["choices"][0]
    value = json.loads(choice["message"]["content"])
    assert set(value) == {"city", "big"}
    assert len(value["city"]) <= 8
    assert choice["finish_reason"] == "stop"


def test_json_object(http):
    choice = answer(http, max_tokens=200, response_format={"type": "json_object"})["choices"][0]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"regex": "[0-9]{3}-[a-c]"}, r"\d{3}-[abc]"),
        ({"guided_regex": "[0-9]{3}-[a-c]"}, r"\d{3}-[abc]"),
        ({"choices": ["left", "right"]}, "left|right"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
        ({"ebnf": 'root ::= "x" [0-9] "y"'}, "x[0-9]y"),
        ({"guided_grammar": 'root ::= "x" [0-9] "y"'}, "x[0-9]y"),
        ({"lark": 'start: "u" /[0-9]/ "v"'}, "u[0-9]v"),
        (
            {
                "guided_grammar": 'start: "u" /[0-9]/ "v"',
                "structured_outputs": {"grammar": 'start: "u" /[0-9]/ "v"'},
            },
            "u[0-9]v",
        ),
    ],
)
def test_other_constraints(http, form, wanted):
    choice = answer(http, **form)["choices"][0]
    assert re.fullmatch(wanted, choice["message"]["content"])
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"look_up", "wait"}), ({"type": "function", "function": {"name": "wait"}}, {"wait"})],
)
def test_required_tool_calls(http, choice, names):
    options = {"tools": [TOOL, OTHER], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 200}
    result = answer(http, **options)["choices"][0]
    (call,) = result["message"]["tool_calls"]
    assert result["finish_reason"] == "tool_calls"
    assert result["message"]["content"] is None
    assert call["type"] == "function"
    assert call["function"]["name"] in names
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    deltas = [
        delta
        for chunk in chunks(http, **options)
        for delta in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert deltas[0]["function"]["name"] == call["function"]["name"]
    assert deltas[0]["id"].startswith("call-")
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]
    assert not any("id" in delta for delta in deltas[1:])


def test_tools_may_be_left_alone(http):
    result = answer(http, tools=[TOOL], tool_choice="none")["choices"][0]
    assert "tool_calls" not in result["message"]
    assert answer(http, tools=[TOOL])["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")


def test_a_conversation_with_tool_results(http):
    call = {"id": "call-1", "type": "function", "function": {"name": "wait", "arguments": '{ "a": 1 }'}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "call-1", "content": "Oslo"},
    ]
    assert answer(http, messages=messages, tools=[OTHER])["choices"]


def test_log_probabilities(http):
    choice = answer(http, logprobs=True, top_logprobs=3, max_tokens=4)["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == choice["message"]["content"]
    for entry in content:
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        assert len(entry["top_logprobs"]) == 3
        assert max(top["logprob"] for top in entry["top_logprobs"]) == pytest.approx(entry["logprob"]), (
            "greedy"
        )
    streamed = [
        entry
        for chunk in chunks(http, logprobs=True, max_tokens=4)
        if chunk["choices"][0]["logprobs"]
        for entry in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in content]


def test_stop_and_logit_bias(http):
    text = answer(http)["choices"][0]["message"]["content"]
    stop = text[1:3]
    cut = answer(http, stop=stop)["choices"][0]
    assert cut["message"]["content"] == text[: text.index(stop)]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", stop)
    assert answer(http, stop=[stop], include_stop_str_in_output=True)["choices"][0]["message"][
        "content"
    ].endswith(stop)
    token = http.post("/tokenize", json={"prompt": "zebra"}).json()["tokens"][0]
    first = http.post("/detokenize", json={"tokens": [token]}).json()["prompt"]
    biased = answer(http, logit_bias={str(token): 100}, max_tokens=2)
    assert biased["choices"][0]["message"]["content"] == first * 2


def test_continuing_the_last_message(http):
    messages = [*USER, {"role": "assistant", "content": "The city of"}]
    options = {"continue_final_message": True}
    assert (
        answer(http, messages=messages, **options)["usage"]["prompt_tokens"]
        > answer(http)["usage"]["prompt_tokens"]
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"magic": 1}, "magic"),
        ({"functions": []}, "functions"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 100000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias.1"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_layout": "spaced"}, "json_layout"),
        ({"structured_outputs": {"magic": 1}}, "structured_outputs.magic"),
        ({"tools": [{"type": "browser"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "regex": "a"}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs.messages"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"cache_salt": "x" * 1000}, "cache_salt"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ],
)
def test_what_is_not_served_is_refused_by_name(http, body, param):
    error = refusal(http, **body)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_an_unknown_model_is_404(http):
    assert refusal(http, status=404, model="gpt-9")["param"] == "model"
    name = http.get("/v1/models").json()["data"][0]["id"]
    assert answer(http, model=name)["model"] == name


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {"json_schema": {"type": "nothing"}},
        {"json_schema": {"$ref": "#/nowhere"}},
        {"regex": "[0-9"},
        {"regex": "(?<=a)b"},
        {"ebnf": "root ::= missing"},
        {"lark": "start: ("},
    ],
)
def test_a_bad_constraint_is_a_400_that_says_what(http, form, stream):
    error = refusal(http, stream=stream, **form)
    assert error["code"] in ("invalid_constraint", "unsupported")
    assert error["message"]


def test_a_prompt_too_long_is_a_400(http):
    messages = [{"role": "user", "content": "word " * 20_000}]
    assert refusal(http, messages=messages)["code"] == "context_overflow"


def test_harmless_fields_are_accepted(http):
    answer(http, user="me", store=False, metadata={"a": "b"}, service_tier="auto", prompt_cache_key="k")


def test_reasoning_is_no_part_of_the_answer(http):
    question = "Mara has 3 boxes with 4 pens each and buys 5 more pens. How many pens?"
    messages = [
        {"role": "system", "content": "Think before you answer."},
        {"role": "user", "content": question},
    ]
    message = answer(http, messages=messages, max_tokens=60)["choices"][0]["message"]
    assert "<|" not in (message["content"] or "") + message.get("reasoning_content", "")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(http, messages=messages, max_tokens=60)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message.get(
        "reasoning_content", ""
    )
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    shown = answer(http, messages=messages, max_tokens=60, skip_special_tokens=False)["choices"][0]["message"]
    if message.get("reasoning_content"):
        assert shown["content"].startswith("<|think|>")
