"""Anthropic's Messages API: a small server of this machine speaks the protocol, and remembers what it was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import sgl_lang as sgl

USAGE = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": 3,
    "output_tokens": 2,
}


class Endpoint(ThreadingHTTPServer):
    """Answers are blocks (or a text), an int for an error status, or raw bytes of a stream; the last one repeats."""

    daemon_threads = True

    def __init__(self, *answers, stop_reason="end_turn"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.stop_reason = stop_reason
        self.requests, self.headers, self.lock = [], [], threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def backend(self, **options):
        return sgl.Anthropic("m", "k", base_url=f"http://127.0.0.1:{self.server_address[1]}", **options)

    def take(self, body, headers):
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/messages"
        answer = self.server.take(body, dict(self.headers))
        if isinstance(answer, int):
            error = {"type": "error", "error": {"type": "some_error", "message": "try later"}}
            return self.reply(answer, json.dumps(error).encode())
        if isinstance(answer, bytes):
            return self.reply(200, answer)
        blocks = [{"type": "text", "text": answer}] if isinstance(answer, str) else answer
        if body.get("stream"):
            return self.reply(200, streamed(blocks, self.server.stop_reason))
        message = {"type": "message", "role": "assistant", "content": blocks, "usage": USAGE}
        message["stop_reason"] = self.server.stop_reason
        return self.reply(200, json.dumps(message).encode())

    def reply(self, status, content):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def sse(*events):
    return b"".join(f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode() for item in events)


def streamed(blocks, reason):
    events = [
        {"type": "message_start", "message": {"usage": {**USAGE, "output_tokens": 1}}},
        {"type": "ping"},
    ]
    for at, block in enumerate(blocks):
        if block["type"] == "text":
            start, deltas = (
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": c} for c in block["text"]],
            )
        else:
            text = json.dumps(block["input"])
            start = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", text[:4], text[4:])]
        events.append({"type": "content_block_start", "index": at, "content_block": start})
        events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": at})
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}})
    return sse(*events, {"type": "message_stop"})


@sgl.function
def chat(s, **arguments):
    s += sgl.system("Be brief.") + sgl.user("Hi") + sgl.assistant(sgl.gen("x", **arguments))
    s += sgl.user(f"You said {s['x']}") + sgl.assistant(sgl.gen("y", max_tokens=3, temperature=0, stop="!"))


def test_requests_and_values():
    with Endpoint("hello", "there") as endpoint, endpoint.backend() as backend:
        state = chat.run(backend=backend)
    assert (state["x"], state["y"]) == ("hello", "there")
    first, second = endpoint.requests
    assert first == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert second["messages"][1:] == [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "You said hello"},
    ]
    assert (second["max_tokens"], second["temperature"], second["stop_sequences"]) == (3, 0, ["!"])
    headers = {name.lower(): value for name, value in endpoint.headers[0].items()}
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("k", "2023-06-01")
    usage = state.usage("x")
    assert (usage.prompt_tokens, usage.cached_tokens, usage.decoded_tokens) == (9, 3, 2)


@sgl.function
def typed(s):
    s += sgl.user("?") + sgl.assistant(sgl.gen("x", json_schema={"type": "object", "required": ["a"]}))
    s += sgl.user("?") + sgl.assistant(sgl.select("y", ["yes", "no"]))
    s += sgl.user("?") + sgl.assistant(sgl.gen("z", regex="[0-9]+"))


def test_structured_outputs():
    with Endpoint('{"a":1}', '{"value":"no"}', "bad", "12") as endpoint, endpoint.backend() as backend:
        assert typed.run(backend=backend).variables() == {"x": {"a": 1}, "y": "no", "z": "12"}
    formats = [
        request.get("output_config", {}).get("format", {}).get("schema") for request in endpoint.requests
    ]
    assert formats[0] == {"type": "object", "required": ["a"]}
    assert formats[1]["properties"]["value"]["enum"] == ["yes", "no"]
    assert formats[2:] == [None, None]


def use(name, **given):
    return [{"type": "tool_use", "id": "t1", "name": name, "input": given}]


@pytest.mark.parametrize("stream", [False, True])
def test_structured_outputs_by_a_forced_tool(stream):
    answers = (use("sgl_answer", a=1), use("sgl_answer", value="no"), "12")
    with Endpoint(*answers) as endpoint, endpoint.backend(structured="tool") as backend:
        if stream:
            state = typed.stream(backend=backend)
            assert '{"a": 1}' in "".join(state.text_iter())
        else:
            state = typed.run(backend=backend)
        assert state.variables() == {"x": {"a": 1}, "y": "no", "z": "12"}
        first = endpoint.requests[0]
        assert first["tool_choice"] == {
            "type": "tool",
            "name": "sgl_answer",
            "disable_parallel_tool_use": True,
        }
        assert first["tools"][0]["input_schema"] == {"type": "object", "required": ["a"]}
        with pytest.raises(sgl.UnsupportedFeature, match="is an object"):
            chat.run(json_schema={"type": "array"}, backend=backend)


def test_streaming():
    with Endpoint("abc", stop_reason="max_tokens") as endpoint, endpoint.backend() as backend:
        state = chat.stream(backend=backend)
        assert "".join(state.text_iter("x")) == "abc"
        deltas = [event for event in state.events() if type(event).__name__ == "Delta" and event.text]
        assert [event.text for event in deltas][:3] == ["a", "b", "c"]
        list(state.text_iter())
        assert state.meta("x").finish_reason == "length"
        assert (state.usage("x").prompt_tokens, state.usage("x").decoded_tokens) == (9, 9)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (sse({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}), sgl.Overloaded),
        (
            sse({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}),
            sgl.InvalidRequest,
        ),
        (streamed([], "end_turn")[:-60], sgl.EngineFailure),
    ],
)
def test_errors_inside_a_stream(stream, error):
    with Endpoint(stream) as endpoint, endpoint.backend(max_retries=0) as backend:
        state = chat.stream(backend=backend)
        with pytest.raises(error):
            list(state.text_iter())


def test_errors_and_retries():
    with Endpoint(401) as endpoint, endpoint.backend() as backend:
        with pytest.raises(sgl.InvalidRequest, match="try later"):
            chat.run(backend=backend)
        assert len(endpoint.requests) == 1
    with Endpoint(529, "fine") as endpoint, endpoint.backend() as backend:
        assert chat.run(backend=backend)["x"] == "fine"
    with (
        Endpoint("never") as endpoint,
        endpoint.backend(max_retries=1) as backend,
        pytest.raises(sgl.ValidationFailed, match="2 attempts"),
    ):
        chat.run(regex="[0-9]", backend=backend)


def test_what_the_protocol_cannot_say_is_refused():
    cases = [
        ({"seed": 1}, "'seed'"),
        ({"logprobs": 2}, "'logprobs'"),
        ({"logit_bias": {1: 2.0}}, "'logit_bias'"),
        ({"frequency_penalty": 0.5}, "'frequency_penalty'"),
        ({"lark": "start: A"}, "'lark'"),
        ({"temperature": 1.5}, "temperature above 1"),
    ]
    with Endpoint("a") as endpoint, endpoint.backend(max_retries=0) as backend:
        for arguments, message in [*cases, ({"regex": "a"}, "'regex'")]:
            with pytest.raises(sgl.UnsupportedFeature, match=message):
                chat.run(**arguments, backend=backend)
        for code, message in [
            (lambda s: s.append("raw" + sgl.gen("x")), "outside of messages"),
            (
                lambda s: s.append(sgl.user("?") + sgl.system("!") + sgl.assistant(sgl.gen("x"))),
                "after others",
            ),
        ]:
            with pytest.raises(sgl.UnsupportedFeature, match=message):
                sgl.function(code).run(backend=backend)
        assert not endpoint.requests
    for wrong in ({"structured": "magic"}, {"max_tokens": 0}):
        with pytest.raises(sgl.InvalidRequest, match=next(iter(wrong))):
            sgl.Anthropic("m", **wrong)


def test_images_and_prefilled_answers():
    @sgl.function
    def program(s):
        s += sgl.user("See ", sgl.image("data:image/png;base64,AA==")) + sgl.assistant("A: " + sgl.gen("x"))

    with Endpoint("a") as endpoint, endpoint.backend(continue_message=True) as backend:
        assert program.run(backend=backend)["x"] == "a"
    user, assistant = endpoint.requests[0]["messages"]
    assert user["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AA=="}
    assert assistant == {"role": "assistant", "content": "A: "}


@sgl.tool
def add(left: int, right: int) -> int:
    """Add."""
    return left + right


@pytest.mark.parametrize("stream", [False, True])
def test_agents(stream):
    agent = sgl.agent([add])
    with Endpoint(use("add", left=40, right=2), "42") as endpoint, endpoint.backend() as backend:
        if stream:
            state = agent.stream("40 + 2?", backend=backend)
            list(state.events())
            assert state["step_0"].calls[0].arguments == {"left": 40, "right": 2}
        else:
            assert agent.run("40 + 2?", backend=backend).ret_value == "42"
    first, second = endpoint.requests
    assert first["tools"][0]["name"] == "add"
    assert first["tools"][0]["input_schema"]["required"] == ["left", "right"]
    assert first["tool_choice"]["type"] == "auto"
    call, result = second["messages"][-2]["content"][-1], second["messages"][-1]["content"][0]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "add", {"left": 40, "right": 2})
    assert result == {"type": "tool_result", "tool_use_id": call["id"], "content": "42"}


def test_forks_are_parallel_requests_and_gens_of_a_message_are_one():
    @sgl.function
    def program(s):
        s += sgl.user("?")
        forks = s.fork(3)
        with forks[0].assistant():
            forks[0] += "A: " + sgl.gen("a", max_tokens=4) + " B: " + sgl.gen("b", stop=".")
        forks[1] += sgl.assistant(sgl.gen("a"))
        forks[2] += sgl.assistant(sgl.gen("a"))
        forks.join()

    with Endpoint("A: one B: two.") as endpoint, endpoint.backend() as backend:
        state = program.run(backend=backend)
        assert (state["a"][0], state["b"][0], backend.saved_calls) == ("one", "two", 1)
    assert len(endpoint.requests) == 3
    assert not any("stop_sequences" in request for request in endpoint.requests)
