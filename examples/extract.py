"""JSON from a text file into a Pydantic model: `sgl run examples/extract.py [FILE]`.

The schema of the model is the grammar of the answer, so the JSON is valid whatever the language
model does, and the value comes back as an `Order`.
"""

import json
import sys
from datetime import date
from pathlib import Path

from pydantic import BaseModel

import sgl_lang as sgl


class Order(BaseModel):
    order_id: str
    customer: str
    city: str | None
    order_date: date | None
    total: float


@sgl.function
def extract(s, text: str):
    schema = json.dumps(Order.model_json_schema(), separators=(",", ":"))
    s += sgl.system("Extract the record as JSON.")
    s += sgl.user(f"Schema: {schema}\n\nText:\n{text}")
    s += sgl.assistant(sgl.gen("order", Order, temperature=0))


def main(path: str = str(Path(__file__).parent / "data" / "letter.txt")) -> Order:
    state = extract.run(Path(path).read_text(encoding="utf-8"))
    order: Order = state["order"]
    print(order.model_dump_json(indent=2))
    return order


if __name__ == "__main__":
    main(*sys.argv[1:])
