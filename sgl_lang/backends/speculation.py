"""Several gens of one assistant message in one call: ask for the whole message, then match it against the program.

A chat endpoint cannot go on inside a message, and each call pays for the whole prompt again. So where a message holds
text and gens that are all known already, it is asked for at once; the answer is taken apart by the constant text
between the gens. What does not match is asked for again, within a bound, and is an error after that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sgl_grammars.spec import Choice, Regex
from sgl_lang.backends.interpreter import Want
from sgl_lang.tree import Gen, Node, NodeId, RoleEnd, Text

__all__ = ["Template", "template_of"]


@dataclass(frozen=True)
class Template:
    """An assistant message as the program wrote it: `parts` are constant texts and gens, in turn."""

    parts: tuple[str | Gen, ...]

    @property
    def gens(self) -> list[Gen]:
        return [part for part in self.parts if isinstance(part, Gen)]

    @property
    def max_tokens(self) -> int | None:
        """A bound for the whole message, if every gen has one; constant text counts a token per two characters."""
        limits = [gen.sampling.max_tokens for gen in self.gens]
        known = sum(len(part) for part in self.parts if isinstance(part, str))
        return None if None in limits else sum(limit or 0 for limit in limits) + known // 2 + 8

    def match(self, text: str) -> dict[NodeId, str] | None:
        """The text of each gen, if `text` is such a message. White space at both ends does not matter."""
        found = self._pattern().fullmatch(text.strip())
        if found is None:
            return None
        return {gen.id: self._cut(gen, found[f"g{gen.id}"]) for gen in self.gens}

    def _pattern(self) -> re.Pattern[str]:
        parts = list(self.parts)
        if isinstance(parts[0], str):
            parts[0] = parts[0].lstrip()
        if isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()
        return re.compile("".join(_regex(part) for part in parts))

    @staticmethod
    def _cut(gen: Gen, text: str) -> str:
        """`text` up to the first stop string."""
        ends = [at for at in (text.find(stop) for stop in gen.sampling.stop) if at >= 0]
        return text[: min(ends)] if ends else text


def _regex(part: str | Gen) -> str:
    if isinstance(part, str):
        return re.escape(part)
    constraint = part.constraint
    if isinstance(constraint, Regex):
        return f"(?P<g{part.id}>{constraint.pattern})"
    if isinstance(constraint, Choice):
        longest_first = sorted(constraint.choices, key=len, reverse=True)
        return f"(?P<g{part.id}>{'|'.join(map(re.escape, longest_first))})"
    return rf"(?P<g{part.id}>[\s\S]*?)"


def template_of(want: Want) -> Template | None:
    """The rest of the message that `want` stands in, if it holds more than this one gen and is known to its end."""
    begun = _begun(want)
    if begun is None or not isinstance(want.node, Gen):
        return None
    rest = _rest(want.following)
    if rest is None or (not begun and not any(isinstance(part, Gen) for part in rest)):
        return None
    parts: list[str | Gen] = []
    for part in (begun, want.node, *rest):
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        elif part:
            parts.append(part)
    return Template(tuple(parts))


def _begun(want: Want) -> str | None:
    """Constant text of the open assistant message; None if there is none, or it holds generated text."""
    text = ""
    for piece in reversed(want.pieces):
        if piece.kind == "begin":
            return text if piece.role == "assistant" else None
        if piece.kind != "text":
            return None
        text = piece.text + text
    return None


def _rest(nodes: Sequence[Node]) -> list[str | Gen] | None:
    """Texts and gens up to the end of the message; None if it is not known, or holds anything else."""
    found: list[str | Gen] = []
    for node in nodes:
        if isinstance(node, RoleEnd):
            return found
        if isinstance(node, Text):
            found.append(node.text)
        elif isinstance(node, Gen):
            found.append(node)
        else:
            return None
    return None
