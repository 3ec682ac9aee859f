"""Tree of thought: propose, judge, keep the best, go deeper: `sgl run examples/tree_of_thought.py 3 4 6 18`.

Each level forks one branch per proposal; the siblings share everything up to the fork. Only steps that the rules
allow can be proposed. Whether a way is "sure" or "maybe" is read off the model's probabilities with `select`.
"""

import itertools
import sys

import sgl_lang as sgl

WEIGHTS = {"sure": 2, "maybe": 1, "impossible": 0}
SIGNS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def steps(numbers: list[str]) -> dict[str, list[str]]:
    # every step that the rules allow, with the numbers that are left after it
    found, pairs = {}, itertools.permutations(enumerate(numbers), 2)
    for ((i, a), (j, b)), (sign, work) in itertools.product(pairs, SIGNS.items()):
        if (result := work(int(a), int(b))) > 0:
            left = [str(result), *(n for k, n in enumerate(numbers) if k not in (i, j))]
            found[f"{a} {sign} {b} = {result} (left: {' '.join(left)})"] = left
    return found


@sgl.function
def propose(s, numbers: list[str], target: str, ways: int = 4):
    s += sgl.user(f"Numbers: {' '.join(numbers)}. Target: {target}. Propose a step.")
    branches = s.fork(ways)
    for seed, branch in enumerate(branches):
        branch += sgl.assistant(
            sgl.gen("step", choices=list(steps(numbers)), temperature=seed / 2, seed=seed)
        )
        branch += sgl.user("Is the target still reachable? Answer sure, maybe or impossible.")
        branch += sgl.assistant(sgl.select("value", choices=list(WEIGHTS)))
    branches.join()


def main(*words: str, keep: int = 2) -> list[list[str]]:
    *numbers, target = words or ("3", "4", "6", "18")
    frontier: list[tuple[list[str], list[str]]] = [([], numbers)]
    while len(frontier[0][1]) > 1:
        found, batch = {}, [{"numbers": left, "target": target} for _, left in frontier]
        for (path, left), state in zip(frontier, propose.run_batch(batch), strict=True):
            for step, value in zip(state["step"], state["value"], strict=True):
                found[step] = (WEIGHTS[value], ([*path, step], steps(left)[step]))
        frontier = [node for _, node in sorted(found.values(), key=lambda item: -item[0])[:keep]]
    for path, left in frontier:
        print(f"{'; '.join(path)}  {'reached' if left == [target] else 'not reached'}")
    return [path for path, _ in frontier]


if __name__ == "__main__":
    main(*sys.argv[1:])
