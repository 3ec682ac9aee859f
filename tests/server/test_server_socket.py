"""The programs' WebSocket, message by message, on the real engine."""

from __future__ import annotations

import json
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from sgl_runtime.server import ServerOptions
from sgl_runtime.server.testing import LiveServer, wait_idle

TEXT = {"type": "text", "id": 0, "text": "a -> A\nb -> B\nc ->"}
GEN = {"type": "gen", "id": 1, "sampling": {"max_tokens": 4, "temperature": 0.0}}
ENDLESS = {"type": "gen", "id": 1, "sampling": {"max_tokens": 3000, "ignore_eos": True}}
HOLE = {"type": "hole", "id": 2}


def extend(*nodes):
    return {"type": "extend", "branch": 0, "nodes": list(nodes)}


def begin(tag, *operations, **fields):
    return {"type": "begin", "tag": tag, "operations": list(operations), **fields}


class Client:
    """One socket; `of` gives the events of a tag as they come."""

    def __init__(self, url, **options):
        self._connection = connect("ws" + url.removeprefix("http") + "/v1/programs/ws", **options)
        self.errors = []
        self.events = {}

    def __enter__(self):
        self.socket = self._connection.__enter__()
        return self

    def __exit__(self, *what):
        self._connection.__exit__(*what)

    def send(self, *messages):
        for message in messages:
            self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def read(self):
        message = json.loads(self.socket.recv(timeout=30))
        if "error" in message:
            self.errors.append(message)
        else:
            self.events.setdefault(message["tag"], []).extend(message["events"])

    def finish(self, tag):
        while not self.over(tag):
            self.read()
        return self.events[tag]

    def over(self, tag):
        last = (self.events.get(tag) or [{}])[-1]
        return last.get("type") == "finished" or (last.get("type") == "failed" and last.get("branch") is None)

    def refused(self):
        while not self.errors:
            self.read()
        return self.errors.pop(0)


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client
    wait_idle(server.client)


def ready(events):
    return [event["text"] for event in events if event["type"] == "ready"]


def test_programs_of_one_socket_are_told_apart(client, http):
    client.send(begin("a", extend(TEXT, GEN)), begin("b", extend(TEXT, GEN, HOLE), open=True))
    assert client.finish("a")[0]["type"] == "program"
    client.send({"type": "operations", "tag": "b", "operations": [{"type": "fill", "node": 2, "text": "!"}]})
    client.send({"type": "operations", "tag": "b", "operations": [{"type": "end"}]})
    assert ready(client.finish("b")) == ready(client.events["a"])
    body = {"operations": [extend(TEXT, GEN)]}
    wanted = [
        json.loads(line[6:])
        for line in http.post("/v1/programs", json=body).text.split("\n\n")
        if line.startswith("data: ")
    ]
    assert ready(client.events["a"]) == ready(wanted)
    assert [event["type"] for event in client.events["a"]] == [event["type"] for event in wanted]


def test_a_tag_is_free_again_once_its_program_is_over(client):
    for _ in range(20):
        client.send(begin("a", extend(TEXT, GEN)))
        assert client.finish("a")[-1]["type"] == "finished"
        client.events.clear()
    assert not client.errors


def test_a_program_is_one_of_the_servers(client, http):
    """Its id is as good over HTTP."""
    client.send(begin("a", extend(TEXT, HOLE), open=True))
    while not client.events:
        client.read()
    assert http.delete(f"/v1/programs/{client.events['a'][0]['id']}").status_code == 202
    assert client.finish("a")[-1]["error"]["code"] == "cancelled"


def test_cancel(client, server):
    client.send(begin("a", extend(TEXT, ENDLESS)), begin("b", extend(TEXT, HOLE, GEN), open=True))
    client.send({"type": "cancel", "tag": "a"})
    assert client.finish("a")[-1]["error"]["code"] == "cancelled"
    fill = [{"type": "fill", "node": 2, "text": "!"}, {"type": "end"}]
    client.send({"type": "operations", "tag": "b", "operations": fill})
    assert client.finish("b")[-1]["type"] == "finished"


BAD = [
    ("{", None, "body", "JSON"),
    (b"\xff\xfe", None, "body", "JSON"),
    ("[1]", None, "body", "array"),
    ("{}", None, "body", "type"),
    ({"type": "boom", "tag": "z"}, "z", "type", "boom"),
    ({"type": "begin"}, None, "body", "tag"),
    (begin(""), "", "tag", "characters"),
    (begin("t" * 65), "t" * 65, "tag", "characters"),
    (begin(7), None, "tag", "str"),
    (begin("z", {"type": "boom"}), "z", "operations[0].type", "boom"),
    (begin("z", options={"stream": 1}), "z", "options.stream", "bool"),
    (begin("z", magic=1), "z", "magic", "unknown"),
    (begin("z", model="other"), "z", "model", "other"),
    (begin("z", options={"namespace": "x" * 1000}), "z", "cache_salt", "256"),
    (begin("held"), "held", "tag", "runs on this socket"),
    ({"type": "operations", "tag": "z", "operations": []}, "z", "tag", "no program"),
    (
        {"type": "operations", "tag": "held", "operations": [{"type": "fill"}]},
        "held",
        "operations[0]",
        "node",
    ),
    ({"type": "cancel", "tag": "z"}, "z", "tag", "no program"),
    ("[" * 100_000, None, "body", ""),
]


@pytest.mark.parametrize(("message", "tag", "place", "text"), BAD)
def test_bad_messages_are_named_and_hurt_nobody(client, message, tag, place, text):
    client.send(begin("held", extend(TEXT, HOLE, GEN), open=True))
    client.send(message)
    refused = client.refused()
    assert refused["tag"] == tag
    assert refused["error"]["place"] == place, refused
    assert text in refused["error"]["message"], refused
    fill = [{"type": "fill", "node": 2, "text": "!"}, {"type": "end"}]
    client.send({"type": "operations", "tag": "held", "operations": fill})
    assert client.finish("held")[-1]["type"] == "finished"


def test_closing_the_socket_cancels_its_programs(server):
    with Client(server.url) as client:
        client.send(*(begin(str(at), extend(TEXT, ENDLESS)) for at in range(4)))
        client.read()
    wait_idle(server.client)
    _until(lambda: server.app.state.programs.count == 0 and server.app.state.serving.load.running == 0)


@pytest.fixture(scope="module")
def small(engine):
    options = ServerOptions(
        api_key=("first-secret",), max_body_bytes=2000, max_requests=3, slow_client_events=50,
        allow_origin=("http://page",),
    )  # fmt: skip
    with LiveServer(engine, options) as live:
        yield live
    wait_idle(engine)


def key(**more):
    return {"additional_headers": {"Authorization": "Bearer first-secret"}, **more}


def test_keys_and_origins(small):
    host = small.url.removeprefix("http://")
    for options, status, code in [
        ({}, 401, "invalid_api_key"),
        (key(additional_headers={"Authorization": "Bearer wrong"}), 401, "invalid_api_key"),
        (key(origin="http://evil"), 403, "forbidden"),
        (key(origin=f"http://evil.{host}"), 403, "forbidden"),
    ]:
        with pytest.raises(InvalidStatus) as caught:
            Client(small.url, **options).__enter__()
        assert caught.value.response.status_code == status
        assert json.loads(caught.value.response.body)["error"]["code"] == code
    for options in (key(), key(origin="http://page"), key(origin=small.url)):
        with Client(small.url, **options) as client:
            client.send(begin("a", extend(TEXT, GEN)))
            assert client.finish("a")[-1]["type"] == "finished"


def test_sizes(small):
    with Client(small.url, **key()) as client:
        client.send(begin("big", extend({**TEXT, "text": "x" * 2500})))
        refused = client.refused()
        assert (refused["tag"], refused["error"]["code"]) == ("big", "request_too_large")
        client.send(begin("a", extend(TEXT, GEN)))
        assert client.finish("a")[-1]["type"] == "finished"
        client.send("x" * 5000)
        with pytest.raises(ConnectionClosed, match="1009"):
            client.refused()


def test_every_program_counts_as_a_request(small):
    with Client(small.url, **key()) as client:
        client.send(*(begin(str(at), extend(TEXT, HOLE), open=True) for at in range(3)))
        refused = client.refused()
        assert (refused["tag"], refused["error"]["code"]) == ("2", "overloaded")
        with pytest.raises(InvalidStatus, match="503"):
            Client(small.url, **key()).__enter__()
        client.send({"type": "cancel", "tag": "0"})
        client.finish("0")
        client.send(begin("2", extend(TEXT, GEN)))
        assert client.finish("2")[-1]["type"] == "finished"


def test_a_reader_that_does_not_read_is_cut_off(engine):
    """Its programs end, although the socket stays open: nothing is kept beyond the bound and small buffers."""
    with LiveServer(engine, ServerOptions(slow_client_events=50)) as live, socket.socket() as raw:
        live._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(live._socket.getsockname())
        with Client(live.url, sock=raw, max_queue=1, max_size=None) as client:
            nodes = {**ENDLESS, "sampling": {**ENDLESS["sampling"], "logprobs": 20}}
            client.send(*(begin(tag, extend(TEXT, nodes), options={"stream": True}) for tag in "ab"))
            _until(lambda: engine.stats()["programs_open"] == 2)
            wait_idle(engine, 60)
            assert {client.finish(tag)[-1].get("error", {}).get("code") for tag in "ab"} == {"overloaded"}
            client.send(begin("c", extend(TEXT, GEN)))
            assert client.finish("c")[-1]["type"] == "finished"


def _until(ready_now):
    end = time.monotonic() + 10
    while not ready_now():
        assert time.monotonic() < end
        time.sleep(0.01)
