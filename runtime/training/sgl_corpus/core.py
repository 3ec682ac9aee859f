"""The generator's frame: seeded randomness with a held-out side, templates, and documents.

Everything random goes through `Rng`, so one seed gives one corpus. `Rng.held_out` says which side of every `Pool` is
seen: training draws from the larger part, the evaluation only from the part that training never sees.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")
Json = Any
"""A JSON value (str, int, float, bool, None, list, dict)."""

BOS, EOS, PAD, END = "<|bos|>", "<|eos|>", "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT, TOOL, TOOLS = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>"
CALL, CALL_END, THINK, THINK_END = "<|call|>", "<|/call|>", "<|think|>", "<|/think|>"


def stable_hash(text: str) -> int:
    """A hash that is the same in every process (unlike `hash`)."""
    return zlib.crc32(text.encode())


class Pool:
    """Alternatives split once into a training part and a held-out part, by the hash of each item.

    `share` of the items (at least one) are held out; pools of fewer than `least` items are shared by both sides.
    """

    __slots__ = ("all", "held", "train")

    def __init__(self, items: Sequence[str], share: float = 0.12, least: int = 6) -> None:
        unique = list(dict.fromkeys(items))
        if not unique:
            raise ValueError("a pool needs at least one item")
        self.all: tuple[str, ...] = tuple(unique)
        if len(unique) < least:
            self.train = self.held = self.all
            return
        ranked = sorted(unique, key=stable_hash)
        cut = max(1, round(len(unique) * share))
        held = set(ranked[:cut])
        self.held: tuple[str, ...] = tuple(item for item in unique if item in held)
        self.train: tuple[str, ...] = tuple(item for item in unique if item not in held)


class Phrases:
    """Templates, one a line. A wording is what is left of a template once its alternatives are chosen.

    One wording in eight is held out, by its hash, among those that choose at least twice: so the evaluation sees
    combinations that training never saw, but no single word that training never saw (a model that knows no text but
    this corpus could not read it). `shared` switches that off.
    """

    __slots__ = ("shared", "templates")

    def __init__(self, block: str, shared: bool = False) -> None:
        self.templates = tuple(line.strip() for line in block.strip().splitlines() if line.strip())
        self.shared = shared
        if not self.templates:
            raise ValueError("no template given")


class Rng:
    """A seeded source of choices; `held_out` selects the side of every pool."""

    __slots__ = ("_random", "held_out", "random")

    def __init__(self, seed: int, held_out: bool = False) -> None:
        self._random = random.Random(seed)
        self.random = self._random.random
        self.held_out = held_out

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def below(self, limit: int) -> int:
        return int(self.random() * limit)

    def int(self, low: int, high: int) -> int:
        """A whole number of [low, high]."""
        return low + int(self.random() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def pick(self, pool: Pool) -> str:
        """An item of this side of the pool."""
        return self.choice(pool.held if self.held_out else pool.train)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        copy = list(items)
        for i in range(len(copy) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            copy[i], copy[j] = copy[j], copy[i]
        return copy

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different positions of `items`, in random order."""
        return self.shuffled(items)[:count]

    def weighted(self, items: Sequence[tuple[float, T]]) -> T:
        point = self.random() * sum(weight for weight, _ in items)
        for weight, item in items:
            point -= weight
            if point < 0:
                return item
        return items[-1][1]

    def say(self, phrases: Phrases, values: Mapping[str, str] | None = None) -> str:
        """Pick a wording of this side and fill it."""
        for _ in range(64):  # a small set may have no wording on this side: then any will do
            template = _parse(self.choice(phrases.templates))
            parts = _expand(self, template, [])
            if phrases.shared or self._allows(template, parts):
                break
        return "".join(
            part if isinstance(part, str) else ({} if values is None else values)[part[1]] for part in parts
        )

    def _allows(self, template: tuple[Part, ...], parts: list[Part]) -> bool:
        """Whether a wording belongs to this side. Wordings of both sides come up as often as the others here."""
        if sum(part[0] == "alt" for part in template if not isinstance(part, str)) < 2:
            return not self.held_out or self.chance(0.125)
        key = "".join(part if isinstance(part, str) else "{" + part[1] for part in parts)
        return (stable_hash(key) % 8 == 0) == self.held_out


Part = Any
"""A piece of a template: constant text, `("slot", name)` or `("alt", options)`."""
_TOKEN = re.compile(r"\{([a-z_A-Z0-9]+)\}|([\[\]|])")


@lru_cache(maxsize=100_000)
def _parse(template: str) -> tuple[Part, ...]:
    """A template as a tuple of str (constant), ('slot', name) and ('alt', (parts, parts, ...))."""
    stack: list[list[list[Part]]] = [[[]]]
    at = 0
    for match in _TOKEN.finditer(template):
        if match.start() > at:
            stack[-1][-1].append(template[at : match.start()])
        at = match.end()
        mark = match.group(2)
        if mark is None:
            stack[-1][-1].append(("slot", match.group(1)))
        elif mark == "[":
            stack.append([[]])
        elif mark == "|" and len(stack) > 1:
            stack[-1].append([])
        elif mark == "]" and len(stack) > 1:
            options = tuple(tuple(option) for option in stack.pop())
            stack[-1][-1].append(("alt", options))
        else:
            stack[-1][-1].append(mark)
    stack[-1][-1].append(template[at:])
    if len(stack) != 1:
        raise ValueError(f"unbalanced brackets in template {template!r}")
    return tuple(part for part in stack[0][0] if part != "")


def _expand(rng: Rng, parts: tuple[Part, ...], out: list[Part]) -> list[Part]:
    """Choose one of each alternative; what is left are constants and slots."""
    for part in parts:
        if isinstance(part, str) or part[0] == "slot":
            out.append(part)
        else:
            _expand(rng, rng.choice(part[1]), out)
    return out


def fill(rng: Rng, template: str, values: Mapping[str, str] | None = None) -> str:
    """Fill `{slot}`s from `values` and choose one of each `[a|b|c]`. Raises KeyError for a slot without a value."""
    parts = _expand(rng, _parse(template), [])
    return "".join(
        part if isinstance(part, str) else ({} if values is None else values)[part[1]] for part in parts
    )


def compact(value: Json) -> str:
    """JSON without spaces, any unicode as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def spaced(value: Json) -> str:
    """JSON with `", "` and `": "`."""
    return json.dumps(value, ensure_ascii=False)


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Document:
    """One training text: segments `(text, learn)`; the tokens of `learn` segments carry the full loss.

    For the evaluation, everything before the last learned segment is the prompt, and that segment is the answer.
    """

    category: str
    kind: str
    segments: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)

    @property
    def prompt(self) -> str:
        last = max(i for i, (_, learn) in enumerate(self.segments) if learn)
        return "".join(text for text, _ in self.segments[:last])

    @property
    def answer(self) -> str:
        """The last learned segment, without the token that ends the turn."""
        last = next(text for text, learn in reversed(self.segments) if learn)
        return last.removesuffix(END).removesuffix(EOS)


@dataclass(slots=True)
class Chat:
    """Builds the segments of a conversation in the model's chat format."""

    category: str
    kind: str
    segments: list[tuple[str, bool]] = field(default_factory=lambda: [(BOS, False)])

    def system(self, text: str) -> Chat:
        self.segments.append((f"{SYSTEM}{text}{END}", False))
        return self

    def tools(self, lines: str) -> Chat:
        self.segments.append((f"{TOOLS}{lines}{END}", False))
        return self

    def user(self, text: str) -> Chat:
        self.segments.append((f"{USER}{text}{END}", False))
        return self

    def tool(self, text: str) -> Chat:
        self.segments.append((f"{TOOL}{text}{END}", False))
        return self

    def assistant(self, text: str) -> Chat:
        self.segments.append((ASSISTANT, False))
        self.segments.append((text + END, True))
        return self

    def part(self, text: str, learn: bool) -> Chat:
        self.segments.append((text, learn))
        return self

    def done(self) -> Document:
        return Document(self.category, self.kind, tuple(self.segments))


def ask(rng: Rng, chat: Chat, instruction: str, body: str) -> Chat:
    """Put an instruction and the material it is about into the turns, in one of the usual arrangements."""
    style = rng.below(10)
    if style < 3:
        return chat.system(instruction).user(body)
    if style < 7:
        return chat.user(f"{instruction}\n\n{body}")
    if style < 9:
        return chat.user(f"{body}\n\n{instruction}")
    return chat.user(f"{instruction}\n{body}")


Maker = Callable[[Rng], Document]
"""A generator of documents."""
