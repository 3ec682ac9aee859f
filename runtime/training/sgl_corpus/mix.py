"""The mixture: which generator makes the next document. `document(seed)` is a pure function of the seed and the side."""

from __future__ import annotations

from collections.abc import Iterator

from . import classify, extraction, misc, qa, react, tools
from .core import Document, Maker, Rng

MIXTURE: tuple[tuple[float, Maker], ...] = (
    (18, extraction.extract), (3.0, extraction.extract_long), (3.5, extraction.pick_record), (0.6, extraction.pick_long), (2.0, extraction.all_records),
    (2.0, extraction.single_value), (2.0, extraction.key_lines), (1.2, extraction.raw_records), (1.2, extraction.program_fields), (0.8, extraction.two_records),
    (6, tools.single), (4, tools.parallel), (3, tools.with_result), (1.5, tools.follow_up), (1.6, tools.no_tool), (2, tools.plain_json), (0.8, tools.choose_name),
    (3, classify.topic), (2, classify.sentiment), (1.2, classify.enum_label), (6, classify.yes_no), (1, classify.taught_labels), (1, classify.raw_sentiment),
    (3, classify.judge), (1, classify.judge_many), (1.5, classify.compare), (0.6, classify.several_turns), (0.3, classify.long_topic),
    (5, qa.passage), (4, qa.turns), (0.8, qa.long_passage), (5, qa.many_people), (1.0, qa.many_people_long), (1.5, qa.raw_qa), (1, qa.counting), (1, qa.yes_span), (1.2, qa.named),
    (3, react.react), (1.5, react.with_examples), (0.5, react.long_react), (1.5, react.raw_react), (1.5, react.by_turns),
    (1.5, misc.plan), (0.7, misc.expand), (2, misc.sums), (0.7, misc.raw_sums), (2, misc.word_problem), (1.2, misc.proposals), (1, misc.best_option), (5, misc.rewrite),
    (1.2, misc.summary), (0.7, misc.subject), (0.6, misc.reply), (4, misc.few_shot), (0.8, misc.facts_few_shot), (0.4, misc.talk), (0.6, misc.remembered), (1.2, misc.plain_text),
    (0.4, misc.write_letter), (1.0, misc.translate_json),
)  # fmt: skip

EVALUATION: dict[str, tuple[tuple[float, Maker], ...]] = {
    "extraction": ((6, extraction.extract), (2, extraction.extract_long), (1.5, extraction.pick_record), (0.5, extraction.pick_long), (1, extraction.all_records), (1, extraction.single_value)),
    "tools": ((5, tools.single), (3, tools.parallel), (1.5, tools.follow_up), (1, tools.no_tool), (1, tools.plain_json)),
    "classification": ((4, classify.topic), (3, classify.sentiment), (1, classify.enum_label), (5, classify.yes_no), (1, classify.taught_labels), (1, classify.long_topic)),
    "qa": ((4, qa.passage), (3, qa.turns), (1.5, qa.long_passage), (3, qa.many_people), (0.7, qa.many_people_long), (1, qa.named)),
    "react": ((5, react.react), (3, react.with_examples), (1.5, react.long_react), (1.5, react.by_turns)),
}  # fmt: skip
"""What the evaluation draws from (held-out side), by category."""


def _loosen(rng: Rng, document: Document) -> Document:
    """In half of the cases where a prompt ends with `: `, the space belongs to the answer instead."""
    out: list[tuple[str, bool]] = []
    for text, learn in document.segments:
        if (
            learn
            and out
            and not out[-1][1]
            and out[-1][0].endswith((": ", "-> ", "=> ", "= "))
            and rng.chance(0.5)
        ):
            out[-1] = (out[-1][0][:-1], False)
            text = " " + text
        out.append((text, learn))
    return Document(document.category, document.kind, tuple(out))


def document(seed: int) -> Document:
    """The training document of a seed."""
    rng = Rng(seed)
    return _loosen(rng, rng.weighted(MIXTURE)(rng))


def held_out(category: str, seed: int) -> Document:
    """An evaluation document: names, values, compounds and wordings come from the held-out side."""
    rng = Rng(seed, held_out=True)
    return rng.weighted(EVALUATION[category])(rng)


def documents(first: int, count: int) -> Iterator[Document]:
    return (document(seed) for seed in range(first, first + count))
