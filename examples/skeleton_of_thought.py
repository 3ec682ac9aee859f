"""Skeleton of thought: list the points, expand them all at once: `sgl run examples/skeleton_of_thought.py ["task"]`.

The points are a regex, so the skeleton is always three numbered lines; each is expanded on its own branch.
"""

import sys

import sgl_lang as sgl

POINT = r"[A-Z][^\n]{3,80}"


@sgl.function
def skeleton(s, task: str):
    s += sgl.user(f"List three steps to {task}.")
    s += sgl.assistant(sgl.gen("points", regex=rf"1\. {POINT}\n2\. {POINT}\n3\. {POINT}", temperature=0))
    points = [line[3:] for line in str(s["points"]).splitlines()]
    branches = s.fork(len(points))
    for number, (branch, point) in enumerate(zip(branches, points, strict=True), 1):
        branch += sgl.user(f"Write one sentence on point {number}: {point}")
        branch += sgl.assistant(sgl.gen("sentence", max_tokens=60, temperature=0))
    branches.join()
    s["answer"] = list(zip(points, s["sentence"], strict=True))


def main(task: str = "plan a picnic") -> list[tuple[str, str]]:
    answer: list[tuple[str, str]] = skeleton.run(task)["answer"]
    for point, sentence in answer:
        print(f"* {point}\n  {sentence}")
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
