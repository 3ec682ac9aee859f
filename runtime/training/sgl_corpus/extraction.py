"""Category (a): records extracted as JSON (and as single values or key lines) from texts of many forms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import layout
from .core import ASSISTANT, BOS, END, USER, Chat, Document, Json, Phrases, Rng, ask, capital, compact, spaced
from .domains import DOMAINS, Domain, Fact, domain_fact, made_up_record, record_facts, unique_facts
from .lists import list_fact
from .prose import filler
from .schema import ABSENT, GROUPS, Prop, informal, json_schema, object_json, prop_of, record_title, restyle
from .values import Value, code, noun, person

_EXTRACT = Phrases("""
    [Extract|Pull out|Read out|Get] the [record|data|information|fields|details|facts] [as JSON|in JSON form|as a JSON object].
    [Please extract|Extract] the {noun} as JSON.
    [Fill|Complete] the schema [from|with data from|with the facts of] the text.
    [Read|Go through] the text and [return|give|answer with|write] [a JSON object|JSON|the JSON] that [fits|follows|matches] the schema.
    [Return|Answer with|Give me|Output] [only |]JSON [that matches|matching|following|for] the schema.
    You [extract|read] [data|records|facts] from [texts|documents|letters] and answer [in|with] JSON[ only|].
    [Turn|Convert|Parse] the [text|message|document|letter] [into|to] JSON.
    What does the text say? [Answer|Reply] as JSON [by|according to|in the form of] the schema.
    [Find|Collect] the values [in|of|from] the text and [answer as|put them into|write them as] JSON.
    JSON extraction.
    Your task: [structured data|a JSON record] from [plain|free] text.
""")
_KEYS = Phrases("""
    [Extract|Get|Find|Pull out|Give me] [these|the following] [fields|keys|values|facts] as JSON: {keys}.
    [Answer|Reply] with a JSON object with [the keys|the fields|these keys]: {keys}
    JSON keys: {keys}
    [Fields|Keys]: {keys}. [Answer as JSON.|Return JSON.|Output a JSON object.]
    [Return|Write|Give] JSON with {keys}.
    [Read|Use] the text [below |]and [give|return] [this|the following] as JSON: {keys}
    I need [this data|this] as JSON: {keys}
    Extract the {noun} as JSON with [keys|fields]: {keys}
""")
_SPACED = Phrases("""
    Write the JSON with a space after each colon and comma.
    Use spaced JSON.
    [Put|Leave] a space after [each|every] colon and comma.
    [Format the JSON|JSON] with spaces after colons and commas.
""", shared=True)  # fmt: skip
_COMPACT = Phrases("""
    Write compact JSON.
    Use compact JSON.
    No spaces in the JSON[, please|].
""", shared=True)  # fmt: skip
_NULL = Phrases("""
    Use null [for|where] [what is|values that are|facts that are] [not stated|missing|absent|not given].
    If [a value|something|a field] is [missing|not stated], [use|write|put] null.
    [Missing|Unknown|Absent] values are null.
""", shared=True)  # fmt: skip
_OMIT = Phrases("""
    Leave out what is not stated.
    [Leave out|Omit|Skip] [keys|fields] that are [missing|not stated|absent].
    If [a value|something|a field] is [missing|not stated], leave the key out.
""", shared=True)  # fmt: skip
_TEXT_MARK = (
    "Text:\n",
    "Text: ",
    "Text:\n",
    "Text:\n\n",
    "Document:\n",
    "Message:\n",
    "Input:\n",
    "",
    "---\n",
    "Letter:\n",
    "Text\n",
    '"""\n',
)


@dataclass(frozen=True, slots=True)
class Task:
    """A record to be read out of a text."""

    domain: Domain | None
    props: list[Prop]
    text: str

    @property
    def nouns(self) -> tuple[str, ...]:
        return self.domain.nouns if self.domain else ()


def _facts(rng: Rng, domain: Domain | None, count: int) -> list[Fact]:
    return made_up_record(rng, count) if domain is None else record_facts(rng, domain, count)


def _absent(rng: Rng, prop: Prop) -> Prop:
    """An asked field that the text does not state: nullable or optional."""
    return (
        replace(prop, value=ABSENT, nullable=True)
        if rng.chance(0.6)
        else replace(prop, value=ABSENT, required=False)
    )


def _vary(rng: Rng, prop: Prop) -> Prop:
    """Present fields may be declared nullable or optional as well."""
    if rng.chance(0.12):
        return replace(prop, nullable=True)
    return replace(prop, required=False) if rng.chance(0.1) else prop


def _group(rng: Rng, props: list[Prop]) -> list[Prop]:
    """Some neighbours of the record moved into a nested object."""
    if len(props) < 3 or not rng.chance(0.22):
        return props
    start = rng.below(len(props) - 1)
    end = min(len(props), start + rng.int(2, 3))
    taken = {p.key for p in props}
    key = rng.choice([g for g in (*GROUPS, noun(rng)) if g not in taken])
    return [*props[:start], Prop(key, {}, "", {}, inner=tuple(props[start:end])), *props[end:]]


def make_task(rng: Rng, long: bool = False) -> Task:
    """A text and the record asked of it."""
    domain = None if rng.chance(0.25) else rng.choice(DOMAINS)
    asked = rng.weighted(((1, 1), (2, 2), (4, 3), (4, 4), (3, 5), (2, 6), (1, 7), (0.7, rng.int(8, 10))))
    facts = _facts(rng, domain, asked + rng.weighted(((3, 0), (3, rng.int(1, 2)), (3, rng.int(3, 6)))))
    missing = rng.choice((0.0, 0.1, 0.1, 0.2, 0.45))
    stated: list[Fact] = []
    props: list[Prop] = []
    for i, fact in enumerate(facts):
        if i < asked and rng.chance(missing):
            props.append(_absent(rng, prop_of(fact)))
            continue
        stated.append(fact)
        if i < asked:
            props.append(_vary(rng, prop_of(fact)))
    text_facts = list(stated)
    props = rng.shuffled(props)
    lists = [list_fact(rng) for _ in range(rng.weighted(((7, 0), (3, 1), (0.5, 2))))]
    for item in lists:
        if item.prop.key not in {p.key for p in props}:
            at = rng.below(len(props) + 1)
            props.insert(at, item.prop)
            question = f"What are the {item.prop.key.replace('_', ' ')}?"
            text_facts.append(
                Fact(item.prop.key, {}, "", Value(item.sentence, item.sentence), item.sentence, (question,))
            )
    text = _compose(rng, domain, text_facts, bool(lists), long)
    return Task(domain, restyle(rng, _group(rng, props)), text)


def _compose(rng: Rng, domain: Domain | None, facts: list[Fact], has_lists: bool, long: bool) -> str:
    if not facts:
        return " ".join(filler(rng, 1, 5))
    if has_lists:
        text = layout.prose(rng, domain, facts, layout.noise_count(rng, long))
    else:
        text = layout.write(rng, domain, facts, long)
    return f"{layout.headers(rng)}\n\n{text}" if rng.chance(0.06) else text


def _rules(rng: Rng, props: list[Prop]) -> tuple[list[str], bool]:
    """Extra sentences of the instruction, and whether the answer is spaced."""
    flat = [q for p in props for q in (p, *(p.inner if not p.is_list else ()))]
    rules = []
    may_be_null, may_be_left_out = (
        any(p.nullable for p in flat),
        any(not p.required and not p.nullable for p in flat),
    )
    if may_be_null and not may_be_left_out and rng.chance(0.4):
        rules.append(rng.say(_NULL))
    elif may_be_left_out and not may_be_null and rng.chance(0.5):
        rules.append(rng.say(_OMIT))
    wide = rng.chance(0.15)
    if wide:
        rules.append(rng.say(_SPACED))
    elif rng.chance(0.08):
        rules.append(rng.say(_COMPACT))
    return rng.shuffled(rules), wide


def _values(rng: Rng, task: Task) -> dict[str, str]:
    return {"noun": rng.choice(task.nouns) if task.nouns else "record"}


def _text_block(rng: Rng, text: str) -> str:
    mark = rng.choice(_TEXT_MARK)
    return f'{mark}{text}\n"""' if mark.startswith('"') else f"{mark}{text}"


def with_schema(
    rng: Rng, category: str, task: Task, answer: Json, title: str, schema: str | None = None
) -> Document:
    """A chat that gives a JSON Schema (or a class) and a text."""
    rules, wide = _rules(rng, task.props)
    spelled = schema or json_schema(rng, title, task.props)
    instruction = " ".join([rng.say(_EXTRACT, _values(rng, task)), *rules])
    schema_line = f"{rng.choice(('Schema: ', 'Schema: ', 'JSON schema: ', 'Schema:' + chr(10), 'The schema is: ', 'JSON Schema:' + chr(10)))}{spelled}"
    block = _text_block(rng, task.text)
    chat = Chat(category, "schema")
    roll = rng.below(10)
    if roll < 2:
        chat.system(f"{instruction}\n{schema_line}").user(task.text)
    elif roll < 6:
        chat.system(instruction).user(f"{schema_line}\n\n{block}")
    elif roll < 8:
        chat.user(f"{instruction}\n\n{schema_line}\n\n{block}")
    elif roll < 9:
        chat.user(f"{block}\n\n{instruction}\n{schema_line}")
    else:
        chat.user(f"{schema_line}\n\n{block}\n\n{instruction}")
    return chat.assistant(spaced(answer) if wide else compact(answer)).done()


def with_keys(rng: Rng, category: str, task: Task, title: str) -> Document:
    """A chat that names the keys in a sentence."""
    rules, wide = _rules(rng, task.props)
    keys = informal(rng, title, task.props)
    instruction = " ".join([rng.say(_KEYS, {**_values(rng, task), "keys": keys}), *rules])
    answer = object_json(task.props)
    chat = ask(rng, Chat(category, "keys"), instruction, _text_block(rng, task.text))
    return chat.assistant(spaced(answer) if wide else compact(answer)).done()


def _fit_informal(task: Task) -> bool:
    """Key lists name nested optional keys without saying so: only sound when nothing inside is absent."""
    return all(not any(q.nullable or not q.required for q in p.inner) for p in task.props)


def extract(rng: Rng, long: bool = False) -> Document:
    task = make_task(rng, long)
    title = record_title(rng, task.nouns)
    if rng.chance(0.6) or not _fit_informal(task):
        return with_schema(rng, "extraction", task, object_json(task.props), title)
    return with_keys(rng, "extraction", task, title)


def extract_long(rng: Rng) -> Document:
    """A prompt of one to three thousand tokens."""
    return extract(rng, long=True)


def _records(rng: Rng, count: int) -> tuple[Domain, list[list[Fact]]]:
    """Several records with the same fields; the first field tells them apart."""
    domain = rng.choice(DOMAINS)
    specs = [s for s in domain.fields if s.kind != "bool"]
    head = next(
        (s for s in specs if s.kind in {"person", "code", "title", "dish", "product", "company"}), specs[0]
    )
    chosen = [head, *rng.sample([s for s in specs if s is not head], rng.int(2, 4))]
    keys = [rng.choice(s.keys) for s in chosen]
    records: list[list[Fact]] = []
    seen: set[str] = set()
    for _ in range(count):
        facts = [domain_fact(rng, spec, key) for spec, key in zip(chosen, keys, strict=True)]
        if facts[0].value.text not in seen:
            seen.add(facts[0].value.text)
            records.append(unique_facts(facts))
    return domain, records


def _record_block(rng: Rng, style: int, facts: list[Fact], shown: list[Fact]) -> str:
    if style == 0:
        return layout.form(rng, shown)
    if style == 1:
        return "; ".join(f"{f.label}: {f.value.text}" for f in shown)
    if style == 2:
        return " ".join([facts[0].sentence, *(f.sentence for f in shown if f is not facts[0])])
    return " | ".join(f.value.text for f in shown)


def _records_text(rng: Rng, records: list[list[Fact]], long: bool) -> str:
    style = rng.below(4)
    blocks = [_record_block(rng, style, facts, facts) for facts in records]
    if style == 3:
        blocks.insert(0, " | ".join(f.label for f in records[0]))
    if long:
        blocks = [b + "\n" + " ".join(filler(rng, 2, 9)) if style != 3 else b for b in blocks]
    gap = "\n" if style in (1, 3) else rng.choice(("\n\n", "\n---\n", "\n\n"))
    text = gap.join(blocks)
    if rng.chance(0.3):
        text = f"{' '.join(filler(rng, 1, 3))}\n\n{text}"
    return text


_ONE_OF = Phrases("""
    [Extract|Give me|Return] only the {noun} of {who}[ as JSON|].
    [Which|What] {noun} [belongs to|has to do with] {who}? [Answer as JSON|Return that record].
    Only the [record|entry] [of|for|with] {who}[, please|].
    [Ignore the others|We only need one]: {who}.
    Find {who} and [extract|return] [this|that] {noun}.
""")


def pick_record(rng: Rng, long: bool = False) -> Document:
    """One of several records is asked for by its name or number."""
    domain, records = _records(rng, rng.int(8, 22) if long else rng.int(2, 6))
    target = rng.choice(records)
    props = restyle(rng, rng.shuffled([prop_of(f) for f in target]))
    if rng.chance(0.4) and len(props) > 2:
        props = props[: rng.int(2, len(props))]
    who = target[0].value.text if rng.chance(0.6) else f"{target[0].label} {target[0].value.text}"
    hint = rng.say(_ONE_OF, {"noun": rng.choice(domain.nouns), "who": who})
    task = Task(domain, props, _records_text(rng, records, long))
    title = record_title(rng, domain.nouns)
    schema = (
        f"Schema: {json_schema(rng, title, props)}"
        if rng.chance(0.5)
        else f"Keys: {informal(rng, title, props)}"
    )
    lead = rng.say(_EXTRACT, _values(rng, task))
    chat = Chat("extraction", "pick")
    if rng.chance(0.5):
        chat.system(lead).user(f"{hint}\n{schema}\n\n{_text_block(rng, task.text)}")
    else:
        chat.user(f"{lead} {hint}\n\n{schema}\n\n{_text_block(rng, task.text)}")
    return chat.assistant(compact(object_json(props))).done()


def pick_long(rng: Rng) -> Document:
    return pick_record(rng, long=True)


_ALL = Phrases("""
    [Extract|Give me|Return|List] [every|each] {noun} as [a JSON list|a JSON array|JSON].
    [Extract|Return] all [records|entries] as a JSON [list|array].
    A JSON [list|array] with one object [per|for each] {noun}[, please|].
""")


def all_records(rng: Rng) -> Document:
    """All records of a text, as a JSON list or as an object with one list."""
    domain, records = _records(rng, rng.int(1, 5))
    order = rng.shuffled(range(len(records[0])))
    rows = [object_json([prop_of(facts[i]) for i in order]) for facts in records]
    inner = tuple(prop_of(records[0][i]) for i in order)
    lead = rng.say(_ALL, {"noun": rng.choice(domain.nouns)})
    text = _text_block(rng, _records_text(rng, records, False))
    key = rng.choice(("records", "items", "entries", "results", "list"))
    title = record_title(rng, domain.nouns)
    if rng.chance(0.5):
        keys = f"Keys: {informal(rng, title, list(inner))}"
        return ask(rng, Chat("extraction", "all"), f"{lead} {keys}", text).assistant(compact(rows)).done()
    prop = Prop(key, {}, "", rows, inner=inner, is_list=True)
    schema = f"Schema: {json_schema(rng, title, [prop])}"
    return (
        ask(rng, Chat("extraction", "all"), f"{lead}\n{schema}", text).assistant(compact({key: rows})).done()
    )


_ONE_VALUE = Phrases("""
    {q} [Answer with the value only.|Give only the value.|Value only.]
    What is the {label}? [Answer with the value only.|Only the value.|Value only.]
    [Find|Give me|Return] the value of {label}.
    [Extract|Read out] only the {label}.
""")


def plain_text(value: Json) -> str:
    """A value as a bare answer: strings as they are, numbers and dates as in JSON, booleans as yes/no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else compact(value)


def single_value(rng: Rng) -> Document:
    """One field as a bare value; often several turns about the same text."""
    domain = None if rng.chance(0.25) else rng.choice(DOMAINS)
    facts = _facts(rng, domain, rng.int(2, 9))
    text = _text_block(rng, layout.write(rng, domain, facts))
    chat = Chat("extraction", "value")
    asked = rng.sample([f for f in facts if not f.flag] or facts, rng.int(1, 3))
    for i, fact in enumerate(asked):
        q = rng.choice(fact.questions)
        line = rng.say(_ONE_VALUE, {"q": q, "label": fact.label, "Label": capital(fact.label)})
        chat = ask(rng, chat, line, text) if i == 0 else chat.user(line)
        chat.assistant(plain_text(fact.value.json))
    return chat.done()


_FORM = Phrases("""
    Fill in the form[ from the text|].
    [Complete|Fill in] [these|the] lines[ with the facts of the text|].
    [Write|Give] the [facts|values] as key lines.
    [Answer|Reply] [in this form|with these lines]:
""")


def key_lines(rng: Rng) -> Document:
    """`Key: value` lines, in a chat or as a raw continuation."""
    domain = None if rng.chance(0.3) else rng.choice(DOMAINS)
    facts = _facts(rng, domain, rng.int(2, 8))
    asked = rng.sample(facts, rng.int(1, min(5, len(facts))))
    labels = [capital(f.label) for f in asked]
    text = layout.write(rng, domain, facts)
    lines = [f"{label}: {plain_text(f.value.json)}" for label, f in zip(labels, asked, strict=True)]
    if rng.chance(0.25):
        segments: list[tuple[str, bool]] = [(BOS if rng.chance(0.7) else "", False), (f"{text}\n\n", False)]
        for label, fact in zip(labels, asked, strict=True):
            segments += [(f"{label}: ", False), (plain_text(fact.value.json) + "\n", True)]
        return Document("extraction", "lines_raw", tuple(s for s in segments if s[0]))
    form = "\n".join(f"{label}:" for label in labels)
    body = f"{rng.say(_FORM)}\n{form}"
    chat = ask(rng, Chat("extraction", "lines"), body, _text_block(rng, text))
    return chat.assistant("\n".join(lines)).done()


def raw_records(rng: Rng) -> Document:
    """Few-shot without roles: `Text: ... JSON: {...}` again and again."""
    domain = rng.choice(DOMAINS)
    specs = rng.sample(domain.fields, rng.int(2, 4))
    keys = [rng.choice(s.keys) for s in specs]
    head, tail = rng.choice(
        (("Text: ", "JSON: "), ("Input: ", "Output: "), ("Text:\n", "JSON:\n"), ("Message: ", "Record: "))
    )
    segments: list[tuple[str, bool]] = [(BOS, False)] if rng.chance(0.7) else []
    for i in range(rng.int(2, 4)):
        facts = unique_facts([domain_fact(rng, s, k) for s, k in zip(specs, keys, strict=True)])
        text = " ".join(layout.prose(rng, None, facts, rng.int(0, 2)).split())
        answer = compact(object_json([prop_of(f) for f in facts]))
        segments += [(f"{'' if i == 0 else chr(10)}{head}{text}\n{tail}", False), (answer + "\n", True)]
    return Document("extraction", "raw", tuple(segments))


def program_fields(rng: Rng) -> Document:
    """The JSON is written by a program around the values: only the values are learned."""
    task = make_task(rng)
    flat = [p for p in task.props if not p.inner and not p.is_list and p.value is not ABSENT]
    if not flat:
        return extract(rng)
    lead = rng.say(_KEYS, {"noun": "record", "keys": ", ".join(p.key for p in flat)})
    segments: list[tuple[str, bool]] = [(f"{BOS}{USER}{lead}\n\n{task.text}{END}{ASSISTANT}", False)]
    glue = "{"
    for p in flat:
        segments += [(f'{glue}"{p.key}":', False), (compact(p.value), True)]
        glue = ","
    return Document("extraction", "program", (*segments, ("}" + END, False)))


def two_records(rng: Rng) -> Document:
    """Two texts in one conversation, the same schema."""
    first = extract(rng)
    task = make_task(rng)
    hint = (
        f"Now with these keys: {', '.join(p.key for p in task.props)}"
        if all(not p.inner and p.required for p in task.props)
        else None
    )
    if hint is None or any(p.value is ABSENT for p in task.props):
        return first
    who = person(rng) if rng.chance(0.2) else code(rng)
    lead = rng.choice((hint, f"{hint}.", f"Next ({who}). {hint}"))
    chat = Chat("extraction", "second", list(first.segments))
    return (
        chat.user(f"{lead}\n\n{_text_block(rng, task.text)}")
        .assistant(compact(object_json(task.props)))
        .done()
    )
