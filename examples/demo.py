"""The main job, on any text: `make demo`, or `make demo TEXT=path/to/file.txt`.

One program reads a text and gives typed values: what kind of text it is (`Literal`), its facts as a Pydantic
model (JSON under a schema), scores on three forked branches (`select`), and a tool call whose tool really runs.
Printed: the program's text with its generated parts marked, the values, and what each part cost.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

import sgl_lang as sgl

DIMENSIONS = ("politeness", "urgency", "detail")
Kind = Literal["order", "invoice", "complaint", "invitation", "application", "other"]


class Record(BaseModel):
    """Facts of a letter; null where it does not say."""

    name: str | None
    city: str | None
    date: date | None
    email: str | None
    total: float | None


@sgl.tool
def set_reminder(person: str, task: str) -> dict[str, str]:
    """Set a reminder.

    Args:
        person: who it is about
        task: what is to be done
    """
    return {"status": "saved", "reminder": f"{task} ({person})"}


@sgl.function
def read(s, text: str):
    s += sgl.tools(set_reminder)
    s += sgl.user(
        "Classify the message as one of: order, invoice, complaint, invitation, application, other.\n\n"
        f"Message: {text}\n\nAnswer with the label only."
    )
    s += sgl.assistant(sgl.gen("kind", Kind, temperature=0))
    schema = json.dumps(Record.model_json_schema(), separators=(",", ":"))
    s += sgl.user(f"Extract the record as JSON.\nSchema: {schema}\n\nText:\n{text}")
    s += sgl.assistant(sgl.gen("record", Record, temperature=0))
    branches = s.fork(len(DIMENSIONS))
    for branch, dimension in zip(branches, DIMENSIONS, strict=True):
        branch += sgl.user(
            f"Rate the {dimension} of the text from 1 to 5. Answer with the number only.\n\nText: {text}"
        )
        branch += sgl.assistant(sgl.select("score", choices=["1", "2", "3", "4", "5"]))
    branches.join()
    person = s["record"].name or "the sender"
    s += sgl.user(f"Set a reminder to reply to {person}.")
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
    print(f"kind    {state['kind']}")
    print(f"record  {state['record']!r}")
    print(f"scores  {dict(zip(DIMENSIONS, state['score'], strict=True))}")
    for call in state["calls"].calls:
        print(f"call    {call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})")
    print(f"answer  {state['answer']}")
    heading("What it cost")
    print(state.render("usage"))
    return state


if __name__ == "__main__":
    main(*sys.argv[1:])
