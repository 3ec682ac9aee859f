"""Chat messages as clients send them, made ready for chat templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from sgl_lang.errors import InvalidRequest
from sgl_runtime.tokens.template import check_messages

__all__ = ["normalized"]

_KNOWN = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"}
)
"""What templates may read. Fields that only answers have (refusal, audio, ...) are accepted where they are
empty.
"""
_MOST = 10_000


def normalized(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with empty fields left out and the arguments of tool calls as objects, as templates want them.

    Raises `InvalidRequest` naming the message and field.
    """
    if len(messages) > _MOST:
        raise InvalidRequest(f"{len(messages)} messages; at most {_MOST}", place="messages")
    check_messages(messages)
    return [_message(message, f"messages[{at}]") for at, message in enumerate(messages)]


def _message(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in message.items():
        if name not in _KNOWN:
            if value not in (None, [], {}):
                raise InvalidRequest("unknown parameter", place=f"{place}.{name}")
        elif name == "tool_calls":
            if value:
                result[name] = _calls(value, f"{place}.tool_calls")
        elif value is not None or name == "content":
            _check_text(name, value, place)
            result[name] = value
    result.setdefault("content", None)
    if result["content"] is None and not result.get("tool_calls"):
        raise InvalidRequest("is missing", place=f"{place}.content")
    return result


def _check_text(name: str, value: Any, place: str) -> None:
    if name != "content" and not isinstance(value, str):
        raise InvalidRequest("must be a text", place=f"{place}.{name}")


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest("must be a list", place=place)
    return [_call(call, f"{place}[{at}]") for at, call in enumerate(calls)]


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest("must hold a function with a name", place=place)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(
            msgspec.DecodeError, RecursionError
        ):  # a model's broken arguments are shown as they were
            arguments = msgspec.json.decode(arguments) if arguments else {}
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}
