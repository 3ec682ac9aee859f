"""Programs over HTTP give what they give in process."""

import asyncio
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))

from engine_cases import make_engine

import sgl_lang as sgl
from sgl_runtime.engine.client import LocalClient
from sgl_runtime.model.info import ModelInfo
from sgl_runtime.server.app import create_app


@pytest.fixture(scope="module")
def engine():
    fake = make_engine(num_pages=512, max_context=2048, printable=True)
    if not hasattr(fake.runner, "info"):
        fake.runner.info = ModelInfo(
            name="fake", architecture="fake", vocab_size=264, max_context=2048, hidden=1, layers=1, heads=1, kv_heads=1,
            head_dim=1, dtype="float32", weight_bytes=0, kv_bytes_per_token=0,
        )  # fmt: skip
    backend = sgl.Engine.of(LocalClient(fake))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def url(engine):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = create_app(engine.client, close_client=False)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def remote(url):
    with sgl.Remote(url) as backend:
        yield backend


@sgl.function(temperature=0, max_tokens=6)
def static(s, topic):
    s += sgl.user(f"About {topic}.")
    with s.assistant():
        s += "Once " + sgl.gen("one")
        forks = s.fork(2)
        forks += lambda at: f"[{at}]"
        forks += sgl.gen("many")
        forks.join()
        s += f"{s['one']}, {s['many'][1]}: " + sgl.select("best", ["good", "bad"])


@sgl.function(temperature=0, max_tokens=6)
def dynamic(s, topic):
    s += f"About {topic}: " + sgl.gen("one")
    hole = s.hole("given")
    s += sgl.gen("two")
    s.fill(hole, f"<{str(s['one']).upper()}>")
    if s["two"]:
        s += " and " + sgl.gen("three")


def values(state):
    return {**state.variables(), "text": state.text()}


@pytest.mark.parametrize("program", [static, dynamic])
def test_the_same_as_in_process(program, engine, remote):
    wanted = values(program.run("ships", backend=engine))
    assert values(program.run("ships", backend=remote)) == wanted
    batch = program.run_batch([{"topic": "ships"}] * 12, backend=remote)
    assert [values(state) for state in batch] == [wanted] * 12
    streamed = program.stream("ships", backend=remote)
    assert "".join(streamed.text_iter()).strip().endswith(wanted["text"][-5:].strip())


def test_async_programs(engine, remote):
    @sgl.function(temperature=0, max_tokens=6)
    async def program(s, topic):
        s += f"About {topic}: " + sgl.gen("one")
        s += f"{await s['one']}" + sgl.gen("two")

    wanted = values(asyncio.run(program.run("tea", backend=engine)))
    got = asyncio.run(program.run_batch([("tea",)] * 8, backend=remote))
    assert [values(state) for state in got] == [wanted] * 8


def test_errors_keep_their_class_and_line(remote):
    @sgl.function
    def too_long(s):
        s += "x" * 5000 + sgl.gen("x")

    with pytest.raises(sgl.ContextOverflow) as caught:
        too_long.run(backend=remote)
    assert caught.value.line.startswith("test_language_remote.py:")


def test_cancelling_reaches_the_server(engine, remote):
    @sgl.function(max_tokens=1500, ignore_eos=True, temperature=0)
    def endless(s):
        s += "go" + sgl.gen("before")
        s.hole("never filled")
        s += sgl.gen("x")
        s.get("x", timeout=0.2)

    with pytest.raises(sgl.DeadlineExceeded):
        endless.run(backend=remote)
    end = time.monotonic() + 5
    while engine.client.engine._open_count and time.monotonic() < end:
        time.sleep(0.01)
    assert engine.client.engine._open_count == 0


def test_a_dead_server_is_an_error_not_a_hang():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with sgl.Remote(f"http://127.0.0.1:{port}") as backend:
        with pytest.raises(sgl.ConnectionFailed, match="is the server running"):
            static.run("x", backend=backend)
        with pytest.raises(sgl.ConnectionFailed):
            backend.info()
    with pytest.raises(sgl.ConnectionFailed, match="was closed"):
        static.run("x", backend=backend)
    with pytest.raises(sgl.InvalidRequest, match="no http or https URL"):
        sgl.Remote("localhost:30000")


def test_info(remote):
    assert remote.info()["object"] == "model"
