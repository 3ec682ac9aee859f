"""Known content becomes tokens at boundaries; special tokens come from templates only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sgl_runtime.engine.testing import ByteTokenizer
from sgl_runtime.program.generation import retokenize_tail
from sgl_runtime.program.text import Codec, Pending

CODEC = Codec(ByteTokenizer())


class PairTokenizer(ByteTokenizer):
    """Like the byte tokenizer, but "th" and " a" are single tokens (in the place of two special ones)."""

    PAIRS = (("th", 250), (" a", 251))

    def __init__(self) -> None:
        super().__init__()
        tokens = list(self.vocabulary.tokens)
        for text, token in self.PAIRS:
            tokens[token] = text.encode()
        object.__setattr__(self.vocabulary, "tokens", tuple(tokens))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = []
        while text:
            pair = next(((pair, token) for pair, token in self.PAIRS if text.startswith(pair)), None)
            ids += [pair[1]] if pair else list(text[0].encode())
            text = text[len(pair[0]) if pair else 1 :]
        return ids


def test_neighbouring_texts_are_one_text() -> None:
    codec, pending = Codec(PairTokenizer()), Pending()
    for node, text in enumerate(["x t", "h", "e a"]):
        pending.text(node, text)
    tokens, placements = pending.flush(codec)
    assert tokens == [120, 32, 250, 101, 251]
    assert [(item.node, item.end - item.start) for item in placements] == [(0, 3), (1, 0), (2, 2)]
    assert pending.flush(codec) == ([], [])


def test_ids_and_special_tokens_are_boundaries() -> None:
    codec, pending = Codec(PairTokenizer()), Pending()
    pending.text(0, "t")
    pending.ids(1, [7])
    pending.text(2, "h")
    pending.pieces(3, [("<user>h", True), ("<end>", False)], codec)
    tokens, _ = pending.flush(codec)
    special = codec.vocabulary.special["<user>"]
    assert tokens == [116, 7, 104, special, 104, *b"<end>"]


@given(texts=st.lists(st.text(max_size=6), max_size=6))
def test_every_token_belongs_to_one_node(texts: list[str]) -> None:
    pending = Pending()
    for node, text in enumerate(texts):
        pending.text(node, text)
    tokens, placements = pending.flush(CODEC)
    assert CODEC.decode(tokens) == "".join(texts)
    assert sum(item.end - item.start for item in placements) == len(tokens)
    assert [item.text for item in placements] == [text for text in texts if text]


@given(text=st.text(max_size=20), cut=st.integers(0, 20))
def test_a_cut_keeps_whole_tokens_and_tokenises_the_rest_again(text: str, cut: int) -> None:
    codec = Codec(PairTokenizer())
    tokens = codec.encode(text)
    ends, place = [], 0
    for token in tokens:
        place += len(codec.token_bytes(token))
        ends.append(place)
    kept_text = text[:cut]
    kept, tail = retokenize_tail(tokens, ends, text.encode(), len(kept_text.encode()), codec)
    assert codec.decode([*kept, *tail]) == kept_text
    assert kept == tokens[: len(kept)]
    assert len(tail) <= 8
