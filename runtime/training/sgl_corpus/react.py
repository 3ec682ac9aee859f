"""Category (e): ReAct traces. Facts live behind tools; the next action follows from the question and what was observed."""

from __future__ import annotations

from dataclasses import dataclass

from .core import ASSISTANT, BOS, END, USER, Chat, Document, Phrases, Rng, compact
from .prose import sentence
from .values import KINDS, city, company, invented, noun, person, title

_TO_PERSON = {
    "place": (
        "mayor",
        "founder",
        "oldest citizen",
        "architect",
        "doctor",
        "teacher",
        "priest",
        "sheriff",
        "baker",
    ),
    "company": (
        "founder",
        "owner",
        "director",
        "president",
        "chief engineer",
        "accountant",
        "lawyer",
        "chairman",
    ),
    "work": ("author", "editor", "translator", "hero", "illustrator", "publisher", "composer", "singer"),
    "person": (
        "wife",
        "husband",
        "brother",
        "sister",
        "mother",
        "father",
        "teacher",
        "doctor",
        "best friend",
        "boss",
        "neighbor",
        "son",
        "daughter",
    ),
}
_VALUES: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "person": (
        ("age", "age", ("How old is {x}?", "What is the age of {x}?")),
        ("birthplace", "city", ("Where was {x} born?", "What is the birthplace of {x}?")),
        ("birth year", "year", ("In which year was {x} born?", "What is the birth year of {x}?")),
        ("job", "job", ("What is the job of {x}?", "What does {x} do for a living?")),
        ("hobby", "hobby", ("What is the hobby of {x}?", "What does {x} like to do?")),
        ("home town", "city", ("Where does {x} live?", "What is the home town of {x}?")),
        ("phone number", "phone", ("What is the phone number of {x}?", "How can I call {x}?")),
        ("favorite color", "color", ("What is the favorite color of {x}?",)),
        ("height", "count", ("How tall is {x}?", "What is the height of {x}?")),
        ("salary", "money", ("How much does {x} earn?", "What is the salary of {x}?")),
        ("pet", "animal", ("Which pet does {x} have?", "What is the pet of {x}?")),
    ),
    "place": (
        ("population", "count", ("How many people live in {x}?", "What is the population of {x}?")),
        ("area", "count", ("How big is {x}?", "What is the area of {x}?")),
        ("country", "country", ("In which country is {x}?", "Which country does {x} belong to?")),
        ("founding year", "year", ("When was {x} founded?", "What is the founding year of {x}?")),
        ("river", "invented", ("Which river flows through {x}?", "What is the river of {x}?")),
    ),
    "company": (
        ("revenue", "money", ("What is the revenue of {x}?", "How much money does {x} make?")),
        ("headquarters", "city", ("Where is {x} based?", "Where are the headquarters of {x}?")),
        (
            "number of employees",
            "count",
            ("How many people work for {x}?", "What is the number of employees of {x}?"),
        ),
        ("main product", "product", ("What does {x} make?", "What is the main product of {x}?")),
    ),
    "work": (
        (
            "number of pages",
            "count",
            ("How many pages does {x} have?", "What is the number of pages of {x}?"),
        ),
        ("publication year", "year", ("When was {x} published?", "What is the publication year of {x}?")),
        ("price", "money", ("How much does {x} cost?", "What is the price of {x}?")),
        ("genre", "phrase", ("What is the genre of {x}?",)),
    ),
}
_NUMERIC = {
    "place": ("population", "area"),
    "company": ("number of employees",),
    "work": ("number of pages",),
    "person": ("age", "height"),
}
_SAMPLERS = {"person": person, "place": city, "company": company, "work": title}


@dataclass(frozen=True, slots=True)
class Step:
    """A thought with an action (tool role and input), and what comes back."""

    thought: str
    role: str
    query: str
    observation: str


@dataclass(frozen=True, slots=True)
class Plan:
    question: str
    steps: tuple[Step, ...]
    last_thought: str
    answer: str


def _observe(rng: Rng, relation: str, entity: str, value: str) -> str:
    roll = rng.below(10)
    said = f"The {relation} of {entity} is {value}."
    if roll < 4:
        return said
    if roll < 6:
        return value
    if roll < 7:
        return f"{relation}: {value}"
    if roll < 8:
        return f"{said} {sentence(rng)}"
    if roll < 9:
        return f"{sentence(rng)} {said}"
    return compact({"result": value})


def _need(relation: str, entity: str, first: bool) -> str:
    return f"I need the {relation} of {entity}." if first else f"Now I need the {relation} of {entity}."


def _lookup(rng: Rng, relation: str, entity: str, value: str, first: bool) -> Step:
    return Step(
        _need(relation, entity, first),
        "search",
        f"{relation} of {entity}",
        _observe(rng, relation, entity, value),
    )


_KNOW = "I know the answer."


def _chain(rng: Rng) -> Plan:
    """Zero to two persons in between, then a value."""
    start = rng.choice(("place", "company", "work", "person"))
    entity = _SAMPLERS[start](rng)
    hops = rng.weighted(((3, 0), (5, 1), (2, 2)))
    described, current, where = entity, entity, start
    steps: list[Step] = []
    for _ in range(hops):
        relation = rng.choice(_TO_PERSON[where])
        following = person(rng)
        steps.append(_lookup(rng, relation, current, following, not steps))
        described, current, where = f"the {relation} of {described}", following, "person"
    if hops and rng.chance(0.15):
        return Plan(f"Who is {described}?", tuple(steps), _KNOW, current)
    relation, kind, questions = rng.choice(_VALUES[where])
    value = KINDS[kind].sample(rng).text
    steps.append(_lookup(rng, relation, current, value, not steps))
    return Plan(rng.choice(questions).replace("{x}", described), tuple(steps), _KNOW, value)


def _made_up_chain(rng: Rng) -> Plan:
    """Relations that are just nouns."""
    entity = rng.choice(tuple(_SAMPLERS.values()))(rng)
    relations = [noun(rng) for _ in range(rng.int(1, 3))]
    described = entity
    steps: list[Step] = []
    current = entity
    for relation in relations:
        value = KINDS[rng.choice(("person", "city", "invented", "company", "count", "code"))].sample(rng).text
        steps.append(_lookup(rng, relation, current, value, not steps))
        described, current = f"the {relation} of {described}", value
    return Plan(
        rng.choice((f"What is {described}?", f"Find {described}.", f"Tell me {described}.")),
        tuple(steps),
        _KNOW,
        current,
    )


def _number(rng: Rng) -> int:
    return rng.int(2, 99) if rng.chance(0.5) else rng.int(100, 99_999)


_COMBINE = (
    ("+", ("What is the {r} of {a} and {b} together?", "What is the sum of the {r} of {a} and the {r} of {b}?", "Add the {r} of {a} and {b}."), "I have to add the numbers."),
    ("-", ("How much bigger is the {r} of {a} than the {r} of {b}?", "What is the difference between the {r} of {a} and the {r} of {b}?"), "I have to subtract the numbers."),
    ("*", ("What is the {r} of {a} times the {r} of {b}?", "Multiply the {r} of {a} by the {r} of {b}."), "I have to multiply the numbers."),
)  # fmt: skip


def _combined(rng: Rng) -> Plan:
    """Two look-ups and a calculation."""
    where = rng.choice(tuple(_NUMERIC))
    relation = rng.choice(_NUMERIC[where])
    a, b = _SAMPLERS[where](rng), _SAMPLERS[where](rng)
    x, y = _number(rng), _number(rng)
    sign, questions, thought = rng.choice(_COMBINE)
    if sign == "-" and x < y:
        x, y = y, x
    result = str(x + y if sign == "+" else x - y if sign == "-" else x * y)
    steps = (
        _lookup(rng, relation, a, str(x), True),
        _lookup(rng, relation, b, str(y), False),
        Step(thought, "calculator", f"{x} {sign} {y}", result),
    )
    question = rng.choice(questions).replace("{r}", relation).replace("{a}", a).replace("{b}", b)
    return Plan(question, steps, _KNOW, result)


def _scaled(rng: Rng) -> Plan:
    """One look-up, then a calculation with a number of the question."""
    where = rng.choice(tuple(_NUMERIC))
    relation = rng.choice(_NUMERIC[where])
    a, x, n = _SAMPLERS[where](rng), _number(rng), rng.int(2, 20)
    sign, question, thought = rng.choice((
        ("*", f"What is {n} times the {relation} of {a}?", "I have to multiply the numbers."),
        ("+", f"What is the {relation} of {a} plus {n}?", "I have to add the numbers."),
        ("*", f"Multiply the {relation} of {a} by {n}.", "I have to multiply the numbers."),
    ))  # fmt: skip
    result = str(x * n if sign == "*" else x + n)
    steps = (_lookup(rng, relation, a, str(x), True), Step(thought, "calculator", f"{x} {sign} {n}", result))
    return Plan(question, steps, _KNOW, result)


def _sum_only(rng: Rng) -> Plan:
    expression = " ".join([str(rng.int(1, 999)), rng.choice("+-*/"), str(rng.int(1, 99))])
    if rng.chance(0.5):
        expression += f" {rng.choice('+-*')} {rng.int(1, 99)}"
    result = str(rng.int(1, 99_999))
    question = rng.choice(
        (
            f"What is {expression}?",
            f"Calculate {expression}.",
            f"How much is {expression}?",
            f"Work out {expression}.",
        )
    )
    return Plan(question, (Step("I have to calculate.", "calculator", expression, result),), _KNOW, result)


def _weather(rng: Rng) -> Plan:
    place = city(rng)
    said = rng.choice(("sunny", "rain", "snow", "cloudy", "windy", "fog")) + f", {rng.int(-10, 35)} degrees"
    if rng.chance(0.4):
        work = rng.choice(("person", "company"))
        entity = _SAMPLERS[work](rng)
        relation = "home town" if work == "person" else "headquarters"
        question = f"What is the weather in the {relation} of {entity}?"
        steps = (
            _lookup(rng, relation, entity, place, True),
            Step(f"Now I need the weather in {place}.", "weather", place, said),
        )
        return Plan(question, steps, _KNOW, said)
    question = rng.choice(
        (
            f"What is the weather in {place}?",
            f"How is the weather in {place} today?",
            f"Tell me the weather in {place}.",
        )
    )
    return Plan(question, (Step(f"I need the weather in {place}.", "weather", place, said),), _KNOW, said)


def _unknown(rng: Rng) -> Plan:
    plan = _chain(rng)
    step = plan.steps[-1]
    gone = rng.choice(("No result.", "Nothing found.", "not found", "No entry."))
    return Plan(
        plan.question,
        (*plan.steps[:-1], Step(step.thought, step.role, step.query, gone)),
        "I could not find it.",
        "unknown",
    )


def make_plan(rng: Rng) -> Plan:
    maker = rng.weighted(
        (
            (5, _chain),
            (2.5, _made_up_chain),
            (2.5, _combined),
            (1.5, _scaled),
            (1, _sum_only),
            (1, _weather),
            (0.5, _unknown),
        )
    )
    return maker(rng)


_ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "search": (("search", "lookup", "wiki", "find", "search_web", "query", "ask", "encyclopedia", "facts"), ("look up a fact", "search for a page", "find out about something", "look something up"), "query"),
    "calculator": (("calculator", "calc", "compute", "math", "calculate"), ("work out a sum", "do arithmetic", "calculate an expression", "compute a number"), "expression"),
    "weather": (("weather", "get_weather", "forecast"), ("get the weather of a city", "the weather in a place"), "city"),
    "time": (("time", "clock"), ("get the time of a city", "the current time"), "city"),
    "translate": (("translate", "dictionary"), ("translate a word", "translate into another language"), "text"),
    "email": (("email", "send_mail"), ("send an e-mail", "write a mail"), "to"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kit:
    """The tools of one trace: names and argument names by role, and how actions are written."""

    names: dict[str, str]
    arguments: dict[str, str]
    lines: tuple[str, ...]
    style: str

    def action(self, step: Step) -> str:
        name = self.names[step.role]
        if self.style == "json":
            return "Action: " + compact({"name": name, "arguments": {self.arguments[step.role]: step.query}})
        if self.style == "input":
            return f"Action: {name}\nAction Input: {step.query}"
        return f"Action: {name}[{step.query}]"


def make_kit(rng: Rng, needed: set[str]) -> Kit:
    style = rng.weighted(((6, "bracket"), (2.5, "json"), (1.5, "input")))
    roles = rng.shuffled(sorted(needed | set(rng.sample(sorted(_ROLES), rng.int(0, 3)))))
    names, arguments, lines = {}, {}, []
    for role in roles:
        options, about, argument = _ROLES[role]
        name = rng.choice(options) if rng.chance(0.85) else f"{invented(rng, 1, 2)}"
        names[role] = name
        arguments[role] = argument if rng.chance(0.8) else rng.choice(("input", "q", "text"))
        shown = f"{name}[{arguments[role]}]" if style == "bracket" else f"{name}({arguments[role]})"
        lines.append(f"{shown}: {rng.choice(about)}")
    return Kit(names, arguments, tuple(lines), style)


_INTRO = Phrases("""
    Answer with Thought, Action and Observation steps.
    [Solve|Answer] the question [step by step|in steps] with Thought, Action and Observation.
    [Think|Reason] and act: write [a Thought and an Action|Thought, then Action], then wait for the Observation.
    [Use|You can use] the tools to [answer|find the answer]. [Write|Use] Thought, Action, Observation lines.
    [Work|Go] in the loop Thought, Action, Observation[ until you know the answer|].
    You are an agent. [Alternate|Go through] Thought, Action and Observation.
""")
_FINISH = Phrases("""
    Finish with "Final Answer:".
    [When you know it|At the end], write "Final Answer:"[ and the answer|].
    [End|Close] with Final Answer.
    Then give the Final Answer.
""", shared=True)  # fmt: skip
_JSON_RULE = 'An action is JSON: Action: {"name":...,"arguments":{...}}'
_INPUT_RULE = "Write Action: (the tool) and Action Input: (its input)."


def _prompt(rng: Rng, kit: Kit) -> str:
    rule = {"json": _JSON_RULE, "input": _INPUT_RULE, "bracket": ""}[kit.style]
    menu = "Tools:\n" + "\n".join(kit.lines)
    parts = [rng.say(_INTRO), rule] if rng.chance(0.7) else [rule]
    head = " ".join(p for p in parts if p)
    if rng.chance(0.7):
        return f"{head + ' ' if head else ''}{menu}\n{rng.say(_FINISH)}"
    return f"{menu}\n{head} {rng.say(_FINISH)}" if head else f"{rng.say(_INTRO)}\n{menu}\n{rng.say(_FINISH)}"


def _trace(rng: Rng, plan: Plan, kit: Kit) -> list[tuple[str, bool]]:
    """Learned steps and observations, cut at a random step in a part of the documents."""
    out: list[tuple[str, bool]] = []
    stop = rng.below(len(plan.steps) + 1) if rng.chance(0.5) else len(plan.steps)
    for i, step in enumerate(plan.steps):
        out.append((f"Thought: {step.thought}\n{kit.action(step)}\nObservation:", True))
        if i == stop:
            return out
        out.append((f" {step.observation}\n", False))
    out.append((f"Thought: {plan.last_thought}\nFinal Answer: {plan.answer}", True))
    return out


def _as_chat(rng: Rng, kind: str, plan: Plan, kit: Kit, demo: str = "") -> Document:
    prompt = _prompt(rng, kit)
    if demo:
        prompt = f"{prompt}\n\nExample:\n{demo}"
    question = f"Question: {plan.question}" if rng.chance(0.7) else plan.question
    chat = Chat("react", kind)
    if rng.chance(0.5):
        chat.system(prompt).user(question)
    else:
        chat.user(f"{prompt}\n\n{question}")
    chat.part(ASSISTANT, False)
    trace = _trace(rng, plan, kit)
    for text, learn in trace[:-1]:
        chat.part(text, learn)
    last = trace[-1][0]
    return chat.part(last if last.endswith("Observation:") else last + END, True).done()


def react(rng: Rng) -> Document:
    plan = make_plan(rng)
    return _as_chat(rng, "chat", plan, make_kit(rng, {s.role for s in plan.steps}))


def _flat(plan: Plan, kit: Kit) -> str:
    lines = [f"Question: {plan.question}"]
    for step in plan.steps:
        lines += [f"Thought: {step.thought}", kit.action(step), f"Observation: {step.observation}"]
    return "\n".join([*lines, f"Thought: {plan.last_thought}", f"Final Answer: {plan.answer}"])


def with_examples(rng: Rng) -> Document:
    """One or more worked examples in the prompt."""
    plans = [make_plan(rng) for _ in range(rng.int(2, 4))]
    kit = make_kit(rng, {s.role for p in plans for s in p.steps})
    return _as_chat(rng, "examples", plans[-1], kit, "\n\n".join(_flat(p, kit) for p in plans[:-1]))


def long_react(rng: Rng) -> Document:
    """Examples that fill one to two thousand tokens."""
    plans = [make_plan(rng) for _ in range(rng.int(7, 14))]
    kit = make_kit(rng, {s.role for p in plans for s in p.steps})
    return _as_chat(rng, "long", plans[-1], kit, "\n\n".join(_flat(p, kit) for p in plans[:-1]))


def raw_react(rng: Rng) -> Document:
    """No roles: instructions, sometimes examples, then the trace goes on."""
    plans = [make_plan(rng) for _ in range(rng.int(1, 3))]
    kit = make_kit(rng, {s.role for p in plans for s in p.steps})
    demos = "".join(_flat(p, kit) + "\n\n" for p in plans[:-1])
    head = f"{_prompt(rng, kit)}\n\n{demos}Question: {plans[-1].question}\n"
    trace = _trace(rng, plans[-1], kit)
    last = trace[-1][0]
    trace[-1] = (last if last.endswith("Observation:") else last + "\n", True)
    return Document("react", "raw", (((BOS if rng.chance(0.7) else "") + head, False), *trace))


_WAIT = Phrases("""
    Stop after each Action: the Observation comes in the next message.
    [Write one|One] Action per message[, then wait|].
    I will [send|give] you the Observation after each Action.
""", shared=True)  # fmt: skip


def by_turns(rng: Rng) -> Document:
    """Observations come as turns of the user; an action ends the assistant's turn (the prompt says so)."""
    plan = make_plan(rng)
    kit = make_kit(rng, {s.role for s in plan.steps})
    segments: list[tuple[str, bool]] = [
        (
            f"{BOS}{USER}{_prompt(rng, kit)} {rng.say(_WAIT)}\n\nQuestion: {plan.question}{END}{ASSISTANT}",
            False,
        )
    ]
    stop = rng.below(len(plan.steps) + 1) if rng.chance(0.5) else len(plan.steps)
    for i, step in enumerate(plan.steps):
        segments.append((f"Thought: {step.thought}\n{kit.action(step)}{END}", True))
        segments.append((f"{USER}Observation: {step.observation}{END}{ASSISTANT}", False))
        if i == stop:
            return Document("react", "turns", tuple(segments[:-1]))
    segments.append((f"Thought: {plan.last_thought}\nFinal Answer: {plan.answer}{END}", True))
    return Document("react", "turns", tuple(segments))
