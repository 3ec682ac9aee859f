"""For tests of grammars: small vocabularies, and masks by brute force.

A recogniser of prefixes, ``prefix_ok(data) -> bool`` (could `data` be continued to a whole text?), is easy to write
and to trust; trying every token against it gives the true mask of any state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from sgl_grammars.matcher import Matcher
from sgl_grammars.vocabulary import Vocabulary

__all__ = ["allowed_tokens", "byte_vocabulary", "merged_vocabulary", "oracle_tokens", "take"]


def byte_vocabulary(special: Iterable[str] = ()) -> Vocabulary:
    """256 tokens of one byte each, an end token 256, and special tokens after it; padded to a multiple of 4."""
    names = {name: 256 + index for index, name in enumerate(("<eos>", *special))}
    tokens = [bytes([value]) for value in range(256)] + [b""] * (len(names) + -len(names) % 4)
    return Vocabulary(tuple(tokens), frozenset({256}), names)


def merged_vocabulary(texts: Iterable[str], *, size: int = 400, seed: int = 0) -> Vocabulary:
    """Bytes, then random pieces of `texts` up to `size` tokens, then two end tokens and padding to a multiple of 8."""
    data = [text.encode() for text in texts if text]
    generator = random.Random(seed)
    pieces: dict[bytes, None] = {bytes([value]): None for value in range(256)}
    for _ in range(50 * size):
        if len(pieces) >= size or not data:
            break
        text = generator.choice(data)
        start = generator.randrange(len(text))
        pieces.setdefault(text[start : start + generator.randint(2, 9)])
    tokens = list(pieces)
    ends = {"<eos>": len(tokens), "<turn>": len(tokens) + 1}
    tokens += [b""] * (2 + (-len(tokens) - 2) % 8)
    return Vocabulary(tuple(tokens), frozenset(ends.values()), ends)


def allowed_tokens(matcher: Matcher) -> set[int]:
    """The tokens of a matcher's mask, end tokens included."""
    row: NDArray[np.int32] = np.full(matcher.vocabulary.mask_words, 0x5A5A5A5A, np.int32)
    matcher.fill_mask(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def oracle_tokens(
    vocabulary: Vocabulary,
    done: bytes,
    prefix_ok: Callable[[bytes], bool],
    whole_ok: Callable[[bytes], bool],
) -> set[int]:
    """The tokens that may follow `done`, found by trying every one; end tokens where `done` is a whole text."""
    found = {token for token, text in enumerate(vocabulary.tokens) if text and prefix_ok(done + text)}
    return found | set(vocabulary.eos_token_ids) if whole_ok(done) else found - vocabulary.eos_token_ids


def take(matcher: Matcher, tokens: Iterable[int]) -> int:
    """Accept tokens until one is refused; how many were accepted."""
    count = 0
    for token in tokens:
        if not matcher.accept(token):
            break
        count += 1
    return count
