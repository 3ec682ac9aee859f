"""Any OpenAI-compatible endpoint, as a fallback: each `gen` is one chat completion.

Schemas go into `response_format`; choices become a schema of one enum; a regex is checked afterwards, and asked for
again within a bound; tool calls go by the protocol's own `tools`. What the protocol cannot say is refused by name:
token ids, grammars, text in front of a `gen` inside a message that is not known to its end (unless
`continue_message`, an extension of vLLM and SGLang servers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from sgl_grammars.spec import StructuralTag
from sgl_lang.backends.base import Capabilities
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
from sgl_lang.tree import FinishReason, Gen, Usage

__all__ = ["OpenAI"]

_SAMPLING = frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "stop",
        "logit_bias",
    }
    | {"skip_special_tokens"}  # set by `gen_calls`; the protocol gives calls apart from text
)
_REASONS: dict[str, FinishReason] = {"length": "length", "content_filter": "cancelled"}


class OpenAI(MessageBackend):
    """`sgl.OpenAI("model", base_url=..., api_key=...)`: programs on a chat-completions endpoint."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        headers: dict[str, str] | None = None,
        max_retries: int = 2,
        max_parallel: int = 32,
        continue_message: bool = False,
        speculation: bool = True,
        dollars_per_million: tuple[float, float] = (0.0, 0.0),
        connect_timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `MessageBackend` for the options. `continue_message` is an extension that vLLM and SGLang have."""
        capabilities = Capabilities(
            "openai",
            nodes=NODES,
            constraints=frozenset({"json_schema", "choice", "regex", "structural_tag"}),
            sampling=_SAMPLING,
        )
        super().__init__(
            model,
            capabilities,
            base_url=base_url,
            headers={
                **(headers or {}),
                **({} if api_key is None else {"Authorization": f"Bearer {api_key}"}),
            },
            max_retries=max_retries,
            max_parallel=max_parallel,
            continue_message=continue_message,
            speculation=speculation,
            dollars_per_million=dollars_per_million,
            connect_timeout_s=connect_timeout_s,
            transport=transport,
        )

    async def _ask(self, body: dict[str, Any]) -> Reply:
        answer = await self._http.request("POST", "/chat/completions", body)
        choice = answer["choices"][0]
        text = written(choice["message"].get("content"), choice["message"].get("tool_calls") or ())
        return Reply(text, _reason(choice.get("finish_reason")), _usage(answer.get("usage")))

    async def _stream(self, session: MessageSession, want: Want, body: dict[str, Any], shown: bool) -> Reply:
        text, reason, usage = "", None, None
        calls: dict[int, dict[str, Any]] = {}
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async for data in self._http.events("/chat/completions", request):
            if data == b"[DONE]":
                break
            chunk = msgspec.json.decode(data)
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                piece = choice.get("delta", {}).get("content") or ""
                text += piece
                _add_calls(calls, choice.get("delta", {}).get("tool_calls") or ())
                reason = choice.get("finish_reason") or reason
                if shown:
                    session.delta(want, piece)
        return Reply(written(text, [calls[at] for at in sorted(calls)]), _reason(reason), _usage(usage))

    def _body(self, want: Want, template: Template | None = None) -> dict[str, Any]:
        messages = self._messages(want) if template is None else with_calls(want.messages)[:-1]
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if body["messages"] and body["messages"][-1]["role"] == "assistant":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if isinstance(want.node, Gen):
            body |= _sampling(want.node)
        else:
            body["temperature"] = want.node.temperature
        body |= _tool_fields(want)
        if template is not None:
            body.pop("stop", None)
            body.pop("max_completion_tokens", None)
            return (
                body
                if template.max_tokens is None
                else {**body, "max_completion_tokens": template.max_tokens}
            )
        schema = schema_of(want)
        if schema is not None:
            wrapped = {
                "name": re.sub(r"[^a-zA-Z0-9_-]", "_", want.name or "answer"),
                "schema": schema,
                "strict": True,
            }
            body["response_format"] = {"type": "json_schema", "json_schema": wrapped}
        return body


def _tool_fields(want: Want) -> dict[str, Any]:
    """``tools`` and what may be done with them. Raises `UnsupportedFeature` for tags that are no tools."""
    constraint, tools = constraint_of(want), tools_of(want)
    if tools is None:
        return {}
    assert isinstance(constraint, StructuralTag)
    choice = "auto" if constraint.free_text else "required"
    fields: dict[str, Any] = {"tools": tools, "tool_choice": choice}
    return {**fields, "parallel_tool_calls": False} if constraint.at_most == 1 else fields


def _add_calls(calls: dict[int, dict[str, Any]], deltas: Sequence[Any]) -> None:
    """Put the pieces of streamed calls together."""
    for delta in deltas:
        function = calls.setdefault(delta.get("index", 0), {"function": {"name": "", "arguments": ""}})[
            "function"
        ]
        piece = delta.get("function") or {}
        function["name"] += piece.get("name") or ""
        function["arguments"] += piece.get("arguments") or ""


def _sampling(node: Gen) -> dict[str, Any]:
    params = node.sampling
    given: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p, "seed": params.seed}
    given["max_completion_tokens"] = params.max_tokens
    given["frequency_penalty"] = params.frequency_penalty or None
    given["presence_penalty"] = params.presence_penalty or None
    given["stop"] = list(params.stop) or None
    given["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()} or None
    return {name: value for name, value in given.items() if value is not None}


def _usage(usage: Any) -> Usage:
    found = usage or {}
    details = found.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=found.get("prompt_tokens", 0),
        cached_tokens=details.get("cached_tokens") or 0,
        decoded_tokens=found.get("completion_tokens", 0),
    )


def _reason(reason: Any) -> FinishReason:
    return _REASONS.get(str(reason), "stop")
