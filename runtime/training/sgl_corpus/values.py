"""Values of many kinds, each as the JSON it must become and the way it is written in a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import words
from .core import Json, Phrases, Pool, Rng, capital, stable_hash

ONSETS = ("b br c ch cl d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr v w y z zh vr "
          "ts").split()  # fmt: skip
VOWELS = "a e i o u ai ea ee ia io oa ou y ae ui".split()
CODAS = ["", "", "", "", *"n r l s t m k x th nd rt ck sh ng st ld v p d b g lm rn".split()]
ACCENTED = "é ü ö ä ø å ñ ç è í ó ú ß ł ş č ž ã ê".split()
RARE_WORDS = Pool("東京 日本語 你好 北京市 안녕 서울 Привет Москва Ελλάδα שלום مرحبا ไทย 🙂 🎉 🚀 ✅ 👍 ☕ → • ™ ½ Δ µ ∞ ¿ « » … – — ″ ° № ♥ 🐟 "
                  "नमस्ते Санкт 東 山 水 火 木 金 土 한국 ありがとう".split())  # fmt: skip
NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
                "seventeen eighteen nineteen").split()  # fmt: skip
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclass(frozen=True, slots=True)
class Value:
    """`json` is what an answer must hold; `text` is how the value appears in a passage."""

    json: Json
    text: str


def _is_held(word: str) -> bool:
    return stable_hash(word) % 8 == 0


def _syllables(rng: Rng, count: int) -> str:
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count))


_REAL = tuple(
    word.lower()
    for block in (
        words.NOUNS,
        words.EXTRA,
        words.VERBS,
        words.ADJECTIVES,
        words.FIRST_NAMES,
        words.LAST_NAMES,
        words.CITIES,
        words.COUNTRIES,
    )
    for word in block
    if word.isalpha() and len(word) > 3
)


def _spliced(rng: Rng) -> str:
    """The head of one real word and the tail of another: names as they are in real letters (`Ellison`, `Sheffield`)."""
    head, tail = rng.choice(_REAL), rng.choice(_REAL)
    return head[: rng.int(2, min(6, len(head)))] + tail[-rng.int(2, min(6, len(tail))) :]


def invented(rng: Rng, low: int = 1, high: int = 3) -> str:
    """A made-up word of `low` to `high` syllables, on the generator's side of the split."""
    while True:
        word = _spliced(rng) if high > 1 and rng.chance(0.4) else _syllables(rng, rng.int(low, high))
        if _is_held(word) == rng.held_out:
            break
    if rng.chance(0.03):
        at = rng.below(len(word))
        word = word[:at] + rng.choice(ACCENTED) + word[at + 1 :]
    return word


_FIRST, _LAST = Pool(words.FIRST_NAMES), Pool(words.LAST_NAMES)
_CITIES, _COUNTRIES = Pool(words.CITIES), Pool(words.COUNTRIES)
_PRODUCTS, _FOODS, _DISHES = Pool(words.PRODUCTS), Pool(words.FOODS), Pool(words.DISHES)
_JOBS, _HOBBIES = Pool(words.JOBS), Pool(words.HOBBIES)


def noun(rng: Rng) -> str:
    """An ordinary noun. Single words belong to both sides (they are the language); compounds of them are split."""
    return rng.choice(words.NOUNS)


def adjective(rng: Rng) -> str:
    return rng.choice(words.ADJECTIVES)


def verb(rng: Rng) -> str:
    return rng.choice(words.VERBS)


def first_name(rng: Rng) -> str:
    return rng.pick(_FIRST) if rng.chance(0.5) else capital(invented(rng))


def last_name(rng: Rng) -> str:
    if rng.chance(0.45):
        return rng.pick(_LAST)
    name = capital(invented(rng))
    roll = rng.below(24)
    if roll == 0:
        return f"{name}-{capital(invented(rng, 1, 2))}"
    return {1: "van " + name, 2: "O'" + name, 3: "Mc" + name, 4: "de " + name}.get(roll, name)


def person(rng: Rng) -> str:
    roll = rng.below(20)
    middle = (
        f" {rng.choice('ABCDEFGHJKLMNPRSTW')}." if roll == 0 else f" {first_name(rng)}" if roll == 1 else ""
    )
    return f"{first_name(rng)}{middle} {last_name(rng)}"


def city(rng: Rng) -> str:
    if rng.chance(0.45):
        return rng.pick(_CITIES)
    tail = rng.choice(
        ("", "", "", "ville", "burg", "ton", " Bay", " Falls", "stad", "ford", "field", "mouth")
    )
    head = rng.choice(("", "", "", "", "", "New ", "San ", "Port ", "Saint ", "Upper ", "North "))
    return head + capital(invented(rng, 1, 2)) + tail


def country(rng: Rng) -> str:
    return (
        rng.pick(_COUNTRIES)
        if rng.chance(0.7)
        else capital(invented(rng, 2, 2)) + rng.choice(("ia", "land", "stan", "a"))
    )


def company(rng: Rng) -> str:
    roll = rng.below(6)
    head = last_name(rng) if roll < 2 else capital(invented(rng))
    if roll == 5:
        head = f"{capital(adjective(rng))} {capital(noun(rng))}"
    if roll == 4:
        return f"{head} & {last_name(rng)}"
    return f"{head} {rng.choice(words.COMPANY_TAILS)}" if rng.chance(0.75) else head


def street(rng: Rng) -> str:
    name = capital(invented(rng)) if rng.chance(0.6) else capital(noun(rng))
    if rng.chance(0.15):
        return f"{name}{rng.choice(('straße', 'gata', 'weg', 'laan', 'gade'))} {rng.int(1, 240)}"
    return f"{rng.int(1, 999)} {name} {rng.choice(words.STREET_TAILS)}"


def _ascii(text: str) -> str:
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())


def email(rng: Rng) -> str:
    first, last = _ascii(first_name(rng)) or "info", _ascii(last_name(rng)) or "desk"
    user = rng.choice(
        (
            f"{first}.{last}",
            f"{first}_{last}",
            first,
            f"{first[0]}{last}",
            f"{last}{rng.int(1, 99)}",
            f"{first}-{last}",
        )
    )
    host = rng.choice(
        (
            "mail",
            "post",
            "example",
            _ascii(invented(rng)),
            _ascii(invented(rng)),
            f"{_ascii(invented(rng))}-{noun(rng)}",
        )
    )
    return f"{user}@{host}.{rng.choice(('com', 'org', 'net', 'io', 'co.uk', 'de', 'no', 'eu'))}"


def digits(rng: Rng, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def phone(rng: Rng) -> str:
    roll = rng.below(5)
    if roll == 0:
        return f"+{rng.int(1, 99)} {digits(rng, 3)} {digits(rng, 3)} {digits(rng, 3)}"
    if roll == 1:
        return f"({digits(rng, 3)}) {digits(rng, 3)}-{digits(rng, 4)}"
    if roll == 2:
        return f"{digits(rng, 3)}-{digits(rng, 4)}"
    if roll == 3:
        return f"0{digits(rng, 3)} {digits(rng, 6)}"
    return f"{digits(rng, 3)}-{digits(rng, 3)}-{digits(rng, 4)}"


def code(rng: Rng) -> str:
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.int(1, 3)))
    return rng.choice((
        f"{letters}-{digits(rng, rng.int(2, 5))}", f"{letters}{digits(rng, rng.int(3, 6))}", f"#{digits(rng, rng.int(3, 6))}",
        f"{letters}-{rng.int(2018, 2031)}-{digits(rng, 3)}", digits(rng, rng.int(4, 8)), f"{letters}/{digits(rng, 2)}-{digits(rng, 3)}",
        f"{rng.choice(('INV', 'ORD', 'REF', 'TCK', 'PO', 'ID', 'CASE', 'BK'))}-{digits(rng, rng.int(3, 6))}",
    ))  # fmt: skip


def url(rng: Rng) -> str:
    host = f"{rng.choice(('www.', '', 'shop.'))}{_ascii(invented(rng)) or 'site'}.{rng.choice(('com', 'org', 'io', 'net'))}"
    tail = rng.choice(("", f"/{noun(rng)}", f"/{noun(rng)}/{rng.int(1, 999)}", f"/{noun(rng)}-{noun(rng)}"))
    return f"{rng.choice(('https://', 'http://'))}{host}{tail}"


def spell(number: int) -> str:
    """The English words of 0..9999."""
    if number < 20:
        return NUMBER_WORDS[number]
    if number < 100:
        tail = f"-{NUMBER_WORDS[number % 10]}" if number % 10 else ""
        return TENS[number // 10] + tail
    if number < 1000:
        rest = f" and {spell(number % 100)}" if number % 100 else ""
        return f"{NUMBER_WORDS[number // 100]} hundred{rest}"
    rest = f" {spell(number % 1000)}" if number % 1000 else ""
    return f"{spell(number // 1000)} thousand{rest}"


def grouped(number: float, decimals: int = 0) -> str:
    return f"{number:,.{decimals}f}"


def _count(rng: Rng) -> Value:
    roll = rng.below(10)
    if roll < 4:
        n = rng.int(1, 12)
    elif roll < 7:
        n = rng.int(1, 99)
    elif roll < 9:
        n = rng.int(100, 9999)
    else:
        n = rng.int(10_000, 2_000_000)
    if n <= 100 and rng.chance(0.35):
        return Value(n, spell(n))
    if n < 1000 and rng.chance(0.04):
        return Value(n, spell(n))
    if n >= 1000 and rng.chance(0.6):
        return Value(n, grouped(n))
    return Value(n, str(n))


def small_count(rng: Rng) -> Value:
    n = rng.int(1, 12) if rng.chance(0.8) else rng.int(1, 60)
    return Value(n, spell(n) if rng.chance(0.45) else str(n))


def amount(rng: Rng) -> float:
    roll = rng.below(10)
    if roll < 4:
        return round(rng.int(1, 99) + rng.int(0, 99) / 100, 2)
    if roll < 7:
        return float(rng.int(1, 999))
    if roll < 9:
        return round(rng.int(100, 9999) + rng.choice((0.5, 0.99, 0.25, 0.0, 0.75, 0.95)), 2)
    return float(rng.int(1000, 250_000))


def number_json(value: float) -> Json:
    """A number as it is written in answers: whole numbers without a fraction."""
    return int(value) if value == int(value) else value


def money_text(rng: Rng, value: float, currency: tuple[str, str, str]) -> str:
    whole = value == int(value)
    plain = str(int(value)) if whole and rng.chance(0.7) else f"{value:.2f}"
    if value >= 1000 and rng.chance(0.6):
        plain = grouped(value, 0 if "." not in plain else 2)
    sign, iso, name = currency
    return rng.choice(
        (f"{sign}{plain}", f"{plain} {iso}", f"{plain} {name}", f"{iso} {plain}", f"{sign}{plain}")
    )


def _money(rng: Rng) -> Value:
    value = amount(rng)
    if value == int(value) and value <= 100 and rng.chance(0.2):
        return Value(int(value), f"{spell(int(value))} {rng.choice(words.CURRENCIES)[2]}")
    return Value(number_json(value), money_text(rng, value, rng.choice(words.CURRENCIES)))


def _percent(rng: Rng) -> Value:
    value = rng.int(1, 100) if rng.chance(0.7) else round(rng.int(1, 99) + rng.int(1, 9) / 10, 1)
    return Value(value, rng.choice((f"{value}%", f"{value} percent", f"{value} %")))


def _weight(rng: Rng) -> Value:
    value = rng.int(1, 99) if rng.chance(0.5) else round(rng.int(0, 99) + rng.int(1, 9) / 10, 1)
    return Value(value, f"{value}{rng.choice((' kg', ' kg', 'kg', ' kilograms', ' kilos'))}")


def _length(rng: Rng) -> Value:
    value = rng.int(1, 300) if rng.chance(0.6) else round(rng.int(0, 99) + rng.int(1, 9) / 10, 1)
    return Value(value, f"{value} {rng.choice(('cm', 'centimeters', 'm', 'meters', 'km', 'mm'))}")


def _minutes(rng: Rng) -> Value:
    value = rng.choice((5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 75, 90, 100, 120, rng.int(1, 180)))
    if value == 60 and rng.chance(0.5):
        return Value(60, "one hour")
    if value == 90 and rng.chance(0.4):
        return Value(90, "an hour and a half")
    if value == 120 and rng.chance(0.5):
        return Value(120, "two hours")
    text = spell(value) if rng.chance(0.2) else str(value)
    return Value(value, f"{text} {rng.choice(('minutes', 'min', 'minutes'))}")


def _year(rng: Rng) -> Value:
    value = rng.int(1920, 2035)
    return Value(value, str(value))


def _age(rng: Rng) -> Value:
    value = rng.int(18, 90)
    return Value(value, spell(value) if rng.chance(0.25) else str(value))


def _decimal(rng: Rng) -> Value:
    value = round(rng.int(0, 99) + rng.int(1, 99) / 100, rng.int(1, 2))
    return Value(number_json(value), str(number_json(value)))


def _rating(rng: Rng) -> Value:
    value = rng.int(1, 5)
    return Value(
        value,
        rng.choice((f"{value}", f"{spell(value)}", f"{value} out of 5", f"{value}/5", f"{value} stars")),
    )


def ordinal(day: int) -> str:
    tail = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{tail}"


def date_text(rng: Rng, year: int, month: int, day: int) -> str:
    """One of the ways to write a date (all with their year)."""
    name = words.MONTHS[month - 1]
    forms = (
        f"{day} {name} {year}", f"{name} {day}, {year}", f"{year}-{month:02d}-{day:02d}", f"{ordinal(day)} {name} {year}",
        f"{name} {ordinal(day)}, {year}", f"{day:02d}.{month:02d}.{year}", f"{name[:3]} {day}, {year}", f"{day} {name[:3]} {year}",
        f"the {ordinal(day)} of {name} {year}", f"{rng.choice(words.WEEKDAYS)}, {name} {day}, {year}",
        f"{year}/{month:02d}/{day:02d}", f"{day}.{month}.{year}",
    )  # fmt: skip
    return rng.choice(forms)


def _date(rng: Rng) -> Value:
    year, month, day = (
        rng.int(1950, 2035) if rng.chance(0.2) else rng.int(2018, 2031),
        rng.int(1, 12),
        rng.int(1, 28),
    )
    return Value(f"{year}-{month:02d}-{day:02d}", date_text(rng, year, month, day))


def _time(rng: Rng) -> Value:
    hour, minute = rng.int(0, 23), rng.choice((0, 0, 5, 10, 15, 20, 30, 30, 40, 45, 50, rng.int(0, 59)))
    iso = f"{hour:02d}:{minute:02d}"
    if rng.chance(0.5):
        return Value(iso, iso if hour > 9 or rng.chance(0.5) else f"{hour}:{minute:02d}")
    half, twelve = ("am" if hour < 12 else "pm"), hour % 12 or 12
    if minute == 0 and rng.chance(0.7):
        if hour == 12 and rng.chance(0.5):
            return Value(iso, "noon")
        return Value(
            iso,
            rng.choice(
                (
                    f"{twelve} {half}",
                    f"{twelve}{half}",
                    f"{twelve} o'clock {'in the morning' if hour < 12 else 'in the evening'}",
                )
            ),
        )
    return Value(
        iso,
        rng.choice(
            (f"{twelve}:{minute:02d} {half}", f"{twelve}:{minute:02d}{half}", f"{twelve}.{minute:02d} {half}")
        ),
    )


def phrase(rng: Rng) -> str:
    """A short noun phrase of ordinary or made-up words; one in eight is held out."""
    while True:
        text = _any_phrase(rng)
        if _is_held(text) == rng.held_out:
            return text


def _any_phrase(rng: Rng) -> str:
    roll = rng.below(8)
    if roll < 3:
        return f"{adjective(rng)} {noun(rng)}"
    if roll < 5:
        return f"{noun(rng)} {noun(rng)}"
    if roll == 5:
        return f"{adjective(rng)} {noun(rng)} {rng.choice(('for', 'with', 'of', 'from', 'near'))} {noun(rng)}"
    if roll == 6:
        return f"{invented(rng)} {noun(rng)}" if rng.chance(0.5) else f"{rng.choice(words.EXTRA)} {noun(rng)}"
    return f"{rng.choice(words.COLORS)} {noun(rng)}"


def title(rng: Rng) -> str:
    parts = [capital(p) for p in phrase(rng).split()]
    head = rng.choice(("", "", "", "The ", "A "))
    return head + " ".join(parts)


def text_value(rng: Rng) -> str:
    """Any short string: phrases, titles, rare characters, quotes, backslashes."""
    roll = rng.below(24)
    if roll < 9:
        return phrase(rng)
    if roll < 14:
        return title(rng)
    if roll < 18:
        return capital(invented(rng, 1, 4))
    if roll < 20:
        return f"{verb(rng)} the {noun(rng)}"
    if roll == 20:
        return f"{capital(invented(rng))} {rng.pick(RARE_WORDS)}"
    if roll == 21:
        return f'"{phrase(rng)}"' if rng.chance(0.5) else f"{invented(rng)}\\{noun(rng)}"
    if roll == 22:
        return " ".join(rng.pick(RARE_WORDS) for _ in range(rng.int(1, 3)))
    return f"{invented(rng)} {invented(rng)} {invented(rng)}"


def _plain(sample: Callable[[Rng], str]) -> Callable[[Rng], Value]:
    def make(rng: Rng) -> Value:
        text = sample(rng)
        return Value(text, text)

    return make


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how to sample it, its JSON Schema and its short hint in informal key lists."""

    name: str
    sample: Callable[[Rng], Value]
    schema: Mapping[str, Json]
    hint: str


def _string(name: str, sample: Callable[[Rng], str], hint: str = "string", **extra: Json) -> Kind:
    return Kind(name, _plain(sample), {"type": "string", **extra}, hint)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _string("person", person), _string("first", first_name), _string("last", last_name), _string("city", city),
        _string("country", country), _string("company", company), _string("street", street), _string("email", email),
        _string("phone", phone), _string("url", url), _string("code", code), _string("phrase", phrase),
        _string("title", title), _string("text", text_value), _string("product", lambda r: r.pick(_PRODUCTS) if r.chance(0.7) else phrase(r)),
        _string("food", lambda r: r.pick(_FOODS)), _string("dish", lambda r: r.pick(_DISHES)), _string("job", lambda r: r.pick(_JOBS)),
        _string("department", lambda r: r.choice(words.DEPARTMENTS)), _string("hobby", lambda r: r.pick(_HOBBIES)),
        _string("color", lambda r: r.choice(words.COLORS)), _string("material", lambda r: r.choice(words.MATERIALS)),
        _string("animal", lambda r: r.choice(words.ANIMALS)), _string("invented", lambda r: invented(r, 1, 4)),
        _string("venue", lambda r: f"{capital(invented(r))} {r.choice(words.VENUES)}" if r.chance(0.7) else f"{capital(noun(r))} {r.choice(words.VENUES)}"),
        _string("weekday", lambda r: r.choice(words.WEEKDAYS)),
        Kind("count", _count, {"type": "integer"}, "integer"), Kind("small", small_count, {"type": "integer"}, "integer"),
        Kind("money", _money, {"type": "number"}, "number"), Kind("percent", _percent, {"type": "number"}, "number"),
        Kind("kg", _weight, {"type": "number"}, "number"), Kind("measure", _length, {"type": "number"}, "number"),
        Kind("minutes", _minutes, {"type": "integer"}, "integer, minutes"), Kind("year", _year, {"type": "integer"}, "integer"),
        Kind("age", _age, {"type": "integer"}, "integer"), Kind("decimal", _decimal, {"type": "number"}, "number"),
        Kind("rating", _rating, {"type": "integer"}, "integer"),
        Kind("date", _date, {"type": "string", "format": "date"}, "YYYY-MM-DD"), Kind("time", _time, {"type": "string"}, "HH:MM"),
    )
}  # fmt: skip

TEXT_KINDS = (
    "text",
    "text",
    "phrase",
    "title",
    "person",
    "city",
    "company",
    "code",
    "product",
    "invented",
    "job",
    "venue",
    "color",
)
NUMBER_KINDS = ("count", "small", "money", "percent", "kg", "decimal", "year", "measure")
OTHER_KINDS = ("date", "time", "email", "phone", "url", "minutes")


def any_kind(rng: Rng) -> Kind:
    group = rng.weighted(((6, TEXT_KINDS), (4, NUMBER_KINDS), (3, OTHER_KINDS)))
    return KINDS[rng.choice(group)]


@dataclass(frozen=True, slots=True)
class Enum:
    """A closed set of labels, each with ways to say it; `options` keeps the order of the schema."""

    options: tuple[str, ...]
    wordings: Mapping[str, Phrases] = field(default_factory=dict)

    def sample(self, rng: Rng) -> Value:
        option = rng.choice(self.options)
        if option in self.wordings and rng.chance(0.7):
            return Value(option, rng.say(self.wordings[option]))
        return Value(option, option.replace("_", " "))


def literal_enum(rng: Rng) -> Enum:
    """An enum whose options are written in the text as they are (or without their underscores)."""
    roll = rng.below(4)
    count = rng.int(2, 6)
    if roll == 0:
        options = [invented(rng, 1, 3) for _ in range(count)]
    elif roll == 1:
        options = rng.sample(words.COLORS, count)
    elif roll == 2:
        options = [f"{adjective(rng)}_{noun(rng)}" for _ in range(count)]
    else:
        options = [noun(rng) for _ in range(count)]
    return Enum(tuple(dict.fromkeys(options)))
