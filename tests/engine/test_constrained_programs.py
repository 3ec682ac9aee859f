"""64 constrained programs at once on the embedded model: valid, equal to one by one, and cached as the tree says."""

import json

import jsonschema
import pytest

import sgl_lang as sgl
from sgl_runtime.embedded import model_path
from sgl_runtime.tokens import ChatTemplate, Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 24},
        "city": {"enum": ["Oslo", "Bergen", "Zelm"]},
        "guests": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["name", "city", "guests"],
    "additionalProperties": False,
}
INSTRUCTION = f"Extract the record as JSON.\nSchema: {json.dumps(SCHEMA, separators=(',', ':'))}\n\nText:\n"
CITIES = ("Oslo", "Bergen", "Zelm")
TEXTS = [f"This is Guest{n} Velt from {CITIES[n % 3]}, a table for {n % 9 + 1} please." for n in range(64)]


@sgl.function
def extract(s, text: str):
    s += sgl.user(INSTRUCTION + text)
    s += sgl.assistant(sgl.gen("record", json_schema=SCHEMA, temperature=0))


def prompts() -> list[list[int]]:
    """The known tokens of each program, by the model's own template and tokenizer."""
    tokenizer, template = Tokenizer.from_folder(model_path()), ChatTemplate.from_folder(model_path())
    ids = []
    for text in TEXTS:
        pieces = template.render(
            [{"role": "user", "content": INSTRUCTION + text}], add_generation_prompt=True
        )
        ids.append([token for piece, special in pieces for token in tokenizer.encode(piece, special=special)])
    return ids


def trie_nodes(sequences: list[list[int]]) -> int:
    """Distinct prefixes: what has to be computed when nothing that is shared is computed twice."""
    return len({tuple(ids[:end]) for ids in sequences for end in range(1, len(ids) + 1)})


@pytest.fixture(scope="module")
def engine():
    engine = sgl.Engine(min_shared_tokens=1, dtype="float32")  # bfloat16 sums depend on the batch
    yield engine
    engine.close()


def test_together_as_one_by_one(engine, capsys) -> None:
    engine.flush_cache()
    together = extract.run_batch([{"text": text} for text in TEXTS], backend=engine)
    usages = [state.usage() for state in together]
    for state in together:
        jsonschema.validate(state["record"], SCHEMA)

    known = prompts()
    total = sum(map(len, known))
    end_marks = len(TEXTS)  # each program closes its last message, after what it generated
    assert sum(usage.prompt_tokens for usage in usages) == total + end_marks
    cached = sum(usage.cached_tokens for usage in usages)
    with capsys.disabled():
        print(f"\n64 programs: {cached} of {total} prompt tokens cached ({cached / total:.1%})")
    assert cached == total - trie_nodes(known)

    engine.flush_cache()
    alone = [extract.run(text, backend=engine) for text in TEXTS]
    assert [state.text() for state in alone] == [state.text() for state in together]
