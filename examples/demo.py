"""The main job, on any text: `make demo`, or `make demo TEXT=path/to/file.txt`.

One program reads a text and gives typed values: what kind of text it is (`Literal`), its facts as a Pydantic
model (JSON under a schema), scores on three forked branches (`select`), and a tool call whose tool really runs.
Printed: the program's text with its generated parts marked, the values, and what each part cost.
"""

import ast
import json
import operator
import sys
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

import sgl_lang as sgl

DIMENSIONS = ("politeness", "urgency", "clarity")
Kind = Literal["billing", "technical", "sales", "shipping", "jobs", "meeting"]


class Record(BaseModel):
    """Facts of a letter; null where it does not say."""

    name: str
    city: str
    order_id: str | None
    order_date: date | None
    total: float | None
    email: str | None


@sgl.tool
def calculate(expression: str) -> dict[str, float]:
    """Work out an arithmetic expression"""
    work = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in work:
            return work[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        raise ValueError("only + - * / of numbers")

    return {"result": round(value(ast.parse(expression, mode="eval").body), 2)}


@sgl.function
def read(s, text: str):
    schema = json.dumps(Record.model_json_schema(), separators=(",", ":"))
    questions = s.fork(2 + len(DIMENSIONS))
    kind, record, *judges = questions
    kind += sgl.user(
        f"Classify the message as one of: {', '.join(Kind.__args__)}.\n\n"
        f"Message: {text}\n\nAnswer with the label only."
    )
    kind += sgl.assistant(sgl.gen("kind", Kind, temperature=0))
    record += sgl.system("Extract the record as JSON. Use null where what is not given.")
    record += sgl.user(f"Schema: {schema}\n\nText:\n{text}")
    record += sgl.assistant(sgl.gen("record", Record, temperature=0))
    for branch, dimension in zip(judges, DIMENSIONS, strict=True):
        branch += sgl.user(
            f"Rate the {dimension} of the text from 1 to 5. Answer with the number only.\n\nText: {text}"
        )
        branch += sgl.assistant(sgl.select("score", choices=["1", "2", "3", "4", "5"]))
    questions.join()
    s += sgl.tools(calculate)
    s += sgl.user(f"Work out {len(text.split())} / 200.")  # minutes to read it
    s += sgl.assistant(sgl.gen_calls("calls", choice="required", at_most=1, temperature=0))
    s.run_calls("calls")
    s += sgl.assistant(sgl.gen("answer", max_tokens=40, temperature=0))


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}\n{'-' * len(text)}")


def main(path: str = str(Path(__file__).parent / "data" / "letter.txt")) -> sgl.ProgramState:
    state = read.run(Path(path).read_text(encoding="utf-8"))
    heading("The program's text, generated parts marked")
    print(state.render(color=sys.stdout.isatty()))
    heading("Values")
    print(f"kind    {state['kind'][0]}")
    print(f"record  {state['record'][0]!r}")
    print(f"scores  {dict(zip(DIMENSIONS, state['score'], strict=True))}")
    for call in state["calls"].calls:
        print(f"call    {call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})")
    print(f"answer  {state['answer']}")
    heading("What it cost")
    print(state.render("usage"))
    return state


if __name__ == "__main__":
    main(*sys.argv[1:])
