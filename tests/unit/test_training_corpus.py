"""The corpus generator: the same seed gives the same text, the evaluation's side is held out, answers are right."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "runtime" / "training"))

from sgl_corpus import EVALUATION, MIXTURE, Rng, document, extraction, held_out, react, tools, values  # noqa: E402  # noqa: E402
from sgl_corpus.core import ASSISTANT, CALL, CALL_END, END, Phrases, Pool, fill  # noqa: E402


def test_a_seed_gives_one_document() -> None:
    assert [document(seed) for seed in range(50)] == [document(seed) for seed in range(50)]
    assert document(1) != document(2)


@pytest.mark.parametrize("maker", [maker for _, maker in MIXTURE], ids=lambda maker: maker.__name__)
@pytest.mark.parametrize("side", [False, True], ids=["train", "held_out"])
def test_every_generator_makes_documents_with_an_answer(maker: object, side: bool) -> None:
    for seed in range(40):
        doc = maker(Rng(seed, side))  # type: ignore[operator]
        assert any(learn for _, learn in doc.segments)
        assert "{" + "}" not in doc.text.replace("{}", "")


def test_pools_are_split_and_small_ones_shared() -> None:
    pool = Pool([f"word{i}" for i in range(100)])
    assert set(pool.train) & set(pool.held) == set()
    assert set(pool.train) | set(pool.held) == set(pool.all)
    assert Pool(["a", "b"]).train == Pool(["a", "b"]).held


def test_wordings_of_the_evaluation_are_never_trained() -> None:
    phrases = Phrases("[a|b|c|d|e|f] [g|h|i|j|k|l]")
    train = {Rng(seed).say(phrases) for seed in range(2000)}
    held = {Rng(seed, held_out=True).say(phrases) for seed in range(500)}
    assert held
    assert not held & train
    assert len(held | train) == 36


def test_invented_words_and_compounds_of_the_evaluation_are_never_trained() -> None:
    from sgl_corpus.domains import made_up_label

    train = {values.invented(Rng(s), 2, 3) for s in range(3000)}
    held = {values.invented(Rng(s, True), 2, 3) for s in range(3000)}
    assert not train & held
    labels = {made_up_label(Rng(s)) for s in range(3000)}
    held_labels = {made_up_label(Rng(s, True)) for s in range(3000)}
    assert not {x for x in labels & held_labels if "_" in x}


def test_templates() -> None:
    rng = Rng(0)
    assert fill(rng, "[x|x] {who}!", {"who": "Ann"}) == "x Ann!"
    with pytest.raises(KeyError):
        fill(rng, "{nobody}")
    with pytest.raises(ValueError, match="unbalanced"):
        fill(rng, "[a|b")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "zero"), (21, "twenty-one"), (342, "three hundred and forty-two"), (9001, "nine thousand one")],
)
def test_numbers_are_spelled(number: int, text: str) -> None:
    assert values.spell(number) == text


def _iso_from(text: str) -> str:
    """An independent reading of the date forms that carry digits for the month."""
    if match := re.fullmatch(r"(\d{4})[-/](\d\d)[-/](\d\d)", text):
        return "-".join(match.groups())
    match = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text)
    assert match is not None
    return f"{match[3]}-{int(match[2]):02d}-{int(match[1]):02d}"


def test_dates_are_normalised() -> None:
    seen = 0
    for seed in range(400):
        value = values.KINDS["date"].sample(Rng(seed))
        if re.fullmatch(r"[\d./-]+", value.text):
            assert value.json == _iso_from(value.text)
            seen += 1
        else:
            assert str(int(value.json[8:])) in value.text
            assert value.json[:4] in value.text
    assert seen > 50


def test_values_stand_in_their_text() -> None:
    for seed in range(300):
        rng = Rng(seed)
        for name in ("person", "city", "email", "code", "company", "phrase", "text"):
            value = values.KINDS[name].sample(rng)
            assert value.json == value.text


def _schema_in(prompt: str) -> dict[str, object] | None:
    """The JSON Schema of a prompt, where it is one."""
    at = prompt.find('{"$defs"')
    for mark in ('{"properties"', '{"type":"object"', '{"type": "object"'):
        at = prompt.find(mark) if at < 0 else at
    if at < 0:
        return None
    schema, _ = json.JSONDecoder().raw_decode(prompt[at:])
    assert isinstance(schema, dict)
    return schema


def test_extracted_records_validate_against_the_schema_of_the_prompt() -> None:
    checked = 0
    for seed in range(400):
        doc = extraction.extract(Rng(seed))
        schema = _schema_in(doc.prompt)
        if schema is None:
            continue
        answer = json.loads(doc.answer)
        Draft202012Validator(schema).validate(answer)
        properties = schema["properties"]
        assert isinstance(properties, dict)
        assert list(answer) == [key for key in properties if key in answer], "keys must follow the schema"
        checked += 1
    assert checked > 150


def test_extracted_strings_are_copied_from_the_text() -> None:
    for seed in range(200):
        doc = extraction.program_fields(Rng(seed))
        if doc.kind != "program":
            continue
        for text, learn in doc.segments:
            value = json.loads(text) if learn else None
            if isinstance(value, str) and not re.fullmatch(
                r"\d{4}-\d\d-\d\d|\d\d:\d\d|[a-z]+(_[a-z]+)*", value
            ):
                assert value in doc.segments[0][0]


def _calls(text: str) -> list[dict[str, object]]:
    return [json.loads(part.split(CALL_END)[0]) for part in text.split(CALL)[1:]]


@pytest.mark.parametrize("maker", [tools.single, tools.parallel, tools.follow_up, tools.with_result])
def test_calls_fit_the_tools_of_the_prompt(maker: object) -> None:
    for seed in range(100):
        doc = maker(Rng(seed))  # type: ignore[operator]
        lines = doc.text.split("<|tools|>")[1].split(END)[0].splitlines()
        menu = {tool["name"]: tool["parameters"] for tool in map(json.loads, lines)}
        for call in _calls(doc.text):
            parameters = menu[call["name"]]
            Draft202012Validator(parameters).validate(call["arguments"])
            arguments = call["arguments"]
            assert isinstance(arguments, dict)
            assert list(arguments) == [key for key in parameters["properties"] if key in arguments]


def test_react_sums_are_right() -> None:
    for seed in range(200):
        plan = react._combined(Rng(seed))
        left, sign, right = plan.steps[-1].query.split()
        expected = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[
            sign
        ]
        assert int(plan.answer) == expected


def test_evaluation_prompts_end_where_the_assistant_speaks() -> None:
    for category in EVALUATION:
        for seed in range(30):
            doc = held_out(category, seed)
            assert doc.category == category
            assert doc.prompt + doc.answer in doc.text
            if doc.kind != "taught" and category != "react":
                assert doc.prompt.endswith(ASSISTANT)
