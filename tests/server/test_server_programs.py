"""Request trees over HTTP on the real engine."""

from __future__ import annotations

import json
import threading
import time

import httpx
import msgspec
import pytest

from sgl_lang.tree import Event
from sgl_runtime.server.testing import wait_idle

TEXT = {"type": "text", "id": 0, "text": "a -> A\nb -> B\nc ->"}
GEN = {"type": "gen", "id": 1, "sampling": {"max_tokens": 4, "temperature": 0.0}}
HOLE = {"type": "hole", "id": 2}


def extend(*nodes, branch=0):
    return {"type": "extend", "branch": branch, "nodes": list(nodes)}


def events(text):
    return [
        json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: ")
    ]


def run(http, *operations, **body):
    response = http.post("/v1/programs", json={"operations": list(operations), **body})
    assert response.status_code == 200, response.text
    return events(response.text)


def of_kind(items, kind):
    return [item for item in items if item["type"] == kind]


def test_the_first_event_is_the_id_and_the_last_the_end(http):
    got = run(http, extend(TEXT, GEN))
    assert got[0]["type"] == "program"
    assert len(got[0]["id"]) >= 32
    assert got[-1]["type"] == "finished"
    (ready,) = of_kind(got, "ready")
    assert ready["node"] == 1
    for item in got[1:]:
        msgspec.convert(item, Event)
    again = run(http, extend(TEXT, GEN))
    assert again[0]["id"] != got[0]["id"]
    assert of_kind(again, "ready")[0]["text"] == ready["text"]


def test_a_fork_shares_its_prefix(http):
    operations = [
        extend(TEXT),
        {"type": "fork", "branch": 0, "children": [1, 2, 3]},
        *(extend({**GEN, "id": 10 + branch}, branch=branch) for branch in (1, 2, 3)),
    ]
    got = run(http, *operations)
    assert len({item["text"] for item in of_kind(got, "ready")}) == 1, "greedy"
    alone = run(http, extend(TEXT, GEN))
    assert got[-1]["usage"]["prompt_tokens"] == alone[-1]["usage"]["prompt_tokens"]


def test_streamed_text_joins_to_the_whole(http):
    got = run(http, extend(TEXT, GEN), options={"stream": True})
    (ready,) = of_kind(got, "ready")
    assert "".join(item["text"] for item in of_kind(got, "delta")) == ready["text"]


def test_an_open_program_goes_on_over_several_requests(server, http):
    seen, ready = {}, threading.Event()
    body = {"open": True, "operations": [extend(TEXT, GEN, HOLE, {**GEN, "id": 3})]}
    with (
        http.stream("POST", "/v1/programs", json=body) as response,
        httpx.Client(base_url=server.url) as other,
    ):
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "program":
                path = f"/v1/programs/{event['id']}/operations"
                fill = {"operations": [{"type": "fill", "node": 2, "text": " and so on"}, {"type": "end"}]}
            elif event["type"] == "ready":
                seen[event["node"]] = event["text"]
                if not ready.is_set():
                    ready.set()
                    assert other.post(path, json=fill).status_code == 202
    assert set(seen) == {1, 3}
    assert http.post(path, json=fill).status_code == 404, "the program is over"


def test_delete_cancels(server, http):
    body = {"open": True, "operations": [extend(TEXT, HOLE)]}
    got = []
    with (
        http.stream("POST", "/v1/programs", json=body) as response,
        httpx.Client(base_url=server.url) as other,
    ):
        for line in response.iter_lines():
            if line.startswith("data: "):
                got.append(json.loads(line.removeprefix("data: ")))
                if got[-1]["type"] == "program":
                    assert other.delete(f"/v1/programs/{got[0]['id']}").status_code == 202
    assert got[-1]["type"] == "failed"
    assert got[-1]["error"]["code"] == "cancelled"


def test_hanging_up_cancels(server, http):
    body = {"open": True, "operations": [extend(TEXT, HOLE)]}
    with http.stream("POST", "/v1/programs", json=body) as response:
        next(response.iter_lines())
    wait_idle(server.client)
    end = time.monotonic() + 10
    while server.app.state.programs.count and time.monotonic() < end:
        time.sleep(0.01)
    assert server.app.state.programs.count == 0


def test_ids_are_matched_whole(server, http):
    body = {"open": True, "operations": [extend(TEXT, HOLE)]}
    with (
        http.stream("POST", "/v1/programs", json=body) as response,
        httpx.Client(base_url=server.url) as other,
    ):
        lines = response.iter_lines()
        program = json.loads(next(lines).removeprefix("data: "))["id"]
        for guess in (program[:8], program[:-1], program + "0", "%00", "*", "../" + program):
            assert other.delete(f"/v1/programs/{guess}").status_code in (404, 405)
        assert server.app.state.programs.count == 1


def test_a_failed_node_is_an_event(http):
    got = run(http, extend(TEXT, {**GEN, "constraint": {"type": "regex", "pattern": "[a"}}))
    failed = of_kind(got, "failed")[0]
    assert failed["node"] == 1
    assert failed["error"]["code"] == "invalid_constraint"


@pytest.mark.parametrize(
    "operations",
    [
        [extend(GEN, branch=7)],
        [extend(TEXT, TEXT)],
        [{"type": "fill", "node": 9, "text": "x"}],
        [{"type": "fork", "branch": 0, "children": []}],
        [extend({"type": "value", "id": 5, "of": 99})],
        [extend({"type": "tokens", "id": 5, "ids": [10**9]})],
        [extend({"type": "chat", "id": 5, "messages": "{"})],
        [extend({"type": "chat", "id": 5, "messages": "[]", "template_options": {"messages": "x"}})],
    ],
)
def test_operations_that_do_not_fit_fail_the_program_only(http, operations):
    got = run(http, *operations)
    assert of_kind(got, "failed"), got
    assert all(item["error"]["code"] != "engine_failure" for item in of_kind(got, "failed"))
    assert of_kind(run(http, extend(TEXT, GEN)), "ready")


@pytest.mark.parametrize(
    "body",
    [
        {"operations": [{"type": "boom"}]},
        {"operations": [{"type": "extend", "branch": 0, "nodes": [], "x": 1}]},
        {"operations": [extend({**GEN, "sampling": {"temperature": -1}})]},
        {"options": {"stream": 1}},
        {"magic": True},
        {"options": {"namespace": "x" * 1000}},
    ],
)
def test_bodies_of_the_wrong_form_are_400(http, body):
    response = http.post("/v1/programs", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"]
