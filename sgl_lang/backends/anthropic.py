"""Anthropic's Messages API: each `gen` is one message.

Schemas and choices go into `output_config.format`, or, with ``structured="tool"``, into the input of a tool that the
model must call (for models without structured outputs). A regex is checked afterwards, and asked for again within a
bound. Tool calls go by the protocol's own `tools`. What it cannot say is refused by name: seeds, penalties, log
probabilities, logit bias, token ids, grammars, text outside of messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import httpx
import msgspec

from sgl_grammars.spec import StructuralTag
from sgl_lang.backends.base import Capabilities, changed_sampling
from sgl_lang.backends.interpreter import Want
from sgl_lang.backends.messages import (
    NODES,
    MessageBackend,
    MessageSession,
    Reply,
    constraint_of,
    schema_of,
    tools_of,
    with_calls,
    written,
)
from sgl_lang.backends.speculation import Template
from sgl_lang.errors import EngineFailure, InvalidRequest, SglError, UnsupportedFeature, from_code
from sgl_lang.tree import FinishReason, Gen, Usage

__all__ = ["Anthropic"]

_VERSION = "2023-06-01"
_SAMPLING = frozenset(
    {"max_tokens", "temperature", "top_p", "top_k", "stop"}
    | {"skip_special_tokens"}  # set by `gen_calls`; the protocol gives calls apart from text
)
_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "cancelled",
}
_ERRORS = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "overloaded",
    "timeout_error": "deadline_exceeded",
    "api_error": "engine_failure",
}
_ANSWER = "sgl_answer"
"""Name of the tool whose input is the answer."""


class Anthropic(MessageBackend):
    """`sgl.Anthropic("model", api_key=...)`: programs on Anthropic's Messages API, or a server that speaks it."""

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        *,
        base_url: str = "https://api.anthropic.com",
        headers: dict[str, str] | None = None,
        max_tokens: int = 4096,
        structured: Literal["format", "tool"] = "format",
        max_retries: int = 2,
        max_parallel: int = 32,
        continue_message: bool = False,
        speculation: bool = True,
        dollars_per_million: tuple[float, float] = (0.0, 0.0),
        connect_timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`max_tokens`: for gens that do not say (the protocol wants a bound). `structured`: how schemas and choices
        are asked for. `continue_message`: the model takes a prefilled answer, so a `gen` may come after text in a
        message. `base_url` with or without ``/v1``. See `MessageBackend` for the rest.
        """
        if structured not in ("format", "tool"):
            raise InvalidRequest(f"must be 'format' or 'tool', got {structured!r}", place="structured")
        if max_tokens < 1:
            raise InvalidRequest(f"must be above 0, got {max_tokens}", place="max_tokens")
        checked = frozenset({"regex"} if max_retries > 0 else ())
        super().__init__(
            model,
            Capabilities(
                "anthropic",
                nodes=NODES,
                constraints=frozenset({"json_schema", "choice", "structural_tag"}) | checked,
                sampling=_SAMPLING,
            ),
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            headers={
                "anthropic-version": _VERSION,
                **({} if api_key is None else {"x-api-key": api_key}),
                **(headers or {}),
            },
            max_retries=max_retries,
            max_parallel=max_parallel,
            continue_message=continue_message,
            speculation=speculation,
            dollars_per_million=dollars_per_million,
            connect_timeout_s=connect_timeout_s,
            transport=transport,
        )
        self.max_tokens = max_tokens
        self.structured = structured

    async def _ask(self, body: dict[str, Any]) -> Reply:
        answer = await self._http.request("POST", "/v1/messages", body)
        return _reply(answer["content"], answer.get("stop_reason"), answer.get("usage") or {})

    async def _stream(self, session: MessageSession, want: Want, body: dict[str, Any], shown: bool) -> Reply:
        blocks: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        reason = None
        async for data in self._http.events("/v1/messages", {**body, "stream": True}):
            event = msgspec.json.decode(data)
            kind = event["type"]
            if kind == "error":
                raise _error(event["error"])
            if kind == "message_start":
                usage |= event["message"].get("usage") or {}
            elif kind == "content_block_start":
                blocks[event["index"]] = {**event["content_block"], "json": ""}
            elif kind == "content_block_delta":
                piece = _add_delta(blocks[event["index"]], event["delta"])
                if shown and piece:
                    session.delta(want, piece)
            elif kind == "message_delta":
                reason = event["delta"].get("stop_reason") or reason
                usage |= {
                    name: value for name, value in (event.get("usage") or {}).items() if value is not None
                }
            elif kind == "message_stop":
                return _reply([blocks[at] for at in sorted(blocks)], reason, usage)
        raise EngineFailure("the endpoint ended its stream before the message was over")

    def _body(self, want: Want, template: Template | None = None) -> dict[str, Any]:
        messages = self._messages(want) if template is None else with_calls(want.messages)[:-1]
        system, rest = _system(messages)
        body: dict[str, Any] = {"model": self.model, "max_tokens": self.max_tokens}
        if system:
            body["system"] = system
        body["messages"] = _turns(rest)
        body |= _sampling(want)
        body |= _tool_fields(want)
        if template is None:
            return {**body, **self._structure(want, body.get("tools", []))}
        body.pop("stop_sequences", None)
        return {**body, "max_tokens": template.max_tokens or self.max_tokens}

    def _structure(self, want: Want, others: list[Any]) -> dict[str, Any]:
        schema = schema_of(want)
        if schema is None:
            return {}
        if self.structured == "format":
            return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        if schema.get("type") != "object":
            raise UnsupportedFeature(
                "the input of a tool is an object; this schema is of something else",
                hint='put it into an object, or structured="format"',
            )
        tool = {"name": _ANSWER, "description": "Gives the answer.", "input_schema": schema}
        choice = {"type": "tool", "name": _ANSWER, "disable_parallel_tool_use": True}
        return {"tools": [*others, tool], "tool_choice": choice}


def _sampling(want: Want) -> dict[str, Any]:
    """Only what the program changed: several models refuse temperature next to top_p. Stops of blanks are refused
    by the protocol, temperatures above 1 here.
    """
    node = want.node
    temperature = node.sampling.temperature if isinstance(node, Gen) else node.temperature
    if temperature > 1:
        raise UnsupportedFeature(f"this protocol has no temperature above 1, got {temperature}")
    if not isinstance(node, Gen):
        return {"temperature": temperature}
    changed = changed_sampling(node)
    fields = {name: getattr(node.sampling, name) for name in _SAMPLING & set(changed)}
    fields.pop("skip_special_tokens", None)
    if "stop" in fields:
        fields["stop_sequences"] = list(fields.pop("stop"))
    return {name: value for name, value in sorted(fields.items()) if value is not None}


def _tool_fields(want: Want) -> dict[str, Any]:
    constraint, tools = constraint_of(want), tools_of(want)
    found = [_tool(item["function"]) for item in (tools or want.tools)]
    if tools is None:
        return {"tools": found, "tool_choice": {"type": "none"}} if found else {}
    assert isinstance(constraint, StructuralTag)
    choice: dict[str, Any] = {"type": "auto" if constraint.free_text else "any"}
    if constraint.at_most == 1:
        choice["disable_parallel_tool_use"] = True
    return {"tools": found, "tool_choice": choice}


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    """A tool's definition, from OpenAI's form."""
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "input_schema": schema,
    }


def _system(messages: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """System messages are a field of the request, so they may only come first."""
    count = next((at for at, item in enumerate(messages) if item["role"] != "system"), len(messages))
    if any(item["role"] == "system" for item in messages[count:]):
        raise UnsupportedFeature("a system message after others cannot be sent to this endpoint")
    return "\n\n".join(_plain(item["content"]) for item in messages[:count]), list(messages[count:])


def _plain(content: Any) -> str:
    if not isinstance(content, str):
        raise UnsupportedFeature("a system message may only hold text")
    return content


def _turns(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages in this protocol's form: results of tools stand in a user's turn, all of a turn in one."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            found.append({"role": message["role"], "content": _content(message)})
            continue
        result = {
            "type": "tool_result",
            "tool_use_id": message["tool_call_id"],
            "content": message["content"],
        }
        if found and found[-1]["role"] == "user" and isinstance(found[-1]["content"], list):
            found[-1]["content"].append(result)
        else:
            found.append({"role": "user", "content": [result]})
    return found


def _content(message: dict[str, Any]) -> str | list[dict[str, Any]]:
    content, calls = message["content"], message.get("tool_calls") or ()
    if isinstance(content, str) and not calls:
        return content
    parts: list[Any] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
    )
    blocks = [_image(part["image_url"]["url"]) if part["type"] == "image_url" else part for part in parts]
    for call in calls:
        function = call["function"]
        given = json.loads(function["arguments"] or "{}")
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": given})
    return blocks


def _image(url: str) -> dict[str, Any]:
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _add_delta(block: dict[str, Any], delta: dict[str, Any]) -> str:
    """Put a piece to its block; the text to show."""
    if delta["type"] == "input_json_delta":
        block["json"] += delta["partial_json"]
        return str(delta["partial_json"]) if block.get("name") == _ANSWER else ""
    if delta["type"] == "text_delta":
        block["text"] = block.get("text", "") + delta["text"]
        return str(delta["text"])
    return ""


def _reply(content: Sequence[dict[str, Any]], reason: Any, usage: dict[str, Any]) -> Reply:
    """The text of a message; its calls in our style; the input of the answering tool as it is."""
    text = "".join(block["text"] for block in content if block["type"] == "text")
    calls = [block for block in content if block["type"] == "tool_use"]
    found: FinishReason = _REASONS.get(str(reason), "stop")
    if len(calls) == 1 and calls[0]["name"] == _ANSWER:
        return Reply(_input(calls[0]), found, _usage(usage))
    functions = [{"function": {"name": call["name"], "arguments": _input(call)}} for call in calls]
    return Reply(written(text, functions), found, _usage(usage))


def _input(call: dict[str, Any]) -> str:
    """A call's input as it was streamed, or as it is."""
    return call.get("json") or msgspec.json.encode(call["input"]).decode()


def _usage(usage: dict[str, Any]) -> Usage:
    """Tokens read from the cache, and written to it, are not among `input_tokens`."""
    cached = usage.get("cache_read_input_tokens") or 0
    made = usage.get("cache_creation_input_tokens") or 0
    return Usage(
        prompt_tokens=(usage.get("input_tokens") or 0) + cached + made,
        cached_tokens=cached,
        decoded_tokens=usage.get("output_tokens") or 0,
    )


def _error(error: dict[str, Any]) -> SglError:
    """An error inside a stream."""
    kind = str(error.get("type"))
    return from_code(_ERRORS.get(kind, "invalid_request"), error.get("message") or kind)
