"""An agent: the model calls tools until it answers in plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgl_lang.errors import ProgramError
from sgl_lang.expr import assistant, system, user
from sgl_lang.program import Function, function
from sgl_lang.state import ProgramState
from sgl_lang.tools import Answer, Tool, gen_calls, tools

__all__ = ["agent"]


def agent(
    items: list[Tool[..., Any] | Callable[..., Any]],
    max_steps: int = 8,
    *,
    instruction: str | None = None,
    **options: Any,
) -> Function[..., str]:
    """A program of one argument, `question`, that returns the model's answer.

    Raises `ProgramError` when there is no answer after `max_steps` turns. `options` are options of its runs.
    """
    box = tools(*items)

    def run_agent(s: ProgramState, question: str) -> str:
        s += box
        if instruction is not None:
            s += system(instruction)
        s += user(question)
        for step in range(max_steps):
            turn = gen_calls(f"step_{step}")
            s += assistant(turn)
            answer: Answer = s.get(turn)
            if not answer.calls:
                return answer.text
            s.run_calls(answer.calls)
        raise ProgramError(f"no answer after {max_steps} steps", place="agent", hint="raise max_steps")

    return function(**options)(run_agent)
