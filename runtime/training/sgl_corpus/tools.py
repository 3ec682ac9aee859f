"""Category (b): tool calls: choose one and fill it, several in parallel, none, results, answers, further turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import words
from .core import CALL, CALL_END, Chat, Document, Json, Phrases, Rng, capital, compact, spaced
from .domains import made_up_label
from .prose import sentence
from .tool_text import TOOL_TEXT
from .values import KINDS, Value, any_kind, invented, literal_enum, noun, verb


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    kind: str
    description: str
    required: bool
    extras: Phrases | None = None

    def sample(self, rng: Rng) -> Value:
        return sample_kind(rng, self.kind)

    def schema(self) -> dict[str, Json]:
        if self.kind.startswith("enum:"):
            return {"type": "string", "enum": self.kind[5:].split(",")}
        if self.kind.startswith("list:"):
            return {"type": "array", "items": dict(KINDS[self.kind[5:]].schema)}
        if self.kind == "expression":
            return {"type": "string"}
        return dict(KINDS[self.kind].schema)


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    params: tuple[Param, ...]
    requests: Phrases
    result: tuple[str, str]
    """Key and kind of the result."""
    answer: str


@dataclass(frozen=True, slots=True)
class Use:
    """One wish of the user: the request and the call that it must lead to."""

    tool: Tool
    request: str
    arguments: dict[str, Json]
    texts: Mapping[str, str]

    @property
    def call(self) -> dict[str, Json]:
        return {"name": self.tool.name, "arguments": self.arguments}


def _expression(rng: Rng) -> str:
    parts = [str(rng.int(1, 200))]
    for _ in range(rng.int(1, 3)):
        parts += [rng.choice("+-*/"), str(rng.int(1, 99))]
    text = " ".join(parts)
    if len(parts) > 4 and rng.chance(0.4):
        text = f"({' '.join(parts[:3])}) {' '.join(parts[3:])}"
    return text if rng.chance(0.7) else text.replace(" ", "")


def sample_kind(rng: Rng, kind: str) -> Value:
    """A value of a kind, an `enum:a,b`, a `list:kind` or an arithmetic expression."""
    if kind.startswith("enum:"):
        option = rng.choice(kind[5:].split(","))
        return Value(option, option.replace("_", " "))
    if kind.startswith("list:"):
        values = [KINDS[kind[5:]].sample(rng) for _ in range(rng.int(1, 4))]
        texts = [v.text for v in values]
        text = texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
        return Value([v.json for v in values], text)
    if kind == "expression":
        text = _expression(rng)
        return Value(text, text)
    return KINDS[kind].sample(rng)


def _load_tool(block: str) -> Tool:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    name, description = (p.strip() for p in lines[0].split("|")[:2])
    extras: dict[str, Phrases] = {}
    for line in lines:
        if line[0] == "+":
            key, *says = (p.strip() for p in line[1:].split("|"))
            extras[key] = Phrases("\n".join(says))
    params = []
    for line in lines:
        if line[0] in "@?":
            key, kind, text = (p.strip() for p in line[1:].split("|"))
            params.append(Param(key, kind, text, line[0] == "@", extras.get(key)))
    requests = Phrases("\n".join(line[1:].strip() for line in lines if line[0] == ">"))
    result = next(line[1:].split("|") for line in lines if line[0] == "~")
    answer = next(line[1:].strip() for line in lines if line[0] == "=")
    return Tool(name, description, tuple(params), requests, (result[0].strip(), result[1].strip()), answer)


TOOLS = tuple(_load_tool(block) for block in ("\n" + TOOL_TEXT).split("\n# ")[1:])

_MADE_REQUEST = Phrases("""
    [Please |]{verb} the {noun} with {args}.
    [Can|Could] you {verb} the {noun}? {Args}.
    I [want|need|would like] to {verb} the {noun}: {args}.
    {Verb} the {noun}. {Args}.
    The {noun} [must|should] be handled ({verb}) with {args}.
    [It is time to|We have to] {verb} the {noun}, {args}.
""")


def made_up_tool(rng: Rng) -> Tool:
    """A tool of a verb, a noun and a few parameters of any kind."""
    v, n = verb(rng), noun(rng) if rng.chance(0.7) else invented(rng, 1, 3)
    style = rng.below(10)
    name = (
        f"{v}_{n}"
        if style < 6
        else f"{v}{capital(n)}"
        if style < 8
        else f"{n}.{v}"
        if style == 8
        else f"{n}_{v}"
    )
    params: dict[str, Param] = {}
    for _ in range(rng.weighted(((1, 0), (4, 1), (5, 2), (3, 3), (1, 4)))):
        label = made_up_label(rng) if rng.chance(0.6) else rng.choice((*words.LABEL_HEADS, noun(rng)))
        kind = f"enum:{','.join(literal_enum(rng).options)}" if rng.chance(0.15) else any_kind(rng).name
        params[label] = Param(
            label,
            kind,
            rng.choice((f"The {label.replace('_', ' ')}", capital(label.replace("_", " ")))),
            rng.chance(0.75),
        )
    description = rng.choice(
        (f"{capital(v)} the {n}", f"{capital(v)} a {n}", f"Use this to {v} the {n}", f"{capital(v)}s {n}s")
    )
    return Tool(
        name,
        description,
        tuple(params.values()),
        _MADE_REQUEST,
        (rng.choice(("result", "status", "id", "value", made_up_label(rng))), any_kind(rng).name),
        "",
    )


def _made_up_request(rng: Rng, tool: Tool, chosen: list[tuple[Param, Value]]) -> str:
    joint = rng.choice((", ", " and ", ", ", "; "))
    mark = rng.choice((" ", " = ", ": ", " "))
    args = (
        joint.join(f"{p.name.replace('_', ' ')}{mark}{v.text}" for p, v in rng.shuffled(chosen))
        or "the usual settings"
    )
    v, n = _verb_noun(tool)
    return rng.say(
        _MADE_REQUEST, {"verb": v, "Verb": capital(v), "noun": n, "args": args, "Args": capital(args)}
    )


def _verb_noun(tool: Tool) -> tuple[str, str]:
    """The words of a made-up tool, out of its description (which always holds both)."""
    parts = tool.description.removeprefix("Use this to ").split()
    if len(parts) == 2:
        return parts[0][:-1].lower(), parts[1][:-1]
    return parts[0].lower(), parts[2]


def make_use(rng: Rng, tool: Tool) -> Use:
    """A request for a tool; optional parameters are sometimes stated."""
    chosen = [(p, p.sample(rng)) for p in tool.params if p.required or rng.chance(0.4)]
    if tool.answer:
        texts = {p.name: v.text for p, v in chosen}
        parts = [rng.say(tool.requests, texts)]
        parts += [rng.say(p.extras, texts) for p, _ in chosen if not p.required and p.extras is not None]
        request = " ".join([parts[0], *rng.shuffled(parts[1:])])
        chosen = [(p, v) for p, v in chosen if p.required or p.extras is not None]
    else:
        request = _made_up_request(rng, tool, chosen)
    values = {p.name: v.json for p, v in chosen}
    texts = {p.name: v.text for p, v in chosen}
    arguments = {p.name: values[p.name] for p in tool.params if p.name in values}
    return Use(
        tool,
        capital(request) if not any(request.startswith(v.text) for _, v in chosen) else request,
        arguments,
        texts,
    )


def tool_json(rng: Rng, tool: Tool, describe: bool) -> dict[str, Json]:
    properties: dict[str, Json] = {}
    for p in tool.params:
        node = p.schema()
        if describe:
            node["description"] = p.description
        properties[p.name] = node
    parameters: dict[str, Json] = {"type": "object", "properties": properties}
    required = [p.name for p in tool.params if p.required]
    if required:
        parameters["required"] = required
    if rng.chance(0.1):
        parameters["additionalProperties"] = False
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def tool_lines(rng: Rng, tools: list[Tool]) -> str:
    describe = rng.chance(0.6)
    return "\n".join(compact(tool_json(rng, tool, describe)) for tool in tools)


def tool_set(rng: Rng, count: int) -> list[Tool]:
    """Different tools: hand-written ones and made-up ones."""
    made = rng.choice((0.2, 0.5, 1.0, 0.0))
    tools: dict[str, Tool] = {}
    while len(tools) < count:
        tool = made_up_tool(rng) if rng.chance(made) else rng.choice(TOOLS)
        tools[tool.name] = tool
    return rng.shuffled(list(tools.values()))


def _count(rng: Rng) -> int:
    return rng.weighted(((2, 1), (3, 2), (3, 3), (3, 4), (2, 5), (1, 6), (1, 7), (1, 8)))


def call_text(use: Use) -> str:
    return f"{CALL}{compact(use.call)}{CALL_END}"


_SYSTEM = Phrases("""
    You are a helpful assistant[ with tools|].
    [Use|Call] the tools [when|if|where] [they help|needed|useful].
    Answer [with a tool call|by calling a tool] [when|if] one fits.
    You [can|may] call [functions|tools].
    Help the user[ with the tools below|].
    Be [brief|short|helpful].
    You are {name}, an assistant.
""")


def start(rng: Rng, kind: str, tools: list[Tool]) -> Chat:
    chat = Chat("tools", kind)
    if rng.chance(0.35):
        chat.system(rng.say(_SYSTEM, {"name": capital(invented(rng))}))
    return chat.tools(tool_lines(rng, tools))


def _dress(rng: Rng, request: str) -> str:
    """The request, sometimes with talk around it."""
    roll = rng.below(20)
    if roll < 2:
        return f"{sentence(rng)} {request}"
    if roll < 3:
        return f"{request} {sentence(rng)}"
    if roll < 5:
        return f"{rng.choice(('Hi!', 'Hello.', 'Please.', 'Hey,', 'Good morning.'))} {request}"
    if roll < 6:
        return f"{' '.join(sentence(rng) for _ in range(rng.int(2, 6)))} {request}"
    return request


def single(rng: Rng) -> Document:
    """Choose one tool and fill it; sometimes the result and the answer follow."""
    tools = tool_set(rng, _count(rng))
    use = make_use(rng, rng.choice(tools))
    return start(rng, "single", tools).user(_dress(rng, use.request)).assistant(call_text(use)).done()


def _result(rng: Rng, use: Use) -> tuple[Json, Value]:
    key, kind = use.tool.result
    value = sample_kind(rng, kind)
    node: dict[str, Json] = {key: value.json}
    roll = rng.below(10)
    if roll < 3:
        first = next(iter(use.arguments.items()), None)
        if first and first[0] != key:
            node = (
                {first[0]: first[1], key: value.json} if roll < 2 else {key: value.json, first[0]: first[1]}
            )
    elif roll < 5:
        node = {"status": "ok", **node} if key != "status" else node
    return node, value


def _shown(value: Json) -> str:
    return value if isinstance(value, str) else compact(value)


def final_answer(use: Use, value: Value) -> str:
    """How the assistant reports a result; the words of the request are repeated as they were said."""
    if use.tool.answer:
        slots = {**use.texts, "r": _shown(value.json)}
        text = use.tool.answer
        for key, said in slots.items():
            text = text.replace("{" + key + "}", said)
        return text if text.startswith(tuple(slots.values())) else capital(text)
    return f"The {use.tool.result[0].replace('_', ' ')} is {_shown(value.json)}."


def with_result(rng: Rng) -> Document:
    """Call, result, answer, and sometimes another round."""
    tools = tool_set(rng, rng.int(1, 5))
    chat = start(rng, "result", tools)
    for _ in range(rng.weighted(((5, 1), (3, 2), (1, 3)))):
        use = make_use(rng, rng.choice(tools))
        node, value = _result(rng, use)
        chat.user(_dress(rng, use.request)).assistant(call_text(use))
        chat.tool(
            compact(node) if rng.chance(0.75) else spaced(node) if rng.chance(0.6) else _shown(value.json)
        )
        chat.assistant(final_answer(use, value))
    return chat.done()


def follow_up(rng: Rng) -> Document:
    """A second call after the first is answered: the evaluation asks for the last call."""
    tools = tool_set(rng, rng.int(2, 5))
    chat = start(rng, "follow_up", tools)
    report: tuple[str, str] | None = None
    for _ in range(rng.int(2, 3)):
        if report is not None:
            chat.tool(report[0]).assistant(report[1])
        use = make_use(rng, rng.choice(tools))
        node, value = _result(rng, use)
        report = compact(node), final_answer(use, value)
        chat.user(use.request).assistant(call_text(use))
    return chat.done()


_AND = (" Also, ", " And ", " Then ", "\n", " Besides, ", " ")


def parallel(rng: Rng) -> Document:
    """Several calls in one turn, in the order of the wishes; the same tool for several things, or different tools."""
    tools = tool_set(rng, _count(rng))
    if rng.chance(0.5):
        return _same_tool(rng, tools)
    uses = [make_use(rng, tool) for tool in rng.sample(tools, rng.int(2, 3))]
    if len(uses) < 2:
        uses.append(make_use(rng, uses[0].tool))
    request = uses[0].request
    for use in uses[1:]:
        request += rng.choice(_AND) + use.request
    chat = (
        start(rng, "parallel", tools)
        .user(_dress(rng, request))
        .assistant("".join(call_text(u) for u in uses))
    )
    return _all_results(rng, chat, uses) if rng.chance(0.3) else chat.done()


def _all_results(rng: Rng, chat: Chat, uses: list[Use]) -> Document:
    answers = []
    for use in uses:
        node, value = _result(rng, use)
        chat.tool(compact(node))
        answers.append(final_answer(use, value))
    chat.kind = "result"
    return chat.assistant(" ".join(answers)).done()


_MANY = {
    "get_weather": ("city", "What is the weather in {list}?"), "get_population": ("city", "How many people live in {list}?"),
    "get_stock_price": ("company", "What are the stock prices of {list}?"), "get_time": ("city", "What time is it in {list}?"),
    "track_order": ("order_id", "Where are the orders {list}?"), "get_user": ("name", "Look up the users {list}."),
    "lookup": ("term", "Look up {list}."), "get_recipe": ("dish", "Find recipes for {list}."), "set_alarm": ("time", "Set alarms for {list}."),
    "read_file": ("path", "Read {list}."), "cancel_order": ("order_id", "Cancel the orders {list}."), "calculate": ("expression", "Calculate {list}."),
}  # fmt: skip


def _same_tool(rng: Rng, tools: list[Tool]) -> Document:
    by_name = {t.name: t for t in TOOLS}
    tool = by_name[rng.choice(list(_MANY))]
    key, template = _MANY[tool.name]
    kind = next(p.kind for p in tool.params if p.name == key)
    values = [sample_kind(rng, kind) for _ in range(rng.int(2, 4))]
    texts = [v.text for v in values]
    joint = rng.choice((" and ", " and in " if key == "city" else " and ", " and also "))
    request = template.replace("{list}", ", ".join(texts[:-1]) + joint + texts[-1])
    uses = [Use(tool, request, {key: v.json}, {key: v.text}) for v in values]
    tools = rng.shuffled([tool, *(t for t in tools if t.name != tool.name)])
    chat = (
        start(rng, "parallel", tools)
        .user(_dress(rng, request))
        .assistant("".join(call_text(u) for u in uses))
    )
    return _all_results(rng, chat, uses) if rng.chance(0.3) else chat.done()


NO_TOOL = "I have no tool for that."
_CHAT = (
    (
        ("Hello!", "Hi.", "Hi there!", "Good morning.", "Hey!", "Hello, how are you?"),
        "Hello! How can I help you?",
    ),
    (("Thank you!", "Thanks.", "Thanks a lot!", "Great, thank you.", "Perfect, thanks!"), "You are welcome."),
    (("Bye!", "Goodbye.", "See you later.", "That is all, bye."), "Goodbye!"),
    (
        ("What can you do?", "How can you help me?", "Who are you?", "What are you?"),
        "I am a small assistant. I can read texts and use tools.",
    ),
)


def no_tool(rng: Rng) -> Document:
    """A request that none of the tools serves, or plain talk."""
    tools = tool_set(rng, rng.int(1, 6))
    if rng.chance(0.35):
        asked, answer = rng.choice(_CHAT)
        return start(rng, "none", tools).user(rng.choice(asked)).assistant(answer).done()
    names = {t.name for t in tools}
    others = [t for t in TOOLS if t.name not in names and not _overlaps(t, tools)]
    use = make_use(rng, rng.choice(others) if others and rng.chance(0.75) else made_up_tool(rng))
    if use.tool.name in names:
        return single(rng)
    return start(rng, "none", tools).user(_dress(rng, use.request)).assistant(NO_TOOL).done()


_SIMILAR = ({"add", "multiply", "calculate"}, {"lookup", "get_user", "search_products"}, {"create_ticket", "create_event"},
            {"translate_text", "lookup"}, {"set_alarm", "start_timer"}, {"add_to_list", "search_products"}, {"invite", "send_email"},
            {"find_restaurant", "get_recipe", "book_table"})  # fmt: skip


def _overlaps(tool: Tool, tools: list[Tool]) -> bool:
    """Whether one of the tools might serve as well."""
    names = {t.name for t in tools}
    return any(tool.name in group and names & group for group in _SIMILAR)


_PLAIN = Phrases("""
    Answer with a JSON tool call: {shape}
    [Choose|Pick] [a|one] tool and [answer|reply] with {shape}[ only|].
    [Reply|Respond] with one JSON object: {shape}
    [Write|Give] the tool call as JSON: {shape}
""")


def plain_json(rng: Rng) -> Document:
    """Tools in the prompt's text; the call is the answer itself, as JSON without call tokens."""
    tools = tool_set(rng, _count(rng))
    use = make_use(rng, rng.choice(tools))
    rule = rng.say(_PLAIN, {"shape": '{"name":...,"arguments":{...}}'})
    lines = tool_lines(rng, tools)
    chat = Chat("tools", "plain")
    roll = rng.below(3)
    if roll == 0:
        chat.system(f"Tools:\n{lines}\n{rule}").user(use.request)
    elif roll == 1:
        chat.user(
            f"Tools:\n{lines}\n\n{rule}\n\n{rng.choice(('Request', 'User', 'Question'))}: {use.request}"
        )
    else:
        chat.system(rule).user(f"{lines}\n\n{use.request}")
    return chat.assistant(compact(use.call)).done()


def choose_name(rng: Rng) -> Document:
    """Only the name of the tool is asked for."""
    tools = tool_set(rng, rng.int(2, 6))
    use = make_use(rng, rng.choice(tools))
    menu = (
        "\n".join(f"{t.name}: {t.description}" for t in tools)
        if rng.chance(0.6)
        else ", ".join(t.name for t in tools)
    )
    ask = rng.choice(
        (
            "Which tool fits? Answer with its name.",
            "Name the right tool.",
            "Choose a tool. Answer with the name only.",
        )
    )
    return (
        Chat("tools", "name")
        .user(f"Tools:\n{menu}\n\n{ask}\n\nRequest: {use.request}")
        .assistant(use.tool.name)
        .done()
    )
