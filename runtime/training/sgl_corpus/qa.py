"""Category (d): questions on passages answered by a span; unanswerable ones; several turns; many people at once."""

from __future__ import annotations

from . import layout
from .core import BOS, Chat, Document, Phrases, Rng, ask, capital
from .domains import DOMAINS, Fact, domain_fact, made_up_fact, made_up_record, record_facts
from .prose import filler, paragraphs
from .values import KINDS, Kind, noun

NOT_STATED = "not stated"

_LEAD = Phrases("""
    Answer the question [from|with] the [text|passage].
    [Read|Use] the [text|passage] and answer[ the question|].
    [Answer|Reply] with [a span|words] [of|from] the text[ only|].
    [Give|Find] a short answer[ in the passage|].
    [Short answers|Brief answers][ only|, please].
    Answer [shortly|briefly][ from the text|].
""")
_MARKS = ("Passage: {t}\n\nQuestion: {q}", "Text: {t}\n\nQuestion: {q}", "{t}\n\n{q}", "Passage:\n{t}\n\nQuestion: {q}", "Context: {t}\nQuestion: {q}",
          "Question: {q}\n\nText: {t}", "{q}\n\n{t}", "Text:\n{t}\n\n{q}", "Read this:\n{t}\n\nQ: {q}")  # fmt: skip


def _pose(rng: Rng, text: str, question: str) -> str:
    return rng.choice(_MARKS).replace("{q}", question).replace("{t}", text)


def _answer(fact: Fact) -> str:
    """The span: enums and flags by their label, everything else as written."""
    if fact.flag:
        return "yes" if fact.value.json else "no"
    return str(fact.value.json) if fact.options else fact.value.text


def _askable(facts: list[Fact]) -> list[Fact]:
    """Facts whose answer is a span of the text."""
    return [f for f in facts if not f.flag and not f.options] or facts


def _passage(rng: Rng, long: bool) -> tuple[str, list[Fact], list[Fact]]:
    """A text, the facts in it, and facts of the same domain that are not in it."""
    if rng.chance(0.3):
        facts = made_up_record(rng, rng.int(3, 9))
        keys = {f.key for f in facts}
        missing = [f for f in (made_up_fact(rng) for _ in range(3)) if f.key not in keys]
        return layout.write(rng, None, facts, long), facts, missing
    domain = rng.choice(DOMAINS)
    specs = rng.sample(domain.fields, min(len(domain.fields), rng.int(3, 9)))
    facts = [domain_fact(rng, s, rng.choice(s.keys)) for s in specs]
    missing = [domain_fact(rng, s, rng.choice(s.keys)) for s in domain.fields if s not in specs]
    return layout.write(rng, domain, facts, long), facts, missing


def _ask_turns(
    rng: Rng, kind: str, text: str, facts: list[Fact], missing: list[Fact], turns: int
) -> Document:
    chat = Chat("qa", kind)
    if rng.chance(0.5):
        chat.system(rng.say(_LEAD))
    for i, fact in enumerate(rng.sample(_askable(facts), turns)):
        question, answer = rng.choice(fact.questions), _answer(fact)
        gone = _askable(missing) if missing else []
        if gone and rng.chance(0.14):
            question, answer = rng.choice(rng.choice(gone).questions), NOT_STATED
        chat.user(
            _pose(rng, text, question) if i == 0 else question if rng.chance(0.8) else f"Question: {question}"
        ).assistant(answer)
    return chat.done()


def passage(rng: Rng) -> Document:
    """One question on a text."""
    text, facts, missing = _passage(rng, False)
    return _ask_turns(rng, "passage", text, facts, missing, 1)


def turns(rng: Rng) -> Document:
    """Several questions on a text, one after the other."""
    text, facts, missing = _passage(rng, False)
    return _ask_turns(rng, "turns", text, facts, missing, rng.int(2, 4))


def long_passage(rng: Rng) -> Document:
    text, facts, missing = _passage(rng, True)
    return _ask_turns(rng, "long", text, facts, missing, rng.int(1, 3))


_RELATIONS: tuple[tuple[str, Phrases, str, str], ...] = (
    ("city", Phrases("{who} lives in {v}.\n{who} has [a house|a flat] in {v}.\n{v} is where {who} lives.\nThe home of {who} is {v}."), "Where does {who} live?", "Who lives in {v}?"),
    ("job", Phrases("{who} works as {v}.\n{who} is employed as {v}.\nThe job of {who} is {v}.\n{who} earns money as {v}."), "What is the job of {who}?", "Who works as {v}?"),
    ("age", Phrases("{who} is {v} years old.\n{who} turned {v} [in May|last week|recently].\nThe age of {who} is {v}."), "How old is {who}?", "Who is {v} years old?"),
    ("hobby", Phrases("{who} [loves|likes|enjoys] {v}.\nThe hobby of {who} is {v}.\nOn Sundays, {who} does {v}."), "What does {who} like?", "Who likes {v}?"),
    ("company", Phrases("{who} works for {v}.\n{who} joined {v}[ last year|].\n{v} employs {who}."), "Which company does {who} work for?", "Who works for {v}?"),
    ("animal", Phrases("{who} has a {v}.\nThe pet of {who} is a {v}.\n{who} owns a {v}."), "Which pet does {who} have?", "Who has a {v}?"),
    ("color", Phrases("{who} wears {v}.\nThe favorite color of {who} is {v}.\n{who} painted the door {v}."), "Which color does {who} wear or like?", "Who has to do with {v}?"),
    ("product", Phrases("{who} bought [a |]{v}.\n{who} got [a |]{v} as a present.\nThe {v} belongs to {who}."), "What did {who} get?", "Who has the {v}?"),
    ("date", Phrases("{who} was born on {v}.\nThe birthday of {who} is {v}.\n{who} came into the world on {v}."), "When was {who} born?", "Who was born on {v}?"),
    ("phone", Phrases("The number of {who} is {v}.\n{who} can be called at {v}."), "What is the number of {who}?", "Who has the number {v}?"),
    ("title", Phrases("{who} wrote {v}.\n{v} is a book by {who}.\n{who} is the author of {v}."), "What did {who} write?", "Who wrote {v}?"),
    ("money", Phrases("{who} earns {v}.\n{who} gets {v} a month.\nThe pay of {who} is {v}."), "How much does {who} earn?", "Who earns {v}?"),
)  # fmt: skip


def _sayings(rng: Rng, who: str, relation: tuple[str, Phrases, str, str]) -> tuple[str, str, str, str]:
    """A sentence and `(question, answer)` both ways round: sentence, value, forward question, backward question."""
    kind: Kind = KINDS[relation[0]]
    value = kind.sample(rng).text
    said = rng.say(relation[1], {"who": who, "v": value})
    return said, value, relation[2].replace("{who}", who), relation[3].replace("{v}", value)


def many_people(rng: Rng, long: bool = False) -> Document:
    """Facts about several people; questions from person to fact and back."""
    count = rng.int(6, 14) if long else rng.int(2, 6)
    sampler = KINDS["first" if rng.chance(0.5) else "person"]
    people = list({sampler.sample(rng).text for _ in range(count)})
    people.sort()
    people = rng.shuffled(people)
    relations = rng.sample(_RELATIONS, rng.int(1, 4))
    told: list[tuple[str, str, str, str, str]] = []
    used: set[str] = set()
    for who in people:
        for relation in relations:
            said, value, forward, backward = _sayings(rng, who, relation)
            if value in used:
                continue
            used.add(value)
            told.append((said, who, value, forward, backward))
    if not told:
        return passage(rng)
    body = [t[0] for t in told]
    body = rng.shuffled(
        body + filler(rng, 20, 60) if long else body + (filler(rng, 0, 4) if rng.chance(0.5) else [])
    )
    text = paragraphs(rng, body)
    chat = Chat("qa", "people_long" if long else "people")
    if rng.chance(0.4):
        chat.system(rng.say(_LEAD))
    for i, (_, who, value, forward, backward) in enumerate(rng.sample(told, rng.int(1, 3))):
        question, answer = (forward, value) if rng.chance(0.6) else (backward, who)
        chat.user(_pose(rng, text, question) if i == 0 else question).assistant(answer)
    return chat.done()


def many_people_long(rng: Rng) -> Document:
    return many_people(rng, long=True)


def raw_qa(rng: Rng) -> Document:
    """A passage and `Q:`/`A:` lines without roles."""
    text, facts, _ = _passage(rng, False)
    head, tail = rng.choice((("Q: ", "A: "), ("Question: ", "Answer: "), ("Q: ", "A: ")))
    segments: list[tuple[str, bool]] = [(BOS if rng.chance(0.7) else "", False), (f"{text}\n\n", False)]
    for fact in rng.sample(_askable(facts), rng.int(1, 4)):
        segments += [(f"{head}{rng.choice(fact.questions)}\n{tail}", False), (_answer(fact) + "\n", True)]
    return Document("qa", "raw", tuple(s for s in segments if s[0]))


def counting(rng: Rng) -> Document:
    """How many of something a text lists."""
    items = [noun(rng) for _ in range(rng.int(2, 8))]
    label = rng.choice(("items", "words", "things", "entries"))
    body = rng.choice(
        (
            ", ".join(items),
            "\n".join(f"- {i}" for i in items),
            "\n".join(f"{n}. {i}" for n, i in enumerate(items, 1)),
        )
    )
    if rng.chance(0.5):
        return (
            ask(
                rng,
                Chat("qa", "count"),
                f"How many {label} are in the list? Answer with the number only.",
                body,
            )
            .assistant(str(len(items)))
            .done()
        )
    place = rng.below(len(items))
    name = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[place]
    if place == len(items) - 1 and rng.chance(0.5):
        name = "last"
    return (
        ask(
            rng,
            Chat("qa", "position"),
            f"What is the {name} {label[:-1] if label != 'entries' else 'entry'}?",
            body,
        )
        .assistant(items[place])
        .done()
    )


def yes_span(rng: Rng) -> Document:
    """A passage with flags, asked as open questions."""
    domain = rng.choice(DOMAINS)
    facts = record_facts(rng, domain, rng.int(3, 7))
    text = layout.write(rng, domain, facts)
    fact = rng.choice(facts)
    question = rng.choice(fact.questions)
    return Chat("qa", "mixed").user(_pose(rng, text, question)).assistant(_answer(fact)).done()


def named(rng: Rng) -> Document:
    """`Name one {label}`: the label in the question is spelled as the key of a form."""
    facts = made_up_record(rng, rng.int(3, 10))
    text = layout.form(rng, rng.shuffled(facts))
    fact = rng.choice(_askable(facts))
    question = rng.choice(
        (f"{capital(fact.label)}?", f"Which value has {fact.label}?", f"What stands at {fact.label}?")
    )
    answer = _answer(fact)
    if fact.flag:
        return passage(rng)
    return Chat("qa", "form").user(_pose(rng, text, question)).assistant(answer).done()
