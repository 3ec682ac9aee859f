"""Every example runs on the embedded model, by `sgl run` as the README says, and gives values of the promised kind."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import sgl_lang as sgl
from sgl_runtime import cli

EXAMPLES = Path(__file__).parents[2] / "examples"
LETTER = str(EXAMPLES / "data" / "letter.txt")


@pytest.fixture(scope="module", autouse=True)
def engine():
    engine = sgl.Engine()
    sgl.set_default_backend(engine)
    yield engine
    sgl.set_default_backend(None)
    engine.close()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extract_gives_a_valid_order() -> None:
    module = load("extract")
    order = module.main(LETTER)
    assert isinstance(order, module.Order)
    assert module.Order.model_validate_json(order.model_dump_json()) == order


def test_judge_scores_every_dimension() -> None:
    module = load("judge")
    scores = module.main(LETTER)
    assert list(scores) == list(module.DIMENSIONS)
    assert all(1 <= score <= 5 for score in scores.values())


def test_react_runs_real_tools(capsys) -> None:
    module = load("react_agent")
    answer = module.main()
    shown = capsys.readouterr().out
    assert "Thought: " in shown
    assert answer is None or f"Final Answer: {answer}" in shown
    for line in shown.splitlines():
        if line.startswith("Action: "):
            name, _, argument = line.removeprefix("Action: ").partition("[")
            assert f"Observation: {module.TOOLS[name](argument.rstrip(']'))}" in shown


def test_the_calculator_works_out_sums() -> None:
    assert [load("react_agent").calculator(sum_) for sum_ in ("2 + 3", "2 - 3", "4 * 5")] == ["5", "-1", "20"]


def test_tree_of_thought_searches_steps_of_the_asked_form() -> None:
    paths = load("tree_of_thought").main("3", "4", "6", "18")
    assert 1 <= len(paths) <= 2
    assert all(len(path) == 2 for path in paths)


def test_few_shot_shares_the_examples() -> None:
    labels = load("few_shot").main()
    assert set(labels) <= {"positive", "negative", "neutral"}
    assert len(labels) == 3


def test_skeleton_of_thought_expands_every_point() -> None:
    answer = load("skeleton_of_thought").main()
    assert len(answer) == 3
    assert all(point for point, _ in answer)


def test_chat_answers_every_question() -> None:
    module = load("chat")
    assert len(module.main()) == len(module.QUESTIONS)


def test_rag_answers_from_a_document() -> None:
    assert isinstance(load("rag").main(), str)


def test_generative_agents_all_go_somewhere() -> None:
    module = load("generative_agents")
    meetings = module.main()
    assert sorted(name for names in meetings.values() for name in names) == sorted(module.PEOPLE)


def test_the_demo_shows_text_values_and_costs(capsys) -> None:
    module = load("demo")
    state = module.main(LETTER)
    shown = capsys.readouterr().out
    assert isinstance(state["record"][0], module.Record)
    assert state["record"][0].name == "Mara Veldt"
    assert state["kind"][0] in module.Kind.__args__
    call = state["calls"].calls[0]
    assert call.name == "calculate"
    assert json.loads(state.messages()[-2]["content"]) == module.calculate(
        **call.arguments
    )  # the tool really ran
    for heading in ("generated parts marked", "Values", "What it cost"):
        assert heading in shown
    usage = state.usage()
    assert usage.forced_tokens > 0
    assert usage.decoded_tokens > 0


def test_sgl_run_runs_a_file(capsys) -> None:
    assert cli.main(["run", str(EXAMPLES / "extract.py"), LETTER]) == 0
    assert '"order_id"' in capsys.readouterr().out


def test_sgl_run_names_a_missing_file(capsys) -> None:
    assert cli.main(["run", str(EXAMPLES / "missing.py")]) != 0
    assert "missing.py" in capsys.readouterr().err


def test_the_program_of_the_readme_prints_what_it_says(capsys) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n", 1)[1].split("```", 1)[0]
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert f"It prints `{capsys.readouterr().out.strip()}`" in readme
