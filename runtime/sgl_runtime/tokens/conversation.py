"""A chat template role by role: what stands before and after the text of each message.

The text of messages is not known when a program writes its roles, and may still be generated. So the
template is rendered with a stand-in character for the text of each message, and what it prints between two
stand-ins is split into the end of one message and the beginning of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgl_lang.errors import InvalidRequest, UnsupportedFeature
from sgl_runtime.tokens.protect import Mask, Piece

__all__ = ["Conversation"]

Prompt = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""Renders messages, with or without a generation prompt."""

_FIRST, _LAST = 0xF0001, 0xFFFFD
"""Stand-ins come from plane 15, which templates neither trim nor look for."""


@dataclass
class Conversation:
    """The marks of one conversation; `copy.deepcopy` gives an independent one with the same past.

    For ordinary templates the pieces of ``begin``, the contents and ``end`` join to exactly what rendering
    the whole conversation gives. A template that rewrites earlier messages when later ones arrive is
    refused where it does so.
    """

    prompt: Prompt
    mask: Mask
    messages: tuple[Mapping[str, Any], ...] = ()
    open: bool = False
    printed: str = ""
    """What has been printed after the text of the last message."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Conversation:
        return Conversation(self.prompt, self.mask, self.messages, self.open, self.printed)

    def begin(self, role: str, name: str | None = None, call_id: str | None = None) -> list[Piece]:
        """What stands before the text of a new message.

        Raises `InvalidRequest` if a message is open or the template refuses the role here.
        """
        if self.open:
            raise InvalidRequest("the message before has not ended", place="role")
        message: dict[str, Any] = {"role": role, "content": self._stand_in(len(self.messages))}
        if name is not None:
            message["name"] = self.mask.hide(name)
        if call_id is not None:
            message["tool_call_id"] = self.mask.hide(call_id)
        marks = self._generation_prompt() if role == "assistant" else None
        if marks is None:
            marks = self._before((*self.messages, message))
        self.messages = (*self.messages, message)
        self.open, self.printed = True, ""
        return self.mask.pieces(marks)

    def content(self, text: str) -> list[Piece]:
        """Text inside the open message: never special."""
        return [(text, False)] if text else []

    def end(self) -> list[Piece]:
        """What stands after the text of the open message; it may come with the next message's beginning
        instead.
        """
        if not self.open:
            raise InvalidRequest("no message is open", place="role")
        self.open = False
        self.printed = self._after_last()
        return self.mask.pieces(self.printed)

    def _generation_prompt(self) -> str | None:
        """The beginning of an assistant's message as the model is asked for it; None where the template
        gives none.
        """
        try:
            text = self.prompt(self.messages, True)
        except InvalidRequest:
            return None
        tail = self._tail(text, len(self.messages) - 1)
        bare = self._tail(self.prompt(self.messages, False), len(self.messages) - 1)
        return None if tail is None or tail == bare else self._continued(tail)

    def _before(self, messages: tuple[Mapping[str, Any], ...]) -> str:
        """What the template prints between the message before and the last of `messages`."""
        last = len(messages) - 1
        text = self._print(messages)
        head, found, _ = text.partition(self._stand_in(last))
        tail = self._tail(head, last - 1)
        if not found or tail is None:
            raise UnsupportedFeature(
                f"the chat template does not print the messages one after the other (message {last})",
                place="role",
                hint="send the conversation as a whole",
            )
        return self._continued(tail)

    def _print(self, messages: tuple[Mapping[str, Any], ...]) -> str:
        """`messages` rendered; with an answer or a question after them where the template wants one."""
        probe = self._stand_in(len(messages))
        refusal: InvalidRequest | None = None
        for after in (None, "user", "assistant"):
            more = () if after is None else ({"role": after, "content": probe},)
            try:
                text = self.prompt((*messages, *more), False)
            except InvalidRequest as error:
                refusal = refusal or error
                continue
            if self._stand_in(len(messages) - 1) in text:
                return text
        if refusal is not None:
            raise refusal
        return ""

    def _after_last(self) -> str:
        """What follows the text of the last message; nothing where the template wants another message
        first.
        """
        try:
            text = self.prompt(self.messages, False)
        except InvalidRequest:
            return ""
        return self._tail(text, len(self.messages) - 1) or ""

    def _tail(self, text: str, index: int) -> str | None:
        """The part of `text` after the stand-in of message `index`; all of it for -1; None if it is not
        printed.
        """
        if index < 0:
            return text
        _, found, tail = text.rpartition(self._stand_in(index))
        return tail if found else None

    def _continued(self, tail: str) -> str:
        """`tail` without what has been printed already."""
        if tail.startswith(self.printed):
            return tail[len(self.printed) :]
        raise UnsupportedFeature(
            f"the chat template rewrites the end of a message ({self.printed[-20:]!r}) once another follows",
            place="role",
            hint="send the conversation as a whole",
        )

    @staticmethod
    def _stand_in(index: int) -> str:
        if _FIRST + index > _LAST:
            raise InvalidRequest("has too many messages", place="role")
        return chr(_FIRST + index)
