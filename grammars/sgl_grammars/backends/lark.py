"""Constraints as llguidance grammars: Lark text with inlined JSON schemas.

Tags and delays become *lazy lexemes*: free text that ends at the first occurrence of a mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from llguidance import regex_to_lark

from sgl_grammars.backends.gbnf import to_lark
from sgl_grammars.backends.patterns import plain_pattern
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
from sgl_lang.errors import InvalidConstraint, UnsupportedFeature

__all__ = ["grammar_of", "json_options"]

# Masks hold every token that can begin an allowed text, not only the canonical one where bytes are forced: which
# tokens are forced is decided by sgl_grammars.forced, for all engines alike.
_HEADER = '%llguidance {"no_forcing": true}\n'
_ANY_TEXT = r"/(?s:.*)/"


def json_options(layout: Layout) -> dict[str, object]:
    """llguidance's JSON options for a layout. Raises `UnsupportedFeature` for indentation."""
    options: dict[str, object] = {"whitespace_flexible": False}
    if layout.kind == "spaced":
        options |= {"item_separator": ", ", "key_separator": ": "}
    elif layout.kind == "flexible":
        blank = rf"[\x20\x0A\x0D\x09]{{1,{layout.size}}}"
        options = {"whitespace_flexible": True, "whitespace_pattern": blank}
    elif layout.kind == "indent":
        raise UnsupportedFeature("llguidance has no indented layout", place="json_schema.layout")
    return options


def grammar_of(constraint: Constraint, special: Collection[str] = ()) -> str:
    """The llguidance grammar of a constraint whose schemas have been rewritten (`sgl_grammars.routing.prepare`).

    `special` names tokens that marks refer to as tokens, not as text.
    """
    writer = _Writer(special)
    start = writer.expression(constraint)
    return writer.finish(start)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Writer:
    """Collects the rules of one Lark text, and further grammars that it refers to by name."""

    def __init__(self, special: Collection[str]) -> None:
        self.special = [name for name in special if re.fullmatch(r"<[^<>\s]+>", name)]
        self.rules: list[str] = []
        self.grammars: list[dict[str, str]] = []
        self.names = 0

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}_{self.names}"

    def rule(self, stem: str, body: str, options: str = "") -> str:
        name = self.name(stem)
        self.rules.append(f"{name}{options}: {body}")
        return name

    def finish(self, start: str) -> str:
        text = "\n".join([_HEADER + f"start: {start}", *self.rules])
        if not self.grammars:
            return text
        return json.dumps({"grammars": [{"name": "main", "lark_grammar": text}, *self.grammars]})

    def expression(self, constraint: Constraint) -> str:
        """A Lark expression for a constraint; what it needs besides is added to the rules."""
        if isinstance(constraint, JsonSchema):
            return self.json(constraint)
        if isinstance(constraint, Regex):
            return self.regex(constraint.pattern)
        if isinstance(constraint, Choice):
            return self.choice(constraint.choices)
        if isinstance(constraint, Lark):
            return self.other(constraint.grammar, "lark")
        if isinstance(constraint, Ebnf):
            return self.other(to_lark(constraint.grammar, constraint.root), "ebnf")
        if isinstance(constraint, Delayed):
            return f"{self.until(constraint.until)} {self.expression(constraint.then)}"
        return self.structural(constraint)

    def json(self, constraint: JsonSchema) -> str:
        options = json_options(constraint.layout)
        return "%json " + json.dumps(
            {**json.loads(constraint.schema), "x-guidance": options}, ensure_ascii=False
        )

    def regex(self, pattern: str) -> str:
        pattern = plain_pattern(pattern)
        return f"/{regex_to_lark(pattern, '')}/" if pattern else "/(?:)/"

    def choice(self, choices: tuple[str, ...]) -> str:
        """One terminal, so that the lexer sees all choices together (its matching is greedy, without return)."""
        texts = [_literal(text) for text in dict.fromkeys(choices) if text]
        body = " | ".join(texts) if texts else "/(?:)/"
        if texts and "" in choices:
            body = f"({body})?"
        name = self.name("CHOICE").upper()
        self.rules.append(f"{name}: {body}")
        return name

    def other(self, grammar: str, stem: str) -> str:
        """A grammar with rules of its own: a separate one, so that names cannot clash."""
        name = self.name(stem)
        self.grammars.append({"name": name, "lark_grammar": _HEADER + grammar})
        return f"@{name}"

    def text(self, text: str) -> str:
        """Literal text in a rule, in which names of special tokens stand for the tokens."""
        if not text:
            return ""
        if not self.special:
            return _literal(text)
        pattern = (
            "(" + "|".join(re.escape(name) for name in sorted(self.special, key=len, reverse=True)) + ")"
        )
        parts = [part for part in re.split(pattern, text) if part]
        return " ".join(part if part in self.special else _literal(part) for part in parts)

    def until(self, mark: str) -> str:
        """Any text up to and with `mark`, at its first occurrence."""
        head, _, tail = next(
            (
                (mark[: mark.index(name)], name, mark[mark.index(name) :])
                for name in self.special
                if name in mark
            ),
            (mark, "", ""),
        )
        if not tail:
            return self.rule("until", f"{_ANY_TEXT} {_literal(mark)}", "[lazy]")
        if head:  # text before a special token inside of a mark: the token alone ends the free text
            return f"{_ANY_TEXT} {self.text(tail)}"
        return f"{_ANY_TEXT} {self.text(mark)}"

    def structural(self, spec: StructuralTag) -> str:
        prefix = self.tag(spec.prefix) + " " if spec.prefix is not None else ""
        return prefix + (self.mixed(spec) if spec.free_text else self.row(spec))

    def tag(self, tag: Tag, skip: int = 0) -> str:
        """`begin` (without its first `skip` characters, already read), content, `end`."""
        begin = self.text(tag.begin[skip:])
        if tag.content is not None:
            return f"{begin} {self.expression(tag.content)} {self.text(tag.end)}"
        return f"{begin} {self.until(tag.end) if tag.end else _ANY_TEXT}"

    def row(self, spec: StructuralTag) -> str:
        """Tags one after the other, nothing but the separator between them."""
        one = self.rule("tag", " | ".join(self.tag(tag) for tag in spec.tags))
        again = self.rule("next", f"{self.text(spec.separator)} {one}")
        most = "" if spec.at_most is None else str(spec.at_most - 1)
        more = "" if most == "0" else f"{again}{{{max(spec.at_least - 1, 0)},{most}}}"
        some = f"{one} {more}"
        return some if spec.at_least else f"({some})?"

    def mixed(self, spec: StructuralTag) -> str:
        """Free text; each occurrence of a trigger must go on as one of the tags that start with it."""
        triggers = spec.triggers or tuple(dict.fromkeys(tag.begin for tag in spec.tags))
        options = []
        for trigger in triggers:
            bodies = [self.tag(tag, len(trigger)) for tag in spec.tags if tag.begin.startswith(trigger)]
            if bodies:
                joined = " | ".join(body if body.strip() else '""' for body in bodies)
                options.append(f"{self.until(trigger)} ({joined})")
        if not options:
            raise InvalidConstraint("no tag begins with a trigger", place="structural_tag.triggers")
        one = self.rule("called", " | ".join(options))
        tail = _ANY_TEXT
        if spec.at_most is not None:
            marks = "|".join(re.escape(trigger).replace("/", r"\/") for trigger in triggers)
            tail = self.name("TAIL").upper()
            self.rules.append(f"{tail}: {_ANY_TEXT} & ~/(?s:.*)({marks})(?s:.*)/")
        most = "" if spec.at_most is None else spec.at_most
        return f"{one}{{{spec.at_least},{most}}} {tail}"
