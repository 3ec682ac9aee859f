"""Fields and domains: what a record holds, and how each of its facts is said in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from . import words
from .core import Json, Phrases, Rng, capital, stable_hash
from .domain_text import DOMAIN_TEXT, ENUM_TEXT
from .values import KINDS, Enum, Kind, Value, adjective, any_kind, invented, literal_enum, noun


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """A field of a domain as written in `domain_text`."""

    keys: tuple[str, ...]
    kind: str
    questions: tuple[str, ...]
    sentences: Phrases | None
    true: Phrases | None
    false: Phrases | None


@dataclass(frozen=True, slots=True)
class Domain:
    name: str
    nouns: tuple[str, ...]
    openings: Phrases
    closings: Phrases
    fields: tuple[FieldSpec, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One field of one record: its key, schema and value, and a sentence that states it.

    `options` is set for enums. `flag` marks booleans, whose text is a whole sentence.
    """

    key: str
    schema: Mapping[str, Json]
    hint: str
    value: Value
    sentence: str
    questions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    flag: bool = False

    @property
    def label(self) -> str:
        return self.key.replace("_", " ")


def _load_enums() -> dict[str, Enum]:
    enums = {}
    for line in ENUM_TEXT.strip().splitlines():
        name, _, rest = line.partition(":")
        wordings = {}
        for option in rest.split("|"):
            label, _, says = option.partition("=")
            wordings[label.strip()] = Phrases("\n".join(says.split(";")), shared=True)
        enums[name.strip()] = Enum(tuple(wordings), wordings)
    return enums


ENUMS = _load_enums()


def _phrases(lines: list[str]) -> Phrases | None:
    return Phrases("\n".join(lines)) if lines else None


def _load_field(lines: list[str]) -> FieldSpec:
    keys, kind, questions = (part.strip() for part in lines[0][1:].split("|"))
    body = lines[1:]
    return FieldSpec(
        tuple(key.strip() for key in keys.split(",")),
        kind,
        tuple(q.strip() for q in questions.split(";")),
        _phrases([line for line in body if line[0] not in "+-"]),
        _phrases([line[1:].strip() for line in body if line[0] == "+"]),
        _phrases([line[1:].strip() for line in body if line[0] == "-"]),
    )


def _load_domain(block: str) -> Domain:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    name, nouns = (part.strip() for part in lines[0].split("|"))
    starts = [i for i, line in enumerate(lines) if line[0] == "@"] + [len(lines)]
    fields = tuple(_load_field(lines[a:b]) for a, b in pairwise(starts))
    openings = [line[1:].strip() for line in lines if line[0] == ">"]
    closings = [line[1:].strip() for line in lines if line[0] == "<"]
    return Domain(
        name,
        tuple(n.strip() for n in nouns.split(",")),
        Phrases("\n".join(openings)),
        Phrases("\n".join(closings)),
        fields,
    )


DOMAINS = tuple(_load_domain(block) for block in ("\n" + DOMAIN_TEXT).split("\n# ")[1:])

_GENERIC = Phrases("""
    The {label} is {v}.
    The {label} [was|has been] set to {v}.
    [As for|Regarding|Concerning] the {label}, it is {v}.
    {v} is the {label}.
    [Our|My|Its|Their] {label} is {v}.
    [Please|Kindly] [note|use|write down] the {label}: {v}.
    {Label}: {v}.
    For the {label} [we|they|I] chose {v}.
    [Someone|He|She] [wrote|said|told us] that the {label} is {v}.
    [We have|There is|I see] {v} as the {label}.
    The {label} [shows|reads|says|remains] {v}.
    With {v} as [the |its |]{label}, [all is set|we can go on|it works].
    [Under|Next to|In the box for] {label} it says {v}.
    You [asked|wanted to know] about the {label}: [it is |that is |]{v}.
    {label} = {v}
    The {label} [changed|went] [some time ago|last week|recently] to {v}.
    I [think|believe|know] the {label} [is|must be] {v}.
""")
_GENERIC_TRUE = Phrases("""
    The {label} is [on|active|wanted|needed|included|given|there].
    [We|They] [want|need|have] the {label}.
    {Label}: yes.
    [With|Including] {label}.
    There is a {label}.
    [Yes|Sure], the {label} [applies|is fine].
""")
_GENERIC_FALSE = Phrases("""
    The {label} is [off|not active|not wanted|not needed|not included|missing].
    [We|They] do not [want|need|have] the {label}.
    {Label}: no.
    [Without|No] {label}.
    There is no {label}.
    [No|Sorry], the {label} does not apply.
""")
_QUESTIONS = ("What is the {label}?", "Which {label} is given?", "What does the text say about the {label}?")


def _generic_sentence(rng: Rng, label: str, value: Value) -> str:
    pool = _GENERIC
    if isinstance(value.json, bool):
        pool = _GENERIC_TRUE if value.json else _GENERIC_FALSE
    return rng.say(pool, {"label": label, "Label": capital(label), "v": value.text})


def _started(sentence: str, value: Value) -> str:
    """A capital at the start of the sentence, unless that would change the value itself."""
    return sentence if sentence.startswith(value.text) else capital(sentence)


def _enum_schema(enum: Enum) -> dict[str, Json]:
    return {"enum": list(enum.options), "type": "string"}


def domain_fact(rng: Rng, spec: FieldSpec, key: str) -> Fact:
    """A fact of a domain field, said in the domain's words or in general ones."""
    if spec.kind == "bool":
        yes = rng.chance(0.5)
        pool = spec.true if yes else spec.false
        assert pool is not None
        return Fact(
            key,
            {"type": "boolean"},
            "boolean",
            Value(yes, "yes" if yes else "no"),
            rng.say(pool),
            spec.questions,
            (),
            True,
        )
    if spec.kind.startswith("enum:"):
        enum = ENUMS[spec.kind[5:]]
        value = enum.sample(rng)
        schema, hint, options = _enum_schema(enum), " | ".join(enum.options), enum.options
    else:
        kind = KINDS[spec.kind]
        value = kind.sample(rng)
        schema, hint, options = dict(kind.schema), kind.hint, ()
    assert spec.sentences is not None
    generic = rng.chance(0.15)
    sentence = (
        _generic_sentence(rng, key.replace("_", " "), value)
        if generic
        else rng.say(spec.sentences, {"v": value.text})
    )
    return Fact(key, schema, hint, value, _started(sentence, value), spec.questions, options)


def made_up_label(rng: Rng) -> str:
    """A field name composed of ordinary or invented words; the compounds of the evaluation are never trained."""
    while True:
        roll = rng.below(10)
        if roll < 4:
            label = f"{rng.choice(words.LABEL_MODIFIERS)}_{rng.choice(words.LABEL_HEADS)}"
        elif roll < 6:
            label = f"{adjective(rng)}_{noun(rng)}"
        elif roll < 7:
            label = f"{noun(rng)}_{rng.choice(words.LABEL_HEADS)}"
        elif roll < 8:
            label = f"{invented(rng, 1, 2)}_{rng.choice(words.LABEL_HEADS)}"
        elif roll < 9:
            label = noun(rng)
        else:
            label = f"{rng.choice(words.LABEL_MODIFIERS)}_{noun(rng)}_{rng.choice(words.LABEL_HEADS)}"
        if "_" not in label or (stable_hash(label) % 8 == 0) == rng.held_out:
            return label


def made_up_fact(rng: Rng, kind: Kind | None = None, label: str | None = None) -> Fact:
    """A fact of a field that no domain knows: the key's own words lead to it."""
    key = label or made_up_label(rng)
    text = key.replace("_", " ")
    questions = tuple(q.replace("{label}", text) for q in _QUESTIONS)
    roll = rng.below(16) if kind is None else 99
    if roll == 0:
        yes = rng.chance(0.5)
        value = Value(yes, "yes" if yes else "no")
        return Fact(
            key,
            {"type": "boolean"},
            "boolean",
            value,
            _started(_generic_sentence(rng, text, value), value),
            (f"Is there a {text}?",),
            (),
            True,
        )
    if roll <= 2:
        enum = literal_enum(rng)
        value = enum.sample(rng)
        return Fact(
            key,
            _enum_schema(enum),
            " | ".join(enum.options),
            value,
            _started(_generic_sentence(rng, text, value), value),
            questions,
            enum.options,
        )
    chosen = kind or any_kind(rng)
    value = chosen.sample(rng)
    return Fact(
        key,
        dict(chosen.schema),
        chosen.hint,
        value,
        _started(_generic_sentence(rng, text, value), value),
        questions,
    )


def unique_facts(facts: list[Fact]) -> list[Fact]:
    """Facts without a second one of the same key."""
    return list({fact.key: fact for fact in facts}.values())


def record_facts(rng: Rng, domain: Domain, count: int) -> list[Fact]:
    """`count` different fields of a domain with values (some of them made-up fields, now and then)."""
    specs = rng.sample(domain.fields, min(count, len(domain.fields)))
    facts = [domain_fact(rng, spec, rng.choice(spec.keys)) for spec in specs]
    if rng.chance(0.3):
        extra = rng.int(1, 3)
        facts = facts[: max(1, len(facts) - extra)] + [made_up_fact(rng) for _ in range(extra)]
    return unique_facts(facts)


def made_up_record(rng: Rng, count: int) -> list[Fact]:
    return unique_facts([made_up_fact(rng) for _ in range(count)])
