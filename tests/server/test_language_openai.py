"""Programs on the chat-completions protocol, against our own server with the embedded model."""

import socket
import threading
import time
from typing import Literal

import pydantic
import pytest
import uvicorn

import sgl_lang as sgl
from sgl_runtime.server.app import create_app


@pytest.fixture(scope="module")
def backends():
    try:
        engine = sgl.Engine(threads=1)
    except sgl.InvalidRequest as error:
        pytest.skip(f"the embedded model is not there: {error}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(create_app(engine.client, close_client=False), log_level="error")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with sgl.OpenAI("default", base_url=f"{url}/v1") as chat, sgl.Remote(url) as remote:
            yield {"engine": engine, "chat": chat, "remote": remote}
        server.should_exit = True
        thread.join(10)
    engine.close()


class Guest(pydantic.BaseModel):
    name: str
    city: str
    guests: int


TEXT = "Hello, this is Mara Veldt from Oslo. I would like a table for 4 guests on Friday."


@sgl.function(temperature=0, max_tokens=80)
def extract(s):
    s += sgl.user(
        f"Extract these fields as JSON: name (string), city (string), guests (integer).\n\nText: {TEXT}"
    )
    s += sgl.assistant(sgl.gen("guest", Guest))
    s += sgl.user("Is the guest from Oslo? Answer yes or no.")
    s += sgl.assistant(sgl.gen("oslo", Literal["yes", "no"]))


@pytest.mark.parametrize("name", ["chat", "remote"])
def test_typed_values(backends, name):
    state = extract.run(backend=backends[name])
    assert isinstance(state["guest"], Guest)
    assert state["guest"] == extract.run(backend=backends["engine"])["guest"]
    assert state["oslo"] in ("yes", "no")
    assert state.usage("guest").prompt_tokens > 0


def test_streaming(backends):
    state = extract.stream(backend=backends["chat"])
    assert Guest.model_validate_json("".join(state.text_iter("guest"))) == state.get("guest")


@sgl.tool
def get_weather(city: str) -> dict[str, object]:
    """Get the current weather for a city."""
    return {"temperature": 12, "unit": "C"}


@pytest.mark.parametrize("name", ["chat", "remote"])
def test_agents(backends, name):
    agent = sgl.agent([get_weather], max_steps=4, temperature=0, max_tokens=120)
    state = agent.run("What is the weather in Oslo?", backend=backends[name])
    assert state["step_0"].calls[0].arguments == {"city": "Oslo"}
    assert state.ret_value


def test_errors_of_the_server_keep_their_class(backends):
    program = sgl.function(lambda s: s.append(sgl.user("x " * 9000) + sgl.assistant(sgl.gen("x"))))
    with pytest.raises(sgl.ContextOverflow):
        program.run(backend=backends["chat"])
