"""Generative agents: a small town, one round of decisions: `sgl run examples/generative_agents.py`.

All agents share the description of the town; each decides where to go from its own memory, as one batch of typed
generations, and then they meet.
"""

from typing import Literal

import sgl_lang as sgl

TOWN = "The town has a bakery, a library, a harbour and a park."
PEOPLE = {
    "Ruta": "Ruta wants fresh bread for breakfast.",
    "Tom": "Tom wants to look at the boats.",
    "Ines": "Ines wants to borrow a book.",
    "Emil": "Emil wants to borrow a book on stars.",
}
Place = Literal["bakery", "library", "harbour", "park"]


@sgl.function
def decide(s, name: str, memory: str):
    s += sgl.user(
        "Classify the message as one of: bakery, library, harbour, park.\n\n"
        f"Message: {TOWN} {memory} Where does {name} go?\n\nAnswer with the label only."
    )
    s += sgl.assistant(sgl.gen("place", Place, temperature=0))


def main() -> dict[str, list[str]]:
    states = decide.run_batch([{"name": name, "memory": memory} for name, memory in PEOPLE.items()])
    meetings: dict[str, list[str]] = {}
    for name, state in zip(PEOPLE, states, strict=True):
        meetings.setdefault(state["place"], []).append(name)
    for place, names in meetings.items():
        print(f"{place:<10}{' and '.join(names)}")
    return meetings


if __name__ == "__main__":
    main()
