"""The trie of a vocabulary's tokens, level by level in numpy arrays; built once per vocabulary."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgl_grammars.vocabulary import Vocabulary

__all__ = ["Level", "TokenTrie", "trie_of"]

Places = NDArray[np.intp]


@dataclass(frozen=True)
class Level:
    """The nodes at one depth. Node i continues node `parent[i]` of the level above by `byte[i]`.

    `tokens` are ids that end at this depth, `ends` the node of each.
    """

    parent: Places
    byte: Places
    tokens: Places
    ends: Places


@dataclass(frozen=True)
class TokenTrie:
    """All tokens with text, except end tokens. `size` is the width of the padded vocabulary."""

    levels: tuple[Level, ...]
    size: int

    @property
    def nodes(self) -> int:
        return sum(len(level.parent) for level in self.levels)


_KEPT = 4
_tries: OrderedDict[str, TokenTrie] = OrderedDict()
_lock = threading.Lock()


def trie_of(vocabulary: Vocabulary) -> TokenTrie:
    """The trie of a vocabulary; equal vocabularies share it, and the last few used are kept."""
    key = vocabulary.fingerprint
    with _lock:
        found = _tries.get(key)
        if found is None:
            found = _tries[key] = _build(vocabulary)
        _tries.move_to_end(key)
        while len(_tries) > _KEPT:
            _tries.popitem(last=False)
        return found


def _build(vocabulary: Vocabulary) -> TokenTrie:
    """Sort the tokens; a token opens a new node at depth d if it differs from its predecessor by then."""
    wanted = (
        (text, token)
        for token, text in enumerate(vocabulary.tokens)
        if text and token not in vocabulary.eos_token_ids
    )
    ordered = sorted(wanted)
    ids = np.array([token for _, token in ordered], dtype=np.intp)
    lengths = np.array([len(text) for text, _ in ordered], dtype=np.int64)
    data = np.frombuffer(b"".join(text for text, _ in ordered), dtype=np.uint8).astype(np.intp)
    starts = np.cumsum(lengths) - lengths
    levels = []
    members = np.arange(len(ids))  # tokens longer than the depth, in order
    node = np.zeros(len(ids), dtype=np.intp)  # node of each token one level above
    depth = 0
    while len(members):
        byte = data[starts[members] + depth]
        above = node[members]
        fresh = np.ones(len(members), dtype=bool)
        fresh[1:] = (byte[1:] != byte[:-1]) | (above[1:] != above[:-1])
        own = np.cumsum(fresh, dtype=np.intp) - 1
        node[members] = own
        ending = lengths[members] == depth + 1
        levels.append(Level(above[fresh], byte[fresh], ids[members[ending]], own[ending]))
        members = members[~ending]
        depth += 1
    return TokenTrie(tuple(levels), vocabulary.size)
