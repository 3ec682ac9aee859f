"""Programs on the embedded model: typed values, forks, tools, and the same results however they are run."""

import json
from typing import Annotated, Literal

import jsonschema
import pydantic
import pytest

import sgl_lang as sgl
from sgl_lang.types import schema_of


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("sgl_runtime.embedded")
    try:
        backend = sgl.Engine(threads=1)
    except sgl.InvalidRequest as error:
        pytest.skip(f"the embedded model is not there: {error}")
    yield backend
    backend.close()


class Guest(pydantic.BaseModel):
    name: str
    city: str
    guests: int


FIELDS = "name (string), city (string), guests (integer)"
PEOPLE = [
    ("Mara Veldt", "Oslo", 4),
    ("Tom Brandt", "Lyon", 2),
    ("Ines Falk", "Bergen", 6),
    ("Olaf Stern", "Turin", 3),
]


def letter(name, city, guests):
    return f"Hello, this is {name} from {city}. I would like a table for {guests} guests on Friday."


@sgl.function(temperature=0)
def extract(s, text):
    s += sgl.user(f"Extract these fields as JSON: {FIELDS}.\n\nText: {text}")
    s += sgl.assistant(sgl.gen("guest", Guest, max_tokens=80))


@sgl.function(temperature=0)
def review(s, text):
    s += sgl.user(f"Text: {text}\n\nIs the guest from Oslo? Answer yes or no.")
    s += sgl.assistant(sgl.select("from_oslo", ["yes", "no"]))
    forks = s.fork(2)
    forks += lambda at: sgl.user(f"Rate the {['clarity', 'politeness'][at]} of the text from 1 to 5.")
    forks += sgl.assistant(sgl.gen("score", regex="[1-5]"))
    forks.join()
    s += sgl.user(f"The scores are {s['score'][0]} and {s['score'][1]}. Write a short reply.")
    s += sgl.assistant(sgl.gen("reply", max_tokens=40))


def values(state):
    return {**state.variables(), "text": state.text()}


def test_typed_extraction(engine):
    for person in PEOPLE:
        guest = extract.run(letter(*person), backend=engine)["guest"]
        assert isinstance(guest, Guest)


def test_every_way_to_run_gives_the_same(engine):
    items = [(letter(*person),) for person in PEOPLE]
    alone = [values(review.run(*item, backend=engine)) for item in items]
    assert [values(state) for state in review.run_batch(items, backend=engine)] == alone
    tree = sgl.RequestTree.from_json(review.compile(*items[0]).to_json())
    assert values(sgl.run_tree(tree, backend=engine)) == alone[0]
    streamed = review.stream(*items[1], backend=engine)
    assert "".join(streamed.text_iter("reply")) == alone[1]["reply"]


def test_64_constrained_programs_at_once(engine):
    items = [(letter(name, city, guests + at),) for at in range(16) for name, city, guests in PEOPLE]
    engine.flush_cache()
    states = extract.run_batch(items, backend=engine)
    schema = schema_of(Guest)
    for state in states:
        jsonschema.validate(json.loads(state.messages()[-1]["content"]), schema)
    alone = [extract.run(*item, backend=engine)["guest"] for item in items[::9]]
    assert [state["guest"] for state in states[::9]] == alone
    again = extract.run_batch(items, backend=engine)
    cached = sum(state.usage().cached_tokens for state in again)
    prompt = sum(state.usage().prompt_tokens for state in again)
    assert cached / prompt > 0.9  # all but the last tokens of each prompt are in the cache now


def test_forced_tokens_are_not_decoded(engine):
    usage = extract.run(letter(*PEOPLE[0]), backend=engine).usage("guest")
    assert usage.forced_tokens > 0
    assert usage.decoded_tokens > 0


def test_probabilities_of_choices_sum_to_one(engine):
    state = review.run(letter(*PEOPLE[0]), backend=engine)
    scores = state.meta("from_oslo").choices
    assert sum(score.probability for score in scores) == pytest.approx(1, abs=1e-3)


@sgl.tool
def weather(city: str) -> dict[str, object]:
    """Get the current weather for a city."""
    return {"temperature": 12, "unit": "C"}


@sgl.tool
def choose(city: Literal["Oslo", "Lyon"], rooms: Annotated[int, pydantic.Field(ge=1, le=9)]) -> str:
    """Choose a city."""
    return city


def test_an_agent_calls_a_tool_and_answers(engine):
    agent = sgl.agent([weather], max_steps=4, temperature=0, max_tokens=120)
    state = agent.run("What is the weather in Oslo?", backend=engine, trace=True)
    assert state["step_0"].calls[0].name == "weather"
    assert state["step_0"].calls[0].arguments == {"city": "Oslo"}
    assert [message["role"] for message in state.messages()][:3] == ["user", "assistant", "tool"]
    assert state.ret_value
    shown = state.render("html")
    assert "&lt;|tools|&gt;" in shown or "weather" in shown


def test_required_calls_are_valid_whatever_the_model_says(engine):
    @sgl.function(temperature=1.0, max_tokens=200)
    def program(s, seed):
        s += sgl.tools(choose) + sgl.user("Tell me a story.")
        s += sgl.assistant(sgl.gen_calls("turn", choice="required", at_most=2, seed=seed))

    for state in program.run_batch([(seed,) for seed in range(8)], backend=engine):
        assert 1 <= len(state["turn"].calls) <= 2
        assert all(
            call.name == "choose" and call.arguments["city"] in ("Oslo", "Lyon")
            for call in state["turn"].calls
        )


def test_think(engine):
    @sgl.function(temperature=0)
    def program(s):
        s += sgl.system("Think before you answer.") + sgl.user(
            "What is 17 + 25? Answer with the number only."
        )
        s += sgl.assistant(sgl.think("why", max_tokens=60) + sgl.gen("answer", int, max_tokens=6))

    state = program.run(backend=engine)
    assert isinstance(state["answer"], int)
    assert "<|" not in state["why"]


def test_quoting(engine):
    passage = "The door is red. The key is green and lies under the mat. It is late."

    @sgl.function(temperature=0)
    def program(s):
        s += sgl.user(f"Passage: {passage}\n\nQuestion: Where is the key?")
        s += sgl.assistant(sgl.copy_from(passage, "quote"))

    state = program.run(backend=engine)
    assert state["quote"] in passage
    assert state.usage("quote").forced_tokens > state.usage("quote").decoded_tokens


def test_images_are_refused_by_name(engine):
    program = sgl.function(lambda s: s.append(sgl.image("data:image/png;base64,AA==")))
    with pytest.raises(sgl.UnsupportedFeature, match="image"):
        program.run(backend=engine)


def test_a_bad_grammar_is_an_error_and_the_engine_goes_on(engine):
    program = sgl.function(lambda s, ebnf: s.append("Say " + sgl.gen("x", ebnf=ebnf, max_tokens=5)))
    with pytest.raises(sgl.InvalidConstraint) as caught:
        program.run("root ::= (", backend=engine)
    assert caught.value.line.startswith("test_language_model.py:")
    assert program.run('root ::= "ok"', backend=engine)["x"] == "ok"
