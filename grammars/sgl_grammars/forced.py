"""Forced tokens: from the bytes that a grammar forces to the tokens that can safely be written without a model.

A token may be inserted only if the tokenizer would put it there *whatever text follows*: the tokens of the finished
text must equal ``tokenizer.encode(text)``. Libraries hold back every token that some longer vocabulary entry could
absorb; here the question is answered exactly, by three facts about byte-pair encoding behind a splitting pattern.

1. The pattern splits from left to right without looking back, so the split of a text before its last pieces is final.
2. If the encoding of a text has a token boundary at p, the tokens before p are the encoding of the text before p.
   So every possible encoding of the finished text is a path of tokens each of whose prefixes is canonical:
   ``encode(bytes of path) == path``. Paths that are not canonical end at once, so few are left.
3. Only tokens that the grammar allows can cross the end of the known bytes.

The forced tokens are the longest common prefix of all paths through the known bytes: more than a rule that looks at
the vocabulary alone can hold, and never a token that some continuation would tokenise otherwise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sgl_grammars.vocabulary import Vocabulary

__all__ = ["Forcer"]

WINDOW = 24
MAX_PATHS = 64
MAX_CROSSING = 6000
CACHE_ENTRIES = 8192

Possible = Callable[[Sequence[int]], bool]
Path = tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """After `path`, `rest` is known to follow; a token that is longer than `rest` would cross its end."""

    path: Path
    rest: bytes


@dataclass(frozen=True)
class Plan:
    """What is sure about known bytes whatever follows (`sure`), and the token paths through the rest of them.

    `context` are the last generated tokens, `sure` new tokens after them; `paths` go on from there to the exact end
    of the known bytes. All are tuples of ids.
    """

    origin: Path
    sure: Path
    paths: tuple[Path, ...]
    sites: tuple[Site, ...]


class Forcer:
    """Forced tokens of one vocabulary, for any grammar. Safe to share between threads (results are pure)."""

    window = WINDOW

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any) -> None:
        self.tokens = vocabulary.tokens
        self._tokenizer = tokenizer
        self._ids: dict[bytes, list[int]] = {}
        for token, text in enumerate(vocabulary.tokens):
            if text and token not in vocabulary.eos_token_ids:
                self._ids.setdefault(text, []).append(token)
        self._sorted = sorted(self._ids)
        self._longest = max(map(len, self._sorted), default=0)
        self._added = _added_texts(self._tokenizer)
        self._plans: OrderedDict[tuple[Path, bytes], Plan | None] = OrderedDict()
        self._crossings: OrderedDict[tuple[Path, Site], Path] = OrderedDict()

    @staticmethod
    def create(vocabulary: Vocabulary) -> Forcer | None:
        """None for tokenizers without a splitting pattern: their encodings have no final parts to build on."""
        if not vocabulary.tokenizer_json:
            return None
        tokenizer = _load(vocabulary.tokenizer_json)
        splits = tokenizer.pre_tokenizer
        if splits is None or type(splits).__name__ == "Metaspace":
            return None
        return Forcer(vocabulary, tokenizer)

    def forced(self, tail: Sequence[int], known: bytes, possible: Possible) -> list[int]:
        """Tokens that must follow `tail`, the last generated tokens, when `known` bytes must follow them.

        `possible(tokens)` says whether the grammar allows a sequence of tokens after `tail`.
        """
        key = (tuple(tail), known)
        plan = self._plans.get(key)
        if plan is None and key not in self._plans:
            plan = self._plan(key[0], known)
            _remember(self._plans, key, plan)
        if plan is None:
            return []
        return [*plan.sure, *self._common(plan, possible)]

    def _common(self, plan: Plan, possible: Possible) -> Path:
        """The longest common prefix of all paths through the bytes that are not sure."""
        if not plan.paths:
            return ()
        common = plan.paths[0]
        for path in plan.paths[1:]:
            common = common[: _shared(common, path)]
        for site in plan.sites:
            limit = _shared(common, site.path)
            if limit < len(common) and self._crossed(plan, site, possible):
                common = common[:limit]
        return common

    def _crossed(self, plan: Plan, site: Site, possible: Possible) -> bool:
        """Does a token exist that crosses the end of the known bytes at `site`?"""
        before = (*plan.sure, *site.path)
        return any(possible((*before, token)) for token in self._crossing(plan.origin, site))

    def _crossing(self, origin: Path, site: Site) -> Path:
        """Tokens longer than the rest of a site that are canonical there; all of them where there are too many."""
        key = (origin, site)
        found = self._crossings.get(key)
        if found is None:
            found = tuple(self._find_crossing((*origin, *site.path), site.rest))
            _remember(self._crossings, key, found)
        return found

    def _find_crossing(self, path: Path, rest: bytes) -> list[int]:
        low = bisect_left(self._sorted, rest)
        high = bisect_left(self._sorted, rest + b"\xff" * (self._longest + 1))
        texts = [text for text in self._sorted[low:high] if text != rest]
        tokens = [token for text in texts for token in self._ids[text]]
        if len(tokens) > MAX_CROSSING:
            return tokens
        base = b"".join(self.tokens[token] for token in path)
        return [token for token in tokens if self._canonical(base + self.tokens[token], (*path, token))]

    def _canonical(self, text: bytes, path: Path) -> bool:
        """Is `path` the encoding of `text`? Yes also where that cannot be asked (half a character at the end)."""
        encoded = self.encode(text)
        return encoded is None or encoded == path

    def encode(self, text: bytes) -> Path | None:
        """The canonical tokens of `text`; None if it is not UTF-8."""
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            return None
        return tuple(self._tokenizer.encode(decoded, add_special_tokens=False).ids)

    def _plan(self, tail: Path, known: bytes) -> Plan | None:
        """
        ::

            tail bytes ...............|known bytes...............
                     ^anchor          ^start          ^sure
            context: tokens between anchor and start (already generated)
            sure:    tokens between start and the last final split; paths: from there to the end
        """
        known = _whole_characters(known)
        window, complete = self._text_window(tail)
        if window is None or not known:
            return None
        text = (window + known).decode()
        start = len(window)
        splits = self._final_splits(text, complete)
        anchor, context = self._anchor(tail, window, splits)
        data = text.encode()
        full = self.encode(data[anchor:])
        if full is None or full[: len(context)] != context:
            anchor, context = start, ()
            full = self.encode(known)
        if full is None:
            return None
        sure_end = self._sure_end(text, [split for split in splits if split > start], start)
        sure = self._tokens_until(full, context, anchor, start, sure_end)
        if sure is None:
            sure, sure_end = (), start
        origin = context if sure_end == start else ()
        return self._search(origin, sure, data[sure_end:])

    def _text_window(self, tail: Path) -> tuple[bytes | None, bool]:
        """Bytes of the tail from a character's start on, and whether they start where the text starts."""
        data = b"".join(self.tokens[token] for token in tail)
        start = 0
        while start < min(4, len(data)) and data[start] & 0xC0 == 0x80:
            start += 1
        try:
            data[start:].decode()
        except UnicodeDecodeError:
            return None, False
        return data[start:], len(tail) < WINDOW

    def _final_splits(self, text: str, complete: bool) -> list[int]:
        """Byte offsets where the pattern splits `text` whatever follows.

        The last two pieces may still change, and white space at the end, which patterns look beyond. If the text
        starts in the middle of a longer one, the first pieces may be cut wrongly and are left out.
        """
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(text)
        starts = sorted({start for _, (start, _) in pieces})
        settled = len(text.rstrip())
        final = [start for start in starts if start < settled][:-1]
        if not complete:
            final = final[4:]
        return _byte_offsets(text, final)

    def _anchor(self, tail: Path, window: bytes, splits: list[int]) -> tuple[int, Path]:
        """The last final split that is also a token boundary of the tail, and the tokens after it."""
        wanted = set(splits) | ({0} if not splits else set())
        position = len(window)
        for count in range(len(tail) + 1):
            if position in wanted:
                return position, tail[len(tail) - count :]
            if count == len(tail):
                break
            position -= len(self.tokens[tail[len(tail) - count - 1]])
        return len(window), ()

    def _sure_end(self, text: str, splits: list[int], start: int) -> int:
        """The last final split, or `start` where an added token could begin before it and end after the text."""
        if not splits:
            return start
        data = text.encode()
        for added in self._added:
            for size in range(1, min(len(added), len(data)) + 1):
                if len(data) - size < splits[-1] and size < len(added) and data.endswith(added[:size]):
                    return start
        return splits[-1]

    def _tokens_until(self, full: Path, context: Path, anchor: int, start: int, end: int) -> Path | None:
        """The tokens of `full`, which begins at `anchor`, between `start` and `end`; None if one spans `end`."""
        position = anchor
        for count, token in enumerate(full):
            if position == end and position >= start:
                return full[len(context) : count]
            position += len(self.tokens[token])
        return None

    def _search(self, origin: Path, sure: Path, rest: bytes) -> Plan | None:
        """All canonical token paths through `rest`, beginning after `origin`."""
        base = b"".join(self.tokens[token] for token in origin)
        paths: list[Path] = []
        sites: list[Site] = []
        stack: list[Site] = [Site((), rest)]
        while stack:
            site = stack.pop()
            if not site.rest:
                paths.append(site.path)
                continue
            sites.append(site)
            if len(sites) > MAX_PATHS:
                return Plan(origin, sure, (), ()) if sure else None
            done = base + rest[: len(rest) - len(site.rest)]
            stack.extend(self._inside(origin, site, done))
        sites.sort(key=lambda site: len(site.path))
        return Plan(origin, sure, tuple(paths), tuple(sites))

    def _inside(self, origin: Path, site: Site, done: bytes) -> list[Site]:
        """The sites reached by tokens that do not cross the end of the known bytes."""
        found = []
        for size in range(1, min(len(site.rest), self._longest) + 1):
            for token in self._ids.get(site.rest[:size], ()):
                path = (*site.path, token)
                if self._canonical(done + site.rest[:size], (*origin, *path)):
                    found.append(Site(path, site.rest[size:]))
        return found


def _load(tokenizer_json: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _added_texts(tokenizer: Any) -> list[bytes]:
    added = tokenizer.get_added_tokens_decoder().values()
    return [token.content.encode() for token in added if not token.special]


def _remember(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    while len(cache) > CACHE_ENTRIES:
        cache.popitem(last=False)


def _shared(left: Path, right: Path) -> int:
    """Length of the common prefix."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _whole_characters(data: bytes) -> bytes:
    """`data` without the bytes of an unfinished character at its end."""
    for cut in range(min(3, len(data)) + 1):
        try:
            data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        return data[: len(data) - cut]
    return b""


def _byte_offsets(text: str, offsets: list[int]) -> list[int]:
    """Character offsets (ascending) as byte offsets."""
    if text.isascii():
        return offsets
    found, position, last = [], 0, 0
    for offset in offsets:
        position += len(text[last:offset].encode())
        last = offset
        found.append(position)
    return found
