"""Tools of a real MCP server (started over stdio) in programs."""

import json
import sys

import pytest

import sgl_lang as sgl
from sgl_lang.testing import FakeBackend

pytest.importorskip("mcp")

SERVER = """
import asyncio
from mcp.server.fastmcp import FastMCP

server = FastMCP("test", log_level="ERROR")


@server.tool()
def add(left: int, right: int) -> int:
    '''Add two
    numbers.'''
    return left + right


@server.tool()
async def slow() -> str:
    await asyncio.sleep(30)
    return "late"


@server.tool()
def broken() -> str:
    raise ValueError("out of order")


server.run()
"""


@pytest.fixture(scope="module")
def tools():
    with sgl.mcp(sys.executable, ["-c", SERVER], timeout_s=20) as found:
        yield {tool.name: tool for tool in found}


def test_definitions_come_from_the_server(tools):
    assert set(tools) == {"add", "slow", "broken"}
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].parameters["required"] == ["left", "right"]


def test_calls(tools):
    assert tools["add"](left=2, right=3) == "5"
    assert "out of order" in json.loads(tools["broken"].run({}))["error"]
    assert "error" in json.loads(tools["add"].run({"left": "x", "right": 1}))
    tools["slow"].timeout_s = 0.05
    assert "no result within 0.05 s" in tools["slow"].run({})


def test_in_an_agent(tools):
    answers = {"step_0": sgl.Answer("", [sgl.ToolCall("add", {"left": 40, "right": 2})]), "step_1": "42"}
    state = sgl.agent([tools["add"]]).run("40 + 2?", backend=FakeBackend(answers))
    assert [message["content"] for message in state.messages()][2:] == ["42", "42"]


def test_a_server_that_does_not_start():
    with pytest.raises(sgl.ConnectionFailed, match="no-such-command"), sgl.mcp("no-such-command"):
        pass
