"""Test programs without a model.

::

    from sgl_lang.testing import FakeBackend

    backend = FakeBackend({"city": "Oslo", "facts": Facts(name="Mara", age=7)})
    state = my_program.run("...", backend=backend)
    assert state["city"] == "Oslo"
    assert "Where do you live?" in backend.wants[0].text
    print(backend.trees[0])

An answer is found by the name of the `gen` or `select`: a text, any value (written as JSON), a list (one after the
other), an `Answer` with tool calls, an exception (the node fails), a function of the `Want`, or `PENDING` (until
`release`). What has no answer gets a sample that satisfies its constraint. Everything runs inside `send`, so tests are
deterministic.
"""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from sgl_grammars.spec import Choice, Constraint, JsonSchema, Regex
from sgl_grammars.tools import FORMATS, ToolFormat
from sgl_lang.backends.base import Backend, Capabilities, Listener, Session
from sgl_lang.backends.interpreter import InterpretedSession, Want, count, words
from sgl_lang.errors import InvalidRequest, SglError
from sgl_lang.samples import sample
from sgl_lang.tools import Answer, ToolCall
from sgl_lang.tree import (
    ChoiceScore,
    Operation,
    ProgramOptions,
    Ready,
    RequestTree,
    Select,
    Usage,
)

__all__ = ["PENDING", "FakeBackend", "Want", "sample"]

PENDING: Any = object()
"""An answer that does not come until `FakeBackend.release`."""


class FakeBackend(Backend):
    """Answers from a script; records what it was asked."""

    def __init__(
        self, answers: Mapping[str, Any] | Callable[[Want], Any] | None = None, *, check: bool = True
    ) -> None:
        """`answers` by name, or one function for all. `check`: a scripted answer must be allowed."""
        self.capabilities = Capabilities("fake")
        self.wants: list[Want] = []
        self.sessions: list[FakeSession] = []
        self._answers = answers if answers is not None else {}
        self._used: dict[str, int] = {}
        self._check = check
        self._pending: list[tuple[FakeSession, Want]] = []
        self._lock = threading.Lock()

    @property
    def trees(self) -> list[RequestTree]:
        """What each program asked for, in the order in which they were opened."""
        return [session.tree for session in self.sessions]

    def open(self, options: ProgramOptions, listener: Listener) -> Session:
        session = FakeSession(self, options, listener)
        self.sessions.append(session)
        return session

    def info(self) -> dict[str, Any]:
        return {"name": "fake"}

    def tool_format(self) -> ToolFormat:
        return FORMATS["sgl-tiny"]

    def release(self, name: str, answer: Any) -> None:
        """Answer all pending nodes named `name`."""
        with self._lock:
            ready = [pair for pair in self._pending if pair[1].name == name]
            self._pending = [pair for pair in self._pending if pair[1].name != name]
        if not ready:
            raise InvalidRequest(f"nothing named {name!r} is pending", place="release")
        for session, want in ready:
            self._settle(session, want, answer)

    def answer(self, session: FakeSession, want: Want) -> None:
        self.wants.append(want)
        try:
            answer = self._find(want)
        except SglError as error:
            session.fail(want, error)
            return
        if answer is PENDING:
            with self._lock:
                self._pending.append((session, want))
        else:
            self._settle(session, want, answer)

    def _find(self, want: Want) -> Any:
        if callable(self._answers):
            return self._answers(want)
        name = want.name or ""
        if name not in self._answers:
            node = want.node
            return node.choices[0] if isinstance(node, Select) else sample(node.constraint, want.name)
        answer = self._answers[name]
        if isinstance(answer, list):
            at = self._used.get(name, 0)
            self._used[name] = at + 1
            if at >= len(answer):
                raise InvalidRequest(
                    f"{len(answer)} answers are scripted, a further one is wanted", place=name
                )
            answer = answer[at]
        is_function = callable(answer) and not isinstance(answer, (type, pydantic.BaseModel, BaseException))
        return answer(want) if is_function else answer

    def _settle(self, session: FakeSession, want: Want, answer: Any) -> None:
        if isinstance(answer, SglError):
            session.fail(want, answer)
            return
        try:
            text = _written(answer)
            if self._check:
                check(text, want)
        except SglError as error:
            session.fail(want, error)
            return
        for piece in words(text):
            session.delta(want, piece)
        session.deliver(want, _ready(want, text))


class FakeSession(InterpretedSession):
    """One program on a `FakeBackend`."""

    def __init__(self, backend: FakeBackend, options: ProgramOptions, listener: Listener) -> None:
        super().__init__(options, listener, lambda want: backend.answer(self, want), count)
        self.operations: list[Operation] = []

    @property
    def tree(self) -> RequestTree:
        return RequestTree(options=self._options, operations=tuple(self.operations))

    def send(self, operations: Sequence[Operation]) -> None:
        self.operations += operations
        super().send(operations)


def _written(answer: Any) -> str:
    if isinstance(answer, ToolCall):
        return FORMATS["sgl-tiny"].write(answer.name, json.dumps(answer.arguments, separators=(",", ":")))
    if isinstance(answer, Answer):
        return answer.text + "".join(_written(call) for call in answer.calls)
    if isinstance(answer, str) and not isinstance(answer, enum.Enum):
        return answer
    if isinstance(answer, enum.Enum):
        return _written(answer.value)
    if isinstance(answer, (bool, int, float)) or answer is None:
        return json.dumps(answer)
    if isinstance(answer, pydantic.BaseModel):
        return answer.model_dump_json()
    try:
        return pydantic.TypeAdapter(type(answer)).dump_json(answer).decode()
    except (pydantic.PydanticUserError, pydantic.PydanticSchemaGenerationError) as error:
        raise InvalidRequest(f"{answer!r} cannot be written as JSON", place="answer") from error


def check(text: str, want: Want) -> None:
    """Raise `InvalidRequest` if a scripted text is not what the node may generate."""
    node = want.node
    if isinstance(node, Select):
        _require(text in node.choices, text, want, f"one of {', '.join(node.choices)}")
    else:
        _check_constraint(node.constraint, text, want)


def _check_constraint(constraint: Constraint | None, text: str, want: Want) -> None:
    import re

    if isinstance(constraint, Choice):
        _require(text in constraint.choices, text, want, f"one of {', '.join(constraint.choices)}")
    elif isinstance(constraint, Regex):
        _require(re.fullmatch(constraint.pattern, text) is not None, text, want, constraint.pattern)
    elif isinstance(constraint, JsonSchema):
        import jsonschema

        try:
            jsonschema.validate(json.loads(text), json.loads(constraint.schema))
        except (ValueError, jsonschema.ValidationError) as error:
            _require(False, text, want, f"valid under its schema: {str(error).splitlines()[0]}")


def _require(ok: bool, text: str, want: Want, wanted: str) -> None:
    if not ok:
        raise InvalidRequest(
            f"the scripted answer {text!r} is not {wanted}", place=want.name, hint="FakeBackend(check=False)"
        )


def _ready(want: Want, text: str) -> Ready:
    node = want.node
    choices: tuple[ChoiceScore, ...] = ()
    if isinstance(node, Select):
        choices = tuple(
            ChoiceScore(
                logprob=0.0 if choice == text else -1e9,
                probability=float(choice == text),
                score=0.0,
                tokens=1,
            )
            for choice in node.choices
        )
    return Ready(
        branch=want.branch, node=node.id, text=text, choices=choices, usage=Usage(decoded_tokens=count(text))
    )
