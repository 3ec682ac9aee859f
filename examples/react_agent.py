"""A ReAct agent with tools that really run: `sgl run examples/react_agent.py ["question"]`.

Thought and Action come from the model, the Action held to a regex that names only real tools; the
program runs the tool and writes the Observation. The observation is known text: it is prefilled, not
decoded, and the branch goes on where it stood.
"""

import ast
import operator
import sys
from collections.abc import Callable

import sgl_lang as sgl

PAGES = {
    "mayor of zelm": "The mayor of Zelm is Orla Brandt.",
    "orla brandt": "Orla Brandt is a politician, born in 1974, who likes to sail.",
    "zelm": "Zelm is a town on the river Aar with 8,200 inhabitants.",
}
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def search(query: str) -> str:
    return PAGES.get(query.strip().lower(), "Nothing found.")


def calculator(expression: str) -> str:
    """Sums of numbers with + - * / and brackets; read as a syntax tree, never evaluated as code."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("only + - * / of numbers")

    try:
        return f"{value(ast.parse(expression, mode='eval').body):g}"
    except (SyntaxError, ValueError, ZeroDivisionError) as error:
        return f"Error: {error}"


TOOLS = {"search": search, "calculator": calculator}
INSTRUCTION = """Answer with Thought, Action and Observation steps. Tools:
search[query]: look up a page
calculator[expression]: work out a sum
Finish with "Final Answer:".

Question: """
STEP = r"Thought: [^\n]{1,200}\n(Action: (search|calculator)\[[^\]\n]{1,100}\]|Final Answer: [^\n]{1,200})"


@sgl.function
def react(s, question: str, max_steps: int = 6):
    s += sgl.user(INSTRUCTION + question)
    with s.assistant():
        for step in range(max_steps):
            s += sgl.gen(f"step{step}", regex=STEP, temperature=0)
            last = str(s[f"step{step}"]).rsplit("\n", 1)[-1]
            if last.startswith("Final Answer: "):
                s["answer"] = last.removeprefix("Final Answer: ")
                break
            name, _, argument = last.removeprefix("Action: ").partition("[")
            s += f"\nObservation: {TOOLS[name](argument.rstrip(']'))}\n"


def main(question: str = "Who is the mayor of Zelm?") -> str | None:
    state = react.run(question)
    print(state.text())
    answer = state["answer"] if "answer" in state else None
    print(f"\n=> {answer}")
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
