"""Tree of thought: propose, judge, keep the best, go deeper: `sgl run examples/tree_of_thought.py 3 4 6 18`.

Each level forks one branch per proposal; the siblings share everything up to the fork. Whether a way is
"sure" or "maybe" is read off the model's probabilities with `select`.
"""

import itertools
import operator
import sys

import sgl_lang as sgl

WEIGHTS = {"sure": 2, "maybe": 1, "impossible": 0}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def steps(numbers: str) -> list[str]:
    """Every step that the rules allow, so that none but these can be proposed."""
    found = []
    for i, j in itertools.permutations(range(len(values := numbers.split())), 2):
        for sign, work in OPERATIONS.items():
            result = work(int(values[i]), int(values[j]))
            if result > 0:
                left = [str(result), *(value for k, value in enumerate(values) if k not in (i, j))]
                found.append(f"{values[i]} {sign} {values[j]} = {result} (left: {' '.join(left)})")
    return list(dict.fromkeys(found))


@sgl.function
def propose(s, numbers: str, target: int, ways: int):
    s += sgl.user(f"Numbers: {numbers}. Target: {target}. Propose a step.")
    branches = s.fork(ways)
    for seed, branch in enumerate(branches):
        temperature = 1.0 if seed else 0.0
        branch += sgl.assistant(sgl.gen("step", choices=steps(numbers), temperature=temperature, seed=seed))
        branch += sgl.user("Is the target still reachable? Answer sure, maybe or impossible.")
        branch += sgl.assistant(sgl.select("value", choices=list(WEIGHTS)))
    branches.join()


def search(numbers: str, target: int, ways: int = 4, keep: int = 2) -> list[list[str]]:
    """Paths of steps, best first. A node of the tree is the list of steps so far."""
    frontier: list[list[str]] = [[]]
    for _ in range(len(numbers.split()) - 1):
        states = propose.run_batch(
            [{"numbers": _left(path, numbers), "target": target, "ways": ways} for path in frontier]
        )
        found: dict[str, tuple[int, list[str]]] = {}
        for path, state in zip(frontier, states, strict=True):
            for step, value in zip(state["step"], state["value"], strict=True):
                found.setdefault(step, (WEIGHTS[value], [*path, step]))
        frontier = [path for _, path in sorted(found.values(), key=lambda item: -item[0])[:keep]]
    return frontier


def _left(path: list[str], numbers: str) -> str:
    return path[-1].split("left: ")[1].rstrip(")") if path else numbers


def main(*words: str) -> list[list[str]]:
    *numbers, target = words or ("3", "4", "6", "18")
    paths = search(" ".join(numbers), int(target))
    for path in paths:
        reached = _left(path, "") == target
        print(f"{'; '.join(path)}  {'reached' if reached else 'not reached'}")
    return paths


if __name__ == "__main__":
    main(*sys.argv[1:])
