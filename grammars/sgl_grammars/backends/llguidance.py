"""The llguidance backend: exact, compiles in about a millisecond, and serves every kind of constraint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from sgl_grammars.matcher import MaskRow, Matcher
from sgl_grammars.schema import load_schema, rewrite
from sgl_grammars.spec import (
    Choice,
    Constraint,
    Delayed,
    Ebnf,
    JsonSchema,
    Lark,
    Layout,
    Regex,
    StructuralTag,
    Tag,
)
from sgl_grammars.vocabulary import Vocabulary
from sgl_lang.errors import InvalidConstraint, UnsupportedFeature

NAME = "llguidance"
FREE_TEXT = r"/(.|\n)+/"


@dataclass(frozen=True)
class Source:
    """Side grammars of one constraint, `top` first by name; ready to be given to llguidance as one text."""

    top: dict[str, Any]
    side: tuple[dict[str, Any], ...] = ()

    def text(self) -> str:
        return json.dumps({"grammars": [self.top, *self.side]})


class _Tokenizer:
    """What llguidance asks of a tokenizer that is no ``tokenizer.json``: greedy longest match over bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = set(vocabulary.special.values()) | set(vocabulary.eos_token_ids)
        names = {index: name for name, index in vocabulary.special.items()}
        self.tokens = [
            b"\xff" + names.get(index, f"<|{index}|>").encode() if index in special else token or b""
            for index, token in enumerate(vocabulary.tokens)
        ]
        self.eos_token_id = min(vocabulary.eos_token_ids)
        self.bos_token_id = None
        self.special_token_ids = sorted(special)
        self.is_tokenizer_wrapper = True
        self._ids = {token: index for index, token in reversed(list(enumerate(vocabulary.tokens))) if token}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        return list(self._greedy(data))

    def _greedy(self, data: bytes) -> Iterator[int]:
        at = 0
        while at < len(data):
            end = min(len(data), at + self._longest)
            while end > at and data[at:end] not in self._ids:
                end -= 1
            if end == at:
                raise ValueError(f"byte {data[at]} has no token")
            yield self._ids[data[at:end]]
            at = end


class LlguidanceBackend:
    """Compiles constraints for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, *, threads: int | None = None) -> None:
        if not vocabulary.eos_token_ids:
            raise ValueError("a vocabulary without an end token cannot end a constrained text")
        self.vocabulary = vocabulary
        self._tokenizer = self._make_tokenizer(vocabulary)
        self.filler = _Filler(vocabulary, threads)

    @staticmethod
    def _make_tokenizer(vocabulary: Vocabulary) -> Any:
        source: Any = vocabulary.tokenizer_json or _Tokenizer(vocabulary)
        return llguidance.LLTokenizer(
            source, n_vocab=vocabulary.size, eos_token=min(vocabulary.eos_token_ids)
        )

    def compile(self, constraint: Constraint) -> LlguidanceGrammar:
        """Raises `InvalidConstraint` or `UnsupportedFeature`, naming the place."""
        unenforced: list[str] = []
        source = _Writer(self.vocabulary, unenforced).source(constraint)
        matcher = llguidance.LLMatcher(self._tokenizer, source.text(), log_level=0)
        if matcher.is_error():
            raise InvalidConstraint(_reason(matcher.get_error()), place=place_of(constraint))
        nbytes = 64 * len(source.text()) + 65536
        return LlguidanceGrammar(self, matcher, nbytes, tuple(unenforced))


def place_of(constraint: Constraint) -> str:
    """The name under which users know this kind of constraint."""
    return str(type(constraint).__struct_config__.tag)


def _reason(error: str) -> str:
    """llguidance's message without its own frame of the grammar text."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return " ".join(lines)[:400] or "refused by the grammar engine"


# --------------------------------------------------------------------------------------------- constraint -> text


class _Writer:
    """Writes a constraint as llguidance grammars; nested constraints become side grammars."""

    def __init__(self, vocabulary: Vocabulary, unenforced: list[str]) -> None:
        self._vocabulary = vocabulary
        self._unenforced = unenforced
        self._side: list[dict[str, Any]] = []

    def source(self, constraint: Constraint) -> Source:
        top = self._grammar(constraint)
        return Source({"name": "top", **top}, tuple(self._side))

    def _grammar(self, constraint: Constraint) -> dict[str, Any]:
        rule = cast("Callable[[Any], dict[str, Any]]", getattr(self, f"_{place_of(constraint)}"))
        return rule(constraint)

    def _nested(self, constraint: Constraint) -> str:
        name = f"g{len(self._side)}"
        self._side.append({})
        at = len(self._side) - 1
        self._side[at] = {"name": name, **self._grammar(constraint)}
        return f"@{name}"

    def _json_schema(self, constraint: JsonSchema) -> dict[str, Any]:
        schema, unenforced = rewrite(load_schema(constraint.schema), strict=constraint.strict)
        self._unenforced.extend(unenforced)
        if schema is False:
            raise InvalidConstraint("no value satisfies this schema", place="json_schema")
        body = {} if schema is True else schema
        return {"json_schema": {**body, "x-guidance": layout_options(constraint.layout)}}

    def _regex(self, constraint: Regex) -> dict[str, Any]:
        if "\x00" in constraint.pattern:
            raise InvalidConstraint("a NUL character in a pattern", place="regex", hint="write \\x00")
        if not constraint.pattern:
            raise InvalidConstraint("an empty pattern matches only the empty text", place="regex")
        _check_nesting(constraint.pattern, "regex")
        return {"lark_grammar": _lark_of_regex(constraint.pattern)}

    def _choice(self, constraint: Choice) -> dict[str, Any]:
        if not constraint.choices or not all(constraint.choices):
            raise InvalidConstraint("must hold at least one text and no empty one", place="choices")
        options = " | ".join(_quote(text) for text in dict.fromkeys(constraint.choices))
        return {"lark_grammar": f"start: CHOICE\nCHOICE: {options}\n"}

    def _lark(self, constraint: Lark) -> dict[str, Any]:
        _check_nesting(constraint.grammar, "lark")
        return {"lark_grammar": constraint.grammar}

    def _ebnf(self, constraint: Ebnf) -> dict[str, Any]:
        _check_nesting(constraint.grammar, "ebnf")
        text = constraint.grammar
        if constraint.root != "root":
            text = f"{text}\nroot ::= {constraint.root}\n"
        try:
            return {"lark_grammar": gbnf_to_lark(text)}
        except (GbnfToLarkError, RecursionError) as error:
            raise InvalidConstraint(str(error)[:300], place="ebnf") from None
        except Exception as error:  # the converter reports missing and repeated rules as bare exceptions
            raise InvalidConstraint(str(error)[:300], place="ebnf") from None

    def _delayed(self, constraint: Delayed) -> dict[str, Any]:
        then = self._nested(constraint.then)
        if constraint.until in self._vocabulary.special:
            return {"lark_grammar": f"start: TEXT? {constraint.until} {then}\nTEXT: {FREE_TEXT}\n"}
        lines = [f"start: head {then}", f"head[lazy]: TEXT? {_quote(constraint.until)}", f"TEXT: {FREE_TEXT}"]
        return {"lark_grammar": "\n".join(lines) + "\n"}

    def _structural_tag(self, constraint: StructuralTag) -> dict[str, Any]:
        if not constraint.tags:
            raise InvalidConstraint("must hold at least one tag", place="structural_tag.tags")
        return {"lark_grammar": "\n".join(self._tag_rules(constraint)) + "\n"}

    def _tag_rules(self, constraint: StructuralTag) -> list[str]:
        triggers = constraint.triggers or tuple(tag.begin for tag in constraint.tags)
        lazy = [t for t in triggers if self._special_prefix(t) is None]
        if constraint.free_text and lazy and (constraint.at_least or constraint.at_most is not None):
            raise UnsupportedFeature(
                "a bound on the number of tags needs triggers that are special tokens",
                place="structural_tag.at_least",
            )
        rules = [f"TEXT: {FREE_TEXT}"]
        for index, tag in enumerate(constraint.tags):
            trigger = next((t for t in triggers if tag.begin.startswith(t)), None)
            if trigger is None:
                raise InvalidConstraint(
                    f"{tag.begin!r} starts with no trigger", place=f"structural_tag.tags.{index}.begin"
                )
            rules += self._one_tag(index, tag, trigger, lazy=constraint.free_text and trigger in lazy)
        names = " | ".join(f"tag_{index}" for index in range(len(constraint.tags)))
        rules.append(f"tag: {names}")
        start = self._start(constraint, bool(lazy))
        if constraint.prefix is not None:
            rules += [f"prefix: {self._body(constraint.prefix)}", f"start: prefix {start}"]
        else:
            rules.append(f"start: {start}")
        return rules

    def _start(self, constraint: StructuralTag, lazy: bool) -> str:
        least, most = constraint.at_least, constraint.at_most
        count = "*" if (least, most) == (0, None) else f"{{{least},{'' if most is None else most}}}"
        if constraint.free_text and lazy:
            return "tag* TEXT?"
        if constraint.free_text:
            return f"TEXT? (tag TEXT?){count}"
        if not constraint.separator:
            return f"tag{count}"
        more = f"({self._literal(constraint.separator)} tag)"
        rest = "*" if most is None else f"{{{max(least, 1) - 1},{most - 1}}}"
        if least > 1 and most is None:
            rest = f"{{{least - 1},}}"
        return f"tag {more}{rest}" if least else f"(tag {more}{rest})?"

    def _one_tag(self, index: int, tag: Tag, trigger: str, *, lazy: bool) -> list[str]:
        if not lazy:
            return [f"tag_{index}: {self._body(tag)}"]
        rest = Tag(begin=tag.begin[len(trigger) :], content=tag.content, end=tag.end)
        return [
            f"head_{index}[lazy]: TEXT? {_quote(trigger)}",
            f"tag_{index}: head_{index} {self._body(rest)}",
        ]

    def _body(self, tag: Tag) -> str:
        """Begin, content and end in Lark; free content runs to the end mark."""
        begin, end = self._literal(tag.begin), self._literal(tag.end)
        if tag.content is not None:
            return f"{begin} {self._nested(tag.content)} {end}".strip()
        if self._special_prefix(tag.end) is None:
            name = f"g{len(self._side)}"
            grammar = f"start: body\nbody[lazy]: TEXT? {_quote(tag.end)}\nTEXT: {FREE_TEXT}\n"
            self._side.append({"name": name, "lark_grammar": grammar})
            return f"{begin} @{name}"
        return f"{begin} TEXT? {end}"

    def _special_prefix(self, text: str) -> str | None:
        return next((name for name in self._vocabulary.special if name and text.startswith(name)), None)

    def _literal(self, text: str) -> str:
        """Text as Lark: special tokens by name, the rest quoted."""
        names = [name for name in self._vocabulary.special if re.fullmatch(r"<[^<>\s]+>", name)]
        if not names:
            return _quote(text) if text else ""
        pieces = re.split(
            "(" + "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True)) + ")", text
        )
        return " ".join(piece if piece in names else _quote(piece) for piece in pieces if piece)


def layout_options(layout: Layout) -> dict[str, Any]:
    """llguidance's options for a layout; `UnsupportedFeature` for what it cannot lay out."""
    if layout.kind == "compact":
        return {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    if layout.kind == "spaced":
        return {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if layout.kind == "flexible":
        if not 0 < layout.size <= 64:
            raise InvalidConstraint("must be between 1 and 64", place="layout.size")
        return {
            "whitespace_flexible": True,
            "whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{0,{layout.size}}}",
            "item_separator": ",",
            "key_separator": ":",
        }
    raise UnsupportedFeature(
        "indented JSON cannot be held to a schema by this backend",
        place="layout",
        hint="use compact, spaced or flexible",
    )


def _lark_of_regex(pattern: str) -> str:
    """One terminal; llguidance's own conversion escapes what Lark would read otherwise."""
    try:
        return f"start: /{llguidance.regex_to_lark(pattern)}/\n"
    except ValueError as error:
        raise InvalidConstraint(_reason(str(error)), place="regex") from None


def _quote(text: str) -> str:
    return json.dumps(text)


def _check_nesting(text: str, place: str, limit: int = 200, size: int = 1 << 20) -> None:
    """Refuse what could exhaust a native parser's stack or time before it sees it."""
    if len(text) > size:
        raise InvalidConstraint(f"longer than {size} characters", place=place)
    depth = 0
    for at, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise InvalidConstraint(f"a lone surrogate at offset {at}", place=place)
        depth += (character in "([{") - (character in ")]}")
        if depth > limit:
            raise InvalidConstraint(f"brackets nested deeper than {limit} at offset {at}", place=place)


# ------------------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class LlguidanceGrammar:
    """A compiled grammar: a matcher in its first state, copied for each sequence."""

    owner: LlguidanceBackend
    first: Any
    nbytes: int
    unenforced: tuple[str, ...]
    backend: str = NAME

    def matcher(self) -> LlguidanceMatcher:
        return LlguidanceMatcher(self.owner, self.first.deep_copy())


@dataclass
class LlguidanceMatcher:
    """See `sgl_grammars.matcher.Matcher`."""

    owner: LlguidanceBackend
    inner: Any
    _ended: bool = False
    _failed: str | None = field(default=None)

    @property
    def filler(self) -> _Filler:
        return self.owner.filler

    @property
    def error(self) -> str | None:
        if self._failed is None and self.inner.is_error():
            self._failed = _reason(self.inner.get_error())
        return self._failed

    @property
    def accepting(self) -> bool:
        return not self._ended and bool(self.inner.is_accepting())

    @property
    def complete(self) -> bool:
        return not self._ended and bool(self.inner.is_accepting()) and bool(self.inner.is_stopped())

    @property
    def done(self) -> bool:
        return self._ended or bool(self.inner.is_stopped())

    def fill_mask(self, row: MaskRow) -> None:
        if self._ended:
            row.fill(0)
        else:
            self.inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self.owner.filler.finish(self, row)

    def accept(self, token: int) -> bool:
        if self._ended or token < 0:
            return False
        if token in self.owner.vocabulary.eos_token_ids:
            self._ended = bool(self.inner.is_accepting())
            return self._ended
        return int(self.inner.try_consume_tokens([token])) == 1

    def forced_tokens(self) -> list[int]:
        if self._ended or self.inner.is_stopped():
            return []
        forced: list[int] = self.inner.compute_ff_tokens()
        ends = self.owner.vocabulary.eos_token_ids
        return forced[: next((i for i, token in enumerate(forced) if token in ends), len(forced))]

    def rollback(self, n: int) -> None:
        if n and self._ended:
            self._ended = False
            n -= 1
        if n:
            self.inner.rollback(n)

    def fork(self) -> LlguidanceMatcher:
        return LlguidanceMatcher(self.owner, self.inner.deep_copy(), self._ended, self._failed)


class _Filler:
    """Fills rows on llguidance's own threads and sets the end-token and padding bits."""

    def __init__(self, vocabulary: Vocabulary, threads: int | None) -> None:
        self._executor = llguidance.LLExecutor(num_threads=threads)
        self._ends = [
            (token // 32, np.uint32(1 << (token % 32)).astype(np.int32))
            for token in sorted(vocabulary.eos_token_ids)
        ]
        self._size = vocabulary.size

    def finish(self, matcher: LlguidanceMatcher, row: MaskRow) -> None:
        """End tokens exactly where the text may end; nothing beyond the vocabulary."""
        accepting = matcher.accepting
        for word, bit in self._ends:
            row[word] = row[word] | bit if accepting else row[word] & ~bit
        if self._size % 32:
            row[-1] &= np.int32((1 << (self._size % 32)) - 1)

    def fill_many(self, matchers: Sequence[Matcher], rows: Sequence[MaskRow]) -> None:
        ours = cast("Sequence[LlguidanceMatcher]", matchers)
        running = [(m.inner, row) for m, row in zip(ours, rows, strict=True) if not m._ended]
        if len(running) < 2:
            for matcher, row in zip(ours, rows, strict=True):
                matcher.fill_mask(row)
            return
        base = min(row.ctypes.data for _, row in running)
        words = running[0][1].nbytes
        work = [(inner, (row.ctypes.data - base) // words) for inner, row in running]
        count = max(index for _, index in work) + 1
        self._executor.unsafe_compute_mask_ptr(work, base, words, count)
        for matcher, row in zip(ours, rows, strict=True):
            if matcher._ended:
                row.fill(0)
            self.finish(matcher, row)
