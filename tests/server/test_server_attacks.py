"""Requests that brought other servers down. Each may be refused or served; the engine must stay whole and clean."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from sgl_runtime.server.testing import wait_idle

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def tool(name="f", parameters=None, **rest):
    return {"type": "function", "function": {"name": name, "parameters": parameters or {}, **rest}}


BOMBS = {
    "nested quantifiers": {"regex": "(a+)+b"},
    "counted wildcards": {"regex": "(.*a){25}"},
    "huge repeat": {"regex": "(a{1,1000}){1,1000}"},
    "deep groups": {"regex": "(" * 30_000 + "a" + ")" * 30_000},
    "double star": {"regex": "foo**"},
    "open class": {"regex": "["},
    "back reference": {"regex": "(a)\\1"},
    "surrogate": {"regex": "\\ud800"},
    "null": {"regex": "\x00"},
    "empty regex": {"regex": ""},
    "left recursion": {"ebnf": 'root ::= root "a" | "b"'},
    "self reference": {"ebnf": "root ::= root"},
    "endless rule": {"ebnf": 'root ::= "a" root'},
    "open quote": {"ebnf": 'root ::= "a'},
    "no root": {"ebnf": 'top ::= "a"'},
    "wide rules": {"ebnf": "root ::= " + " | ".join(f'"{index}"' for index in range(20_000))},
    "open lark": {"lark": 'start: "a'},
    "lark recursion": {"lark": "start: start"},
    "huge enum": {"json_schema": {"enum": [f"value {index}" for index in range(70_000)]}},
    "deep schema": {"json_schema": nested(400)},
    "long string": {"json_schema": {"type": "string", "minLength": 100_000, "maxLength": 10_000_000}},
    "endless reference": {"json_schema": {"$ref": "#"}},
    "reference to nowhere": {"json_schema": {"$ref": "http://127.0.0.1:9/schema"}},
    "reference to a file": {"json_schema": {"$ref": "file:///etc/passwd"}},
    "wrong type": {"json_schema": {"type": 7}},
    "wrong pattern": {"json_schema": {"type": "string", "pattern": "["}},
    "never": {"json_schema": False},
    "contradiction": {"json_schema": {"type": "integer", "minimum": 5, "maximum": 4}},
    "recursive": {
        "json_schema": {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}}
    },
    "empty choices": {"choices": []},
    "many choices": {"choices": [f"choice {index}" for index in range(5_000)]},
    "tool pattern": {
        "tools": [
            tool(parameters={"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}})
        ]
    },
    "tool type": {"tools": [tool(parameters={"type": "object", "properties": {"a": {"type": "nope"}}})]},
    "tool name": {"tools": [tool(name='x","arguments":{}}')]},
    "many tools": {"tools": [tool(name=f"f{index}") for index in range(1000)]},
    "negative token": {"stop_token_ids": [-1]},
    "bias outside": {"logit_bias": {"999999": 1}},
    "all forbidden": {"logit_bias": {str(token): -100 for token in range(1000)}},
    "nan": {"temperature": float("nan")},
    "infinite": {"presence_penalty": float("inf")},
    "huge seed": {"seed": 2**200},
    "huge n": {"n": 10**9},
    "huge max_tokens": {"max_tokens": 10**18},
    "template": {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"},
    "template options": {"chat_template_kwargs": {"tokenize": True, "messages": []}},
    "stop regex": {"stop_regex": "(a*)*b"},
    "huge stop regex": {"stop_regex": "(a{1,900}){1,900}"},
    "namespace": {"cache_salt": "\x00\n{}"},
}


def well(http):
    """The server answers an ordinary request as ever."""
    response = http.post(CHAT, json=BODY)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_hurts_nobody_else(http, name):
    before = well(http)
    body = json.dumps({**BODY, **BOMBS[name]})
    with ThreadPoolExecutor(1) as pool:
        attack = pool.submit(http.post, CHAT, content=body)
        while not attack.done():
            assert http.get("/health", timeout=20).status_code == 200
            time.sleep(0.02)
        response = attack.result()
    assert response.status_code in (200, 400, 413, 408), (response.status_code, response.text)
    if response.status_code != 200:
        assert response.json()["error"]["message"]
    assert well(http) == before


def test_schemas_without_end_do_not_fill_the_memory(http):
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    well(http)
    before = process.memory_info().rss
    for index in range(120):
        schema = {"enum": [f"{index} {other}" for other in range(20)]}
        assert http.post(CHAT, json={**BODY, "json_schema": schema}).status_code == 200
    assert process.memory_info().rss - before < 200 << 20


HANGING = [
    {"stream": True, "max_tokens": 2000, "ignore_eos": True},
    {"n": 4, "max_tokens": 2000, "ignore_eos": True},
    {"json_schema": nested(30), "max_tokens": 2000},
    {"regex": "[a-z ]{500,900}", "max_tokens": 2000, "stream": True, "n": 2},
    {"choices": [f"choice number {index}" for index in range(2000)], "stream": True},
]


def test_hanging_up_at_any_moment_leaves_nothing_behind(server, http):
    before = well(http)
    host, port = server.url.removeprefix("http://").split(":")
    randomness = random.Random(4)

    def attack(index):
        data = json.dumps({**BODY, **HANGING[index % len(HANGING)]}).encode()
        cut = randomness.choice([len(data), len(data), len(data) // 2])
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + data[:cut])
            time.sleep(randomness.choice([0, 0.005, 0.05, 0.4]))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(attack, range(60)))
    stats = wait_idle(server.client, 60)
    assert stats["pages_free"] + stats["pages_cached"] == stats["pages_total"]
    assert well(http) == before
    http.post("/flush_cache")
    end = time.monotonic() + 10
    while server.client.stats()["pages_cached"] and time.monotonic() < end:
        time.sleep(0.01)
    assert server.client.stats()["pages_free"] == stats["pages_total"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x01\x02\x03",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"A" * 100_000,
    ],
)
def test_broken_http_is_no_harm(server, http, data):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data)
        connection.settimeout(0.3)
        with suppress(OSError):
            connection.recv(1000)
    assert http.get("/health").status_code == 200


def test_two_hundred_at_once(server, http):
    bodies = [
        {
            **BODY,
            "stream": index % 2 == 0,
            "max_tokens": 8,
            **({"regex": "[a-d]{3}"} if index % 3 == 0 else {}),
        }
        for index in range(200)
    ]

    def send(body):
        return httpx.post(f"{server.url}{CHAT}", json=body, timeout=120)

    with ThreadPoolExecutor(200) as pool:
        responses = list(pool.map(send, bodies))
    assert {response.status_code for response in responses} == {200}
    whole = [response.json()["choices"][0]["message"]["content"] for response in responses[1::2]]
    assert len({text for index, text in enumerate(whole) if (2 * index + 1) % 3}) == 1, (
        "greedy, whatever the batch"
    )
    streamed = [response.text for response in responses[0::2]]
    assert all(text.endswith("data: [DONE]\n\n") for text in streamed)
