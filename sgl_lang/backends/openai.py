"""Any OpenAI-compatible endpoint, as a fallback: each `gen` is one chat completion.

The program is walked on the client (`interpreter`), forks become parallel requests. Schemas go into
`response_format`; choices become a schema of one enum; a regex is checked afterwards, and asked for again within a
bound. Several gens of one message are asked for at once (`speculation`). What the protocol cannot say is refused by
name: token ids, grammars, text in front of a `gen` inside a message that is not known to its end (unless
`continue_message`, an extension of vLLM and SGLang servers). Tool calls go by the protocol's own `tools`; in the
program's text they are written as `_STYLE` writes them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import msgspec

from sgl_grammars.spec import Choice, Constraint, JsonSchema, Regex, StructuralTag
from sgl_grammars.tools import FORMATS, Call, ToolFormat
from sgl_lang.backends.base import Backend, Capabilities, Listener, Session
from sgl_lang.backends.http import HttpLoop
from sgl_lang.backends.interpreter import InterpretedSession, Want
from sgl_lang.backends.speculation import Template, template_of
from sgl_lang.errors import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    EngineFailure,
    SglError,
    UnsupportedFeature,
    ValidationFailed,
)
from sgl_lang.tree import FinishReason, Gen, NodeId, ProgramOptions, Ready, Select, Usage

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
_STYLE = FORMATS["sgl-tiny"]
_NODES = frozenset({"text", "roles", "chat", "gen", "select", "value", "hole", "join", "image"})
_REASONS: dict[str, FinishReason] = {"length": "length", "content_filter": "cancelled"}


class OpenAI(Backend):
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
        """`max_retries`: for a text that misses its regex, and for retryable errors. `max_parallel` bounds the requests
        under way. `continue_message`: the server can go on with an assistant's message that has begun. `speculation`:
        several gens of one message are asked for in one call and taken apart by the text between them; `saved_calls`
        counts what that saved. `dollars_per_million`: price of a million prompt tokens and of a million generated ones,
        for budgets.
        """
        self.capabilities = Capabilities(
            "openai",
            nodes=_NODES,
            constraints=frozenset({"json_schema", "choice", "regex", "structural_tag"}),
            sampling=_SAMPLING,
        )
        self.model = model
        self.max_retries = max_retries
        self.continue_message = continue_message
        self.speculation = speculation
        self.saved_calls = 0
        self.dollars_per_million = dollars_per_million
        self._http = HttpLoop(
            base_url.rstrip("/"),
            {**(headers or {}), **({} if api_key is None else {"Authorization": f"Bearer {api_key}"})},
            connect_timeout_s,
            transport,
            hint="check base_url",
        )
        self._slots = asyncio.Semaphore(max_parallel)

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        if self._http.closed:
            raise ConnectionFailed("this backend was closed", place=self._http.base_url)
        return _Session(self, options, listener)

    def info(self) -> dict[str, Any]:
        return {"name": self.model, "base_url": self._http.base_url}

    def tool_format(self) -> ToolFormat:
        return _STYLE

    def cost(self, usage: Usage) -> float:
        prompt, generated = self.dollars_per_million
        return (usage.prompt_tokens * prompt + usage.completion_tokens * generated) / 1e6

    def close(self) -> None:
        self._http.close()

    def begin(self, session: _Session, want: Want) -> None:
        self._http.call_soon(session.start, self._answer(session, want))

    # ------------------------------------------------------------------------------------------ on the loop

    async def _answer(self, session: _Session, want: Want) -> None:
        """Answer one node; its failure is told, never raised."""
        try:
            async with self._slots:
                session.deliver(
                    want, await asyncio.wait_for(self._attempts(session, want), want.options.deadline_s)
                )
        except (asyncio.TimeoutError, TimeoutError):
            session.fail(want, DeadlineExceeded(f"no answer within {want.options.deadline_s} s"))
        except asyncio.CancelledError:
            session.fail(want, Cancelled("the program was cancelled"))
        except SglError as error:
            session.fail(want, error)
        except Exception as error:
            session.fail(want, EngineFailure(f"{type(error).__name__}: {error}"))

    async def _attempts(self, session: _Session, want: Want) -> Ready:
        guessed = session.guessed.pop(want.node.id, None)
        if guessed is not None:
            self.saved_calls += 1
            return _guessed_ready(want, guessed)
        template = template_of(want) if self.speculation and not self.continue_message else None
        if template is not None:
            return await self._whole_message(session, want, template)
        body = self._body(want)
        usage = Usage()
        last: SglError = EngineFailure("no attempt was made")
        for attempt in range(self.max_retries + 1):
            try:
                ready = await self._once(session, want, body)
            except SglError as error:
                if not error.retryable:
                    raise
                last = error
                await asyncio.sleep(min(8.0, 0.5 * 2**attempt))
                continue
            usage = _added(usage, ready.usage)
            ready = msgspec.structs.replace(ready, usage=usage)
            missed = _missed(want, ready.text)
            if missed is None:
                return ready
            last = ValidationFailed(missed, hint=f"{attempt + 1} attempts were made")
        raise last

    async def _whole_message(self, session: _Session, want: Want, template: Template) -> Ready:
        """Ask for all of a message, and keep what belongs to its later gens."""
        quiet = replace(want, options=msgspec.structs.replace(want.options, stream=False))
        body = {**self._body(want, whole=True), "max_completion_tokens": template.max_tokens}
        body = {name: value for name, value in body.items() if value is not None and name != "stop"}
        usage = Usage()
        for _ in range(self.max_retries + 1):
            answer = await self._once(session, quiet, body, raw=True)
            usage = _added(usage, answer.usage)
            texts = template.match(answer.text)
            if texts is not None and all(
                _misses(gen.constraint, texts[gen.id]) is None for gen in template.gens
            ):
                own = texts.pop(want.node.id)
                session.guessed.update(texts)
                return msgspec.structs.replace(answer, text=own, usage=usage)
        raise ValidationFailed(
            "the endpoint's message does not have the text that the program puts around its gens",
            hint="show the form in the prompt, use one gen per message, or a backend that can go on inside a message",
        )

    async def _once(self, session: _Session, want: Want, body: dict[str, Any], raw: bool = False) -> Ready:
        start = time.monotonic()
        if not want.options.stream:
            answer = await self._http.request("POST", "/chat/completions", body)
            message, reason = answer["choices"][0]["message"], answer["choices"][0].get("finish_reason")
            text, usage = (
                _written(message.get("content"), message.get("tool_calls") or ()),
                answer.get("usage"),
            )
        else:
            text, reason, usage = await self._streamed(session, want, body)
        return Ready(
            branch=want.branch,
            node=want.node.id,
            text=text if raw else _unwrapped(want, text),
            finish_reason=_REASONS.get(str(reason), "stop"),
            usage=_usage(usage, time.monotonic() - start),
        )

    async def _streamed(self, session: _Session, want: Want, body: dict[str, Any]) -> tuple[str, Any, Any]:
        text, reason, usage = "", None, None
        calls: dict[int, dict[str, Any]] = {}
        shown = not _is_wrapped(want) and not isinstance(_constraint(want), Regex)
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
        return _written(text, [calls[at] for at in sorted(calls)]), reason, usage

    def _body(self, want: Want, whole: bool = False) -> dict[str, Any]:
        """The request for one node, or for the `whole` message that it stands in."""
        messages = _with_calls(want.messages)[:-1] if whole else self._messages(want)
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if body["messages"] and body["messages"][-1]["role"] == "assistant":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if isinstance(want.node, Gen):
            body |= _sampling(want.node)
        else:
            body["temperature"] = want.node.temperature
        body |= _tool_fields(want)
        schema = None if whole else _schema(want)
        if schema is not None:
            wrapped = {
                "name": re.sub(r"[^a-zA-Z0-9_-]", "_", want.name or "answer"),
                "schema": schema,
                "strict": True,
            }
            body["response_format"] = {"type": "json_schema", "json_schema": wrapped}
        return body

    def _messages(self, want: Want) -> list[dict[str, Any]]:
        messages = _with_calls(want.messages)
        if not messages:
            raise UnsupportedFeature(
                "a gen outside of messages cannot be sent to a chat endpoint",
                hint="use sgl.user and sgl.assistant",
            )
        last = messages[-1]
        if last["role"] == "assistant" and not last["content"]:
            return messages[:-1]
        if last["role"] == "assistant" and want.in_message and self.continue_message:
            return messages
        if want.in_message:
            raise UnsupportedFeature(
                f"a gen after text inside a message of {last['role']} cannot be sent to this endpoint",
                hint="one gen per assistant message, at its beginning; or continue_message=True for vLLM and SGLang",
            )
        return messages


class _Session(InterpretedSession):
    """One program; its requests are tasks on the backend's loop."""

    def __init__(self, backend: OpenAI, options: ProgramOptions, listener: Listener) -> None:
        super().__init__(options, listener, lambda want: backend.begin(self, want))
        self._backend = backend
        self.guessed: dict[NodeId, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Any) -> None:
        """Run an answer as a task (on the loop's thread)."""
        if self.cancelled.is_set():
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        super().cancel()
        self._backend._http.call_soon(self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()


def _tool_fields(want: Want) -> dict[str, Any]:
    """``tools`` and what may be done with them. Raises `UnsupportedFeature` for tags that are no tools."""
    constraint = _constraint(want)
    if not isinstance(constraint, StructuralTag):
        return {}
    if not want.tools:
        raise UnsupportedFeature("structural tags other than tool calls cannot be sent to a chat endpoint")
    choice = "auto" if constraint.free_text else "required"
    fields: dict[str, Any] = {"tools": want.tools, "tool_choice": choice}
    return {**fields, "parallel_tool_calls": False} if constraint.at_most == 1 else fields


def _written(content: str | None, calls: Sequence[Any]) -> str:
    """A turn as text: its content, then its calls in our style."""
    functions = [call["function"] for call in calls]
    return (content or "") + "".join(
        _STYLE.write(item["name"], item.get("arguments") or "{}") for item in functions
    )


def _add_calls(calls: dict[int, dict[str, Any]], deltas: Sequence[Any]) -> None:
    """Put the pieces of streamed calls together."""
    for delta in deltas:
        function = calls.setdefault(delta.get("index", 0), {"function": {"name": "", "arguments": ""}})[
            "function"
        ]
        piece = delta.get("function") or {}
        function["name"] += piece.get("name") or ""
        function["arguments"] += piece.get("arguments") or ""


def _with_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls in the text of assistant's messages become `tool_calls`, with ids that differ between turns."""
    found: list[dict[str, Any]] = []
    turn = 0
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant" and isinstance(content, str) and _STYLE.trigger in content:
            turn += 1
            text, calls = _STYLE.parse(content)
            message = {
                "role": "assistant",
                "content": text or None,
                "tool_calls": _protocol_calls(calls, turn),
            }
        elif message["role"] == "tool" and "tool_call_id" in message:
            message = {**message, "tool_call_id": f"{message['tool_call_id']}_{turn}"}
        found.append(message)
    return found


def _protocol_calls(calls: Sequence[Call], turn: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{at}_{turn}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for at, call in enumerate(calls)
    ]


def _constraint(want: Want) -> Constraint | None:
    return Choice(want.node.choices) if isinstance(want.node, Select) else want.node.constraint


def _is_wrapped(want: Want) -> bool:
    return isinstance(_constraint(want), Choice)


def _schema(want: Want) -> Any:
    """The JSON schema to ask for; a choice is an enum inside an object, as the protocol wants objects."""
    constraint = _constraint(want)
    if isinstance(constraint, JsonSchema):
        return json.loads(constraint.schema)
    if isinstance(constraint, Choice):
        value = {"type": "string", "enum": list(constraint.choices)}
        return {
            "type": "object",
            "properties": {"value": value},
            "required": ["value"],
            "additionalProperties": False,
        }
    return None


def _unwrapped(want: Want, text: str) -> str:
    if not _is_wrapped(want):
        return text
    try:
        return str(json.loads(text)["value"])
    except (ValueError, KeyError, TypeError):
        return text.strip()  # the server ignored the schema; the text is checked below


def _missed(want: Want, text: str) -> str | None:
    """Why `text` is not what the node may hold; None if it is."""
    return _misses(_constraint(want), text)


def _misses(constraint: Constraint | None, text: str) -> str | None:
    if isinstance(constraint, Choice) and text not in constraint.choices:
        return f"the endpoint answered {text!r}, which is none of the choices"
    if isinstance(constraint, Regex) and re.fullmatch(constraint.pattern, text) is None:
        return f"the endpoint answered {text!r}, which does not match {constraint.pattern}"
    if isinstance(constraint, JsonSchema):
        return _schema_error(constraint, text)
    if isinstance(constraint, StructuralTag):
        return _calls_error(constraint, text)
    return None


def _calls_error(constraint: StructuralTag, text: str) -> str | None:
    count = len(_STYLE.parse(text)[1])
    most = count if constraint.at_most is None else constraint.at_most
    if constraint.at_least <= count <= most:
        return None
    return f"the endpoint answered with {count} tool calls"


def _schema_error(constraint: JsonSchema, text: str) -> str | None:
    import jsonschema

    try:
        jsonschema.validate(json.loads(text), json.loads(constraint.schema))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"the endpoint's answer is not valid under the schema: {str(error).splitlines()[0]}"
    return None


def _guessed_ready(want: Want, text: str) -> Ready:
    return Ready(branch=want.branch, node=want.node.id, text=text)


def _sampling(node: Gen) -> dict[str, Any]:
    params = node.sampling
    given: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p, "seed": params.seed}
    given["max_completion_tokens"] = params.max_tokens
    given["frequency_penalty"] = params.frequency_penalty or None
    given["presence_penalty"] = params.presence_penalty or None
    given["stop"] = list(params.stop) or None
    given["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()} or None
    return {name: value for name, value in given.items() if value is not None}


def _usage(usage: Any, seconds: float) -> Usage:
    found = usage or {}
    details = found.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=found.get("prompt_tokens", 0),
        cached_tokens=details.get("cached_tokens") or 0,
        decoded_tokens=found.get("completion_tokens", 0),
        total_s=seconds,
    )


def _added(one: Usage, two: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(two, name) for name in Usage.__struct_fields__})
