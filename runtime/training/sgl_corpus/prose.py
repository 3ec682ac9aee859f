"""Ordinary sentences: filler and distractors around the facts of a text."""

from __future__ import annotations

from . import words
from .core import Phrases, Rng, capital
from .values import KINDS, adjective, invented, noun, phrase, verb

_SMALL_TALK = Phrases("""
    I hope [this message|this letter|this note|this] finds you well.
    Thank you [very much |so much |]for your [patience|help|time|quick reply|kind words|interest].
    It was [nice|great|good|a pleasure] to [meet|see|talk to] you [last week|the other day|on {weekday}|yesterday].
    The weather has been [{adj}|terrible|lovely|rather wet|unusually warm] [lately|this week|all month].
    We [are|were] [all |]very [happy|pleased|excited|grateful] about [that|it|the news|how it went].
    Please [let me know|tell me|write back] if [you have any questions|anything is unclear|something is missing|this works for you].
    I am [looking forward to|waiting for] [your reply|hearing from you|your answer|our next meeting].
    Sorry for the [late|slow|short] [reply|answer|notice].
    [As you know|As mentioned before|As I said on the phone], [things|plans|prices|rules] [have changed|are changing|may change] [a bit|a little|again].
    [My|Our] {noun} [is|was] [a little|quite|rather|very] {adj} [this year|these days|at the moment|again].
    I [talked to|spoke with|heard from|wrote to] {person} about [the|this|that] {noun}, and [she|he] [agreed|was not sure|laughed|said yes].
    [Nobody|No one] [seemed|seems] to [mind|care|notice|know why].
    There [is|was] [not much|nothing|little] else to [report|say|add] [for now|today|at this point].
    [By the way|Oh, and], the {noun} [you {past}|we {past}] [is|was] [really |quite |]{adj}.
    We [tried|planned|wanted|decided] to {verb} the {noun}, but [it did not work|there was no time|that had to wait|we changed our minds].
    [Please|Kindly] [note|keep in mind|remember] that the {noun} [must|should|cannot|may] be {adj}.
    I [have|had] [never|always|often|rarely] {past} such a {adj} {noun}.
    [Could|Can|Would] you [please |]{verb} the {noun} [before {weekday}|for me|when you have time|again]?
    [Anyway|Well|So], that is [all|it|everything] [for now|for today|from me].
    [Everything|The rest] [went|was|is] [fine|well|as planned|as expected].
    The {noun} {past} [before|after|while] the {noun2} {past2}.
    It [is|was] [hard|easy|fun|good|strange] to {verb} [a|the] {adj} {noun} [{prep} the {noun2}|in {city}|these days].
    {person} [says|said|thinks|thought] [that |]the {noun} [is|was] [too |very |]{adj}.
    [A|The|Every|Some] {adj} {noun} {prep} the {noun2} [{adv} |]{past} [a|the|our] {noun3}.
    [If|When] you {verb} the {noun}, [do not|never|always|please] {verb2} the {noun2}.
    [Some people|Many customers|Most visitors|A few members] {verb} the {noun} [{adv}|every week|in the {noun2}|without a {noun2}].
    [She|He|They|We] {past} [a|the|{poss}] {noun} and [{adv} |]{past2} the {noun2}.
    There [is|was] a {adj} {noun} {prep} the {noun2}.
    [Is|Was] the {noun} {adj} [enough|or {adj2}|today]?
    What [do|did] you think [of|about] the {adj} {noun}?
    [In|Near|Outside] {city}, the {noun} [is|was] {adj} [and|but|yet] {adj2}.
    The {noun} of the {noun2} [{adv} |]{past} {prep} {city}.
    {Gerund} the {noun} [takes|took] [some time|longer than expected|a whole day|patience].
    My [sister|brother|mother|father|uncle|aunt|cousin|neighbor|colleague] {past} the {noun} [{adv}|last {weekday}|again].
    Yesterday [I|we|they] {past} {prep} the {adj} {noun}.
    [Luckily|Sadly|Surprisingly|In the end], [nobody|someone|the {noun}] {past} the {noun2}.
    {Noun}, {noun2} and {noun3} [are|were] [not |]{adj}.
    [According to|For] {person}, {city} [has|had] the most {adj} {noun}.
    The {inv} [was|is] {prep} the {noun}, [not|and] the {inv2}.
    They call [it|this] a "{inv} {noun}".
    [Two|Three|Several|A few|Many] {nouns} [were|are] {adj}, the [rest|others] {adj2}.
    [This|That|The] {noun} [belongs to|came from|was made by] {company}.
""")

_POSSESSIVE = ("my", "our", "their", "her", "his", "your")


def sentence(rng: Rng) -> str:
    """One sentence with no fact that a question could be about."""
    if rng.chance(0.12):
        return loose(rng)
    values = _Lazy(rng)
    return capital(rng.say(_SMALL_TALK, values))


class _Lazy(dict[str, str]):
    """Slot values made when a template asks for them (each mention is a new draw)."""

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, key: str) -> str:
        rng, base = self._rng, key.rstrip("23")
        if base in KINDS:
            return KINDS[base].sample(rng).text
        return _SLOTS[base](rng)


_SLOTS = {
    "noun": noun,
    "Noun": lambda r: capital(noun(r)),
    "nouns": lambda r: words.plural(noun(r)),
    "adj": adjective,
    "verb": verb,
    "past": lambda r: words.past(verb(r)),
    "Gerund": lambda r: capital(words.gerund(verb(r))),
    "adv": lambda r: r.choice(words.ADVERBS),
    "prep": lambda r: r.choice(words.PREPOSITIONS),
    "poss": lambda r: r.choice(_POSSESSIVE),
    "inv": lambda r: invented(r, 1, 3),
    "phrase": phrase,
}


def lazy(rng: Rng) -> dict[str, str]:
    """Template values by the name of a kind or of a part of speech, drawn when used."""
    return _Lazy(rng)


def filler(rng: Rng, low: int, high: int) -> list[str]:
    return [sentence(rng) for _ in range(rng.int(low, high))]


def babble(rng: Rng, count: int) -> str:
    """Words in no order: practice in copying anything."""
    makers = (
        noun,
        lambda r: r.choice(words.EXTRA),
        adjective,
        verb,
        lambda r: r.choice(words.EXTRA),
        lambda r: invented(r, 1, 4),
        lambda r: r.choice(words.PREPOSITIONS),
    )
    return " ".join(rng.choice(makers)(rng) for _ in range(count))


def loose(rng: Rng) -> str:
    """A sentence of ordinary words with little grammar: any word may stand in a text."""
    count = rng.int(4, 14)
    parts = [rng.choice(words.EXTRA) if rng.chance(0.5) else rng.choice(_LOOSE)(rng) for _ in range(count)]
    if rng.chance(0.3):
        parts[rng.below(count)] += ","
    return capital(" ".join(parts)) + rng.choice((".", ".", ".", "!", "?"))


_NAMES = tuple(
    word
    for block in (
        words.FIRST_NAMES,
        words.LAST_NAMES,
        words.CITIES,
        words.COUNTRIES,
        words.PRODUCTS,
        words.FOODS,
        words.DISHES,
        words.JOBS,
        words.HOBBIES,
    )
    for word in block
)
"""Listed names of both sides. As loose words they only make every word of the lists readable; as values they are split."""
_LOOSE = (
    lambda r: r.choice(_NAMES),
    lambda r: r.choice(_NAMES),
    noun, adjective, verb, lambda r: r.choice(("the", "a", "of", "to", "and", "in", "is", "that", "it", "was", "for", "on", "we", "I", "you", "with")),
          lambda r: r.choice(words.ADVERBS), lambda r: r.choice(words.PREPOSITIONS), lambda r: words.past(verb(r)), lambda r: words.plural(noun(r)))  # fmt: skip


def paragraphs(rng: Rng, sentences: list[str]) -> str:
    """Sentences joined by spaces, with a paragraph break now and then."""
    if rng.chance(0.1):
        return "\n".join(sentences)
    breaks = rng.choice((0.0, 0.0, 0.1, 0.25))
    out: list[str] = []
    for i, text in enumerate(sentences):
        if i:
            out.append("\n\n" if rng.chance(breaks) else " ")
        out.append(text)
    return "".join(out)
