"""A ReAct agent with tools that really run: `sgl run examples/react_agent.py ["question"]`.

Thought and Action come from the model, the Action held to a regex that names only real tools with arguments they
can take; the program runs the tool and writes the Observation. That is known text: it is prefilled, not decoded,
and the branch goes on where it stood.
"""

import operator
import sys

import sgl_lang as sgl

PAGES = {
    "mayor of zelm": "The mayor of Zelm is Orla Brandt.",
    "orla brandt": "Orla Brandt is a politician, born in 1974, who likes to sail.",
}
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
INSTRUCTION = """Answer with Thought, Action and Observation steps. Tools:
search[query]: look up a page
calculator[expression]: work out a sum
Finish with "Final Answer:".

Question: """
ACTION = r"Action: (search\[[^\]\n]{1,100}\]|calculator\[[0-9]{1,6} [+*-] [0-9]{1,6}\])"
STEP = rf"Thought: [^\n]{{1,200}}\n({ACTION}|Final Answer: [^\n]{{1,200}})"


def search(query: str) -> str:
    return PAGES.get(query.strip().lower(), "Nothing found.")


def calculator(expression: str) -> str:
    left, sign, right = expression.split()
    return str(SIGNS[sign](int(left), int(right)))


TOOLS = {"search": search, "calculator": calculator}


@sgl.function
def react(s, question: str, max_steps: int = 6):
    s += sgl.user(INSTRUCTION + question)
    with s.assistant():
        for step in range(max_steps):
            s += sgl.gen(f"step{step}", regex=STEP, temperature=0)
            last = str(s[f"step{step}"]).rsplit("\n", 1)[-1]
            if last.startswith("Final Answer: "):
                return last.removeprefix("Final Answer: ")
            name, _, argument = last.removeprefix("Action: ").partition("[")
            s += f"\nObservation: {TOOLS[name](argument.rstrip(']'))}\n"
    return None


def main(question: str = "Who is the mayor of Zelm?") -> str | None:
    print(f"{(state := react.run(question)).text()}\n\n=> {state.ret_value}")
    return state.ret_value


if __name__ == "__main__":
    main(*sys.argv[1:])
