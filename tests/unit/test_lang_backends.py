"""OpenAI-compatible endpoints (requests and answers replayed), and Fallback."""

import json

import httpx
import pytest

import sgl_lang as sgl
from sgl_lang.testing import PENDING, FakeBackend
from sgl_lang.tree import Text


class Endpoint:
    """Answers chat completions from a list; remembers the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        body = json.loads(request.content)
        self.requests.append(body)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {"message": "try later"}})
        if body.get("stream"):
            return httpx.Response(200, content=_stream(answer))
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
        choice = {"message": {"content": answer}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": usage})

    def backend(self, **options):
        return sgl.OpenAI("m", api_key="k", transport=httpx.MockTransport(self), **options)


def _stream(answer):
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in answer]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "length"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9}})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


@sgl.function
def chat(s, **arguments):
    s += sgl.system("Be brief.") + sgl.user("Hi") + sgl.assistant(sgl.gen("x", **arguments))
    s += sgl.user(f"You said {s['x']}") + sgl.assistant(sgl.gen("y", max_tokens=3, temperature=0))


def test_requests_and_values():
    endpoint = Endpoint("hello", "there")
    with endpoint.backend() as backend:
        state = chat.run(backend=backend)
    assert (state["x"], state["y"]) == ("hello", "there")
    assert endpoint.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    second = endpoint.requests[1]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "You said hello"},
    ]
    assert (second["max_completion_tokens"], second["temperature"], second["model"]) == (3, 0, "m")
    assert state.usage("x").cached_tokens == 3
    assert state.usage().decoded_tokens == 4


def test_constraints():
    endpoint = Endpoint('{"a":1}', '{"value":"no"}', "bad", "12")

    @sgl.function
    def program(s):
        s += sgl.user("?") + sgl.assistant(sgl.gen("x", json_schema={"type": "object", "required": ["a"]}))
        s += sgl.user("?") + sgl.assistant(sgl.select("y", ["yes", "no"]))
        s += sgl.user("?") + sgl.assistant(sgl.gen("z", regex="[0-9]+"))

    with endpoint.backend() as backend:
        state = program.run(backend=backend)
    assert state.variables() == {"x": {"a": 1}, "y": "no", "z": "12"}
    formats = [request.get("response_format") for request in endpoint.requests]
    assert formats[0]["json_schema"]["schema"] == {"type": "object", "required": ["a"]}
    assert formats[1]["json_schema"]["schema"]["properties"]["value"]["enum"] == ["yes", "no"]
    assert formats[2] is None
    assert len(endpoint.requests) == 4  # one regex was missed and asked for again
    assert state.usage("z").decoded_tokens == 4


def test_bounded_retries():
    with (
        Endpoint("never").backend(max_retries=1) as backend,
        pytest.raises(sgl.ValidationFailed, match="2 attempts"),
    ):
        chat.run(regex="[0-9]", backend=backend)
    endpoint = Endpoint(401)
    with endpoint.backend() as backend, pytest.raises(sgl.InvalidRequest, match="try later"):
        chat.run(backend=backend)
    assert len(endpoint.requests) == 1


def test_streaming_over_the_protocol():
    with Endpoint("abc").backend() as backend:
        state = chat.stream(backend=backend)
        assert list(state.text_iter("x"))[-1].endswith("c")
        list(state.text_iter())
        assert state.meta("x").finish_reason == "length"
        assert state.usage("x").decoded_tokens == 9


def test_what_the_protocol_cannot_say_is_refused():
    cases = [
        (
            lambda s: s.append(sgl.user("?") + sgl.assistant("A: " + sgl.select("x", ["a"]))),
            "continue_message",
        ),
        (lambda s: s.append("raw" + sgl.gen("x")), "outside of messages"),
        (lambda s: s.append(sgl.assistant(sgl.gen("x", top_k=2))), "'top_k'"),
        (lambda s: s.append(sgl.assistant(sgl.gen("x", lark="start: A"))), "'lark'"),
    ]
    with Endpoint("a").backend() as backend:
        for code, message in cases:
            with pytest.raises(sgl.UnsupportedFeature, match=message):
                sgl.function(code).run(backend=backend)


def test_continuing_a_message_and_images():
    endpoint = Endpoint("a")

    @sgl.function
    def program(s):
        s += sgl.user("See ", sgl.image("data:image/png;base64,AA==")) + sgl.assistant("A: " + sgl.gen("x"))

    with endpoint.backend(continue_message=True) as backend:
        program.run(backend=backend)
    request = endpoint.requests[0]
    assert request["continue_final_message"]
    assert request["messages"][1] == {"role": "assistant", "content": "A: "}
    assert request["messages"][0]["content"] == [
        {"type": "text", "text": "See "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]


def test_forks_are_parallel_requests():
    @sgl.function
    def program(s):
        s += sgl.user("?")
        forks = s.fork(3)
        forks += sgl.assistant(sgl.gen("x"))
        forks.join()

    endpoint = Endpoint("a")
    with endpoint.backend() as backend:
        assert program.run(backend=backend)["x"] == ["a", "a", "a"]
        assert len(program.run_batch([{}] * 10, backend=backend)) == 10


# --------------------------------------------------------------------------------------------------------- fallback


@sgl.function
def steps(s):
    s += "1" + sgl.gen("a")
    s += "2" + sgl.gen("b")
    if s["b"]:
        s += f"3{s['a']}" + sgl.gen("c")


def test_going_on_with_the_next_backend_keeps_what_is_known():
    first = FakeBackend({"a": "A", "b": sgl.EngineFailure("died")})
    second = FakeBackend({"b": "B", "c": "C"})
    state = steps.run(backend=sgl.Fallback([first, second]))
    assert state.text() == "1A2B3AC"
    assert [want.name for want in first.wants] == ["a", "b"]
    assert [want.name for want in second.wants] == ["b", "c"]
    texts = [node.text for _, node in second.trees[0].nodes() if isinstance(node, Text)]
    assert texts[:3] == ["1", "A", "2"]


def test_errors_that_another_try_cannot_help_are_raised():
    first = FakeBackend({"a": sgl.InvalidRequest("wrong")})
    second = FakeBackend()
    with pytest.raises(sgl.InvalidRequest, match="wrong"):
        steps.run(backend=sgl.Fallback([first, second]))
    assert second.wants == []
    both = [FakeBackend({"a": sgl.EngineFailure(name)}) for name in ("one", "two")]
    with pytest.raises(sgl.EngineFailure, match="two"):
        steps.run(backend=sgl.Fallback(both))


def test_unsupported_nodes_go_to_who_can_do_them():
    second = FakeBackend({"x": "a"})
    with Endpoint("a").backend() as first:
        backend = sgl.Fallback([first, second])
        state = sgl.function(lambda s: s.append("raw" + sgl.gen("x", lark="start: A"))).run(backend=backend)
        assert state["x"] == "a"
        assert len(second.wants) == 1

        @sgl.function
        def later(s):
            s += sgl.user("?") + sgl.assistant(sgl.gen("y"))
            str(s["y"])
            s += sgl.user("!") + sgl.assistant(sgl.gen("x", top_k=1))

        state = later.run(backend=backend)
    assert state.variables() == {"y": "a", "x": "a"}
    assert [want.name for want in second.wants] == ["x", "x"]


def test_cancelling_a_fallback():
    backend = FakeBackend({"a": PENDING})
    with pytest.raises(sgl.DeadlineExceeded):
        steps.run(backend=sgl.Fallback([backend]), deadline_s=0.01)
    assert backend.sessions[0].cancelled.is_set()
    with pytest.raises(sgl.InvalidRequest):
        sgl.Fallback([])


def test_a_dead_server_falls_back():
    with sgl.Remote("http://127.0.0.1:9") as dead:
        state = steps.run(backend=sgl.Fallback([dead, FakeBackend({"a": "A"})]))
    assert state["a"] == "A"


def test_budget_in_dollars():
    @sgl.function
    def program(s, turns):
        for _ in range(turns):
            s += sgl.user("?") + sgl.assistant(sgl.gen("x"))
            str(s["x"])

    with Endpoint("a").backend(dollars_per_million=(100_000, 250_000)) as backend:  # one turn costs a dollar
        assert program.run(2, backend=backend, budget_dollars=2.5).cost() == pytest.approx(2)
        with pytest.raises(sgl.BudgetExceeded, match=r"\$3\.0000, its budget is \$2\.5000"):
            program.run(9, backend=backend, budget_dollars=2.5)
    with pytest.raises(sgl.InvalidRequest, match="budget_dollars"):
        program.run(1, backend=FakeBackend(), budget_dollars=-1)


@sgl.tool
def add(left: int, right: int) -> int:
    """Add."""
    return left + right


class Caller(Endpoint):
    """Answers with a tool call first, then with text."""

    def __call__(self, request):
        body = json.loads(request.content)
        self.requests.append(body)
        if len(self.requests) > 1:
            return httpx.Response(
                200, json={"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}
            )
        arguments = '{"left":40,"right":2}'
        if not body.get("stream"):
            call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": arguments}}
            message = {"content": None, "tool_calls": [call]}
            return httpx.Response(
                200, json={"choices": [{"message": message, "finish_reason": "tool_calls"}]}
            )
        pieces = [{"index": 0, "id": "x", "function": {"name": "add", "arguments": ""}}]
        pieces += [{"index": 0, "function": {"arguments": part}} for part in (arguments[:5], arguments[5:])]
        chunks = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
        return httpx.Response(
            200, content="".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()
        )


@pytest.mark.parametrize("stream", [False, True])
def test_agents_on_a_chat_endpoint(stream):
    endpoint = Caller("")
    agent = sgl.agent([add])
    with endpoint.backend() as backend:
        if stream:
            state = agent.stream("40 + 2?", backend=backend)
            assert list(state.events())[-1] == state.execution.events[-1][1]
            assert state["step_0"].calls[0].arguments == {"left": 40, "right": 2}
            return
        state = agent.run("40 + 2?", backend=backend)
    assert state.ret_value == "42"
    first, second = endpoint.requests
    assert first["tools"][0]["function"]["name"] == "add"
    assert first["tool_choice"] == "auto"
    assert second["messages"][1]["tool_calls"][0]["id"] == second["messages"][2]["tool_call_id"] == "call_0_1"
    assert second["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"left":40,"right":2}'
    assert second["messages"][2] == {"role": "tool", "content": "42", "tool_call_id": "call_0_1"}


@sgl.function
def form(s):
    s += sgl.user("Fill in.")
    with s.assistant():
        s += (
            "Name: "
            + sgl.gen("name", stop="\n", max_tokens=10)
            + "\nAge: "
            + sgl.gen("age", int, max_tokens=3)
        )
        s += "\nKind: " + sgl.gen("kind", choices=["a", "ab"])
    s += sgl.user("Thanks.") + sgl.assistant(sgl.gen("bye"))


def test_several_gens_in_one_call():
    endpoint = Endpoint("Nonsense", " Name: Mara V.\nAge: 7\nKind: ab\n", "bye")
    with endpoint.backend() as backend:
        state = form.run(backend=backend)
        assert backend.saved_calls == 2
    assert state.variables() == {"name": "Mara V.", "age": 7, "kind": "ab", "bye": "bye"}
    assert len(endpoint.requests) == 3
    assert endpoint.requests[0]["messages"] == [{"role": "user", "content": "Fill in."}]
    assert "stop" not in endpoint.requests[0]
    assert endpoint.requests[2]["messages"][1]["content"] == "Name: Mara V.\nAge: 7\nKind: ab"
    assert state.usage().prompt_tokens == 15  # two attempts and the last turn


def test_speculation_that_never_matches_is_an_error():
    with (
        Endpoint("Nonsense").backend() as backend,
        pytest.raises(sgl.ValidationFailed, match="puts around its gens"),
    ):
        form.run(backend=backend)
    with Endpoint("x").backend(speculation=False) as backend, pytest.raises(sgl.UnsupportedFeature):
        form.run(backend=backend)
