"""The public face: exported names, and a user's program under mypy strict."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import sgl_lang as sgl


def test_exported_names_exist_and_come_from_here():
    assert len(set(sgl.__all__)) == len(sgl.__all__)
    for name in sgl.__all__:
        assert hasattr(sgl, name), name
    public = {name for name in vars(sgl) if not name.startswith("_")}
    modules = {name for name in public if isinstance(vars(sgl)[name], type(sys))}
    assert public - modules == set(sgl.__all__)


def test_sglang_names_that_mean_the_same_are_there():
    wanted = """function gen gen_int gen_string select image system user assistant system_begin system_end user_begin
    user_end assistant_begin assistant_end set_default_backend Engine token_length_normalized
    greedy_token_selection unconditional_likelihood_normalized""".split()
    assert set(wanted) <= set(sgl.__all__)


def test_the_package_is_typed_and_light():
    assert (Path(sgl.__file__).parent / "py.typed").exists()
    heavy = ("torch", "sgl_runtime", "numpy", "jsonschema")
    code = f"import sys, sgl_lang, sgl_lang.testing; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


PROGRAM = """
from typing import Literal

from pydantic import BaseModel

import sgl_lang as sgl


class Facts(BaseModel):
    name: str
    age: int


@sgl.function
def extract(s: sgl.ProgramState, text: str, strict: bool = True) -> int:
    facts = sgl.gen("facts", Facts)
    s += sgl.user(text) + sgl.assistant(facts)
    reveal_type(s[facts])
    reveal_type(s.get(facts))
    reveal_type(sgl.gen("t"))
    reveal_type(sgl.gen("n", int, max_tokens=3))
    label: Literal["a", "b"] = s.get(sgl.gen("l", Literal["a", "b"]))
    s += sgl.gen("z", temperature=0.5, stop=["a"])
    for branch in s.fork(2):
        branch += f"{s[facts].age}"
    return s[facts].age + (1 if label == "a" else 0)


@sgl.function
async def later(s: sgl.AsyncProgramState) -> str:
    facts = sgl.gen("facts", Facts)
    s += facts
    reveal_type(await s.value(facts))
    return (await s.value(facts)).name


state = extract.run("a", backend=None, temperature=0)
reveal_type(state)
reveal_type(extract.compile("a"))


@sgl.function
def outer(s: sgl.ProgramState) -> None:
    reveal_type(extract(s, "text"))
    extract(s, 5)
    sgl.gen("n", int, heat=3)
"""


def test_a_users_program_under_mypy_strict(tmp_path):
    importlib.import_module("mypy")
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    root = Path(sgl.__file__).parent.parent
    options = [
        "--strict",
        "--no-error-summary",
        "--config-file",
        "",
        "--cache-dir",
        str(root / ".mypy_cache" / "user"),
    ]
    command = [sys.executable, "-m", "mypy", *options, str(file)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = [line.split("program.py:", 1)[1] for line in out.stdout.splitlines() if "program.py:" in line]
    revealed = [line.split('"')[1].replace("program.", "") for line in lines if "Revealed" in line]
    assert revealed == [
        "Facts", "Facts", "sgl_lang.expr.GenExpr[str]", "sgl_lang.expr.GenExpr[int]", "Facts",
        "sgl_lang.state.ProgramState", "sgl_lang.tree.RequestTree", "int",
    ], out.stdout + out.stderr  # fmt: skip
    errors = [line for line in lines if "error:" in line]
    assert {error.split(":")[0] for error in errors} == {"45", "46"}, out.stdout
    assert "No overload variant" in errors[0]
    assert "heat" in errors[1]
