"""A judge: fork into four dimensions, score each, join, and decide: `sgl run examples/judge.py [FILE]`.

The four branches share the KV of all that was said before. Their scores are `select`ed: read off the
model's probabilities in one step each, not generated.
"""

import sys
from pathlib import Path

import sgl_lang as sgl

DIMENSIONS = ("clarity", "politeness", "detail", "urgency")


@sgl.function
def judge(s, text: str):
    s += sgl.system("You judge texts.")
    branches = s.fork(len(DIMENSIONS))
    for branch, dimension in zip(branches, DIMENSIONS, strict=True):
        branch += sgl.user(
            f"Rate the {dimension} of the text from 1 to 5. Answer with the number only.\n\nText: {text}"
        )
        branch += sgl.assistant(sgl.select("score", choices=["1", "2", "3", "4", "5"]))
    branches.join()
    scores = "\n".join(f"{name}: {score}" for name, score in zip(DIMENSIONS, s["score"], strict=True))
    s += sgl.user(f"{scores}\n\nIs every score above 2? Answer yes or no.")
    s += sgl.assistant(sgl.select("good", choices=["yes", "no"]))


def main(path: str = str(Path(__file__).parent / "data" / "message.txt")) -> dict[str, int]:
    state = judge.run(Path(path).read_text(encoding="utf-8"))
    scores = {name: int(score) for name, score in zip(DIMENSIONS, state["score"], strict=True)}
    for name, score in scores.items():
        print(f"{name:<12}{'*' * score}")
    print("good" if state["good"] == "yes" else "not good enough")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
