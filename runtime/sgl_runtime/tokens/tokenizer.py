"""A model folder's tokenizer, on the `tokenizers` library alone: transformers is slow to import and not
needed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from sgl_grammars.vocabulary import Vocabulary, from_tokenizer_json
from sgl_lang.errors import InvalidRequest

__all__ = ["Tokenizer", "control_token_names", "read_json"]

_CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>", re.DOTALL)
"""The shape of a control token, ASCII or full width. Some folders do not flag their role marks as special."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is no such file. Raises `InvalidRequest` if it is no JSON
    object.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InvalidRequest(f"cannot be read: {error}", place=str(path)) from None
    if not isinstance(data, dict):
        raise InvalidRequest("must hold a JSON object", place=str(path))
    return data


class Tokenizer:
    """Encodes and decodes with the ``tokenizer.json`` of a model folder.

    Decoding is by bytes: token i adds `vocabulary.tokens[i]` to the text wherever it stands, so text may be
    cut and continued at any token.
    """

    def __init__(
        self,
        text: str,
        *,
        padded_size: int | None = None,
        eos_token_ids: Iterable[int] = (),
        bos_token_id: int | None = None,
    ) -> None:
        """`text`: the JSON of a ``tokenizer.json``. `padded_size`: width of the model's logits."""
        data = json.loads(text)
        control = _control_tokens(data)
        if any(not token["special"] for token in control):
            for token in control:
                token["special"] = True
            encoder = tokenizers.Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
        else:
            encoder = tokenizers.Tokenizer.from_str(text)
        encoder.encode_special_tokens = True  # the names of special tokens are ordinary characters in text
        encoder.no_truncation()
        encoder.no_padding()
        self._encoder = encoder
        size = encoder.get_vocab_size(with_added_tokens=True)
        size = max([size, *(int(token["id"]) + 1 for token in data.get("added_tokens", []))])
        self._size = size
        vocabulary = from_tokenizer_json(
            text, padded_size=max(size, padded_size or 0), eos_token_ids=sorted(set(eos_token_ids))
        )
        special = {str(token["content"]): int(token["id"]) for token in control}
        self._vocabulary = replace(vocabulary, special={**vocabulary.special, **special})
        self._names = {index: name for name, index in self._vocabulary.special.items()}
        self._marks = _mark_pattern(data.get("added_tokens", []), self._vocabulary.special)
        self._bos = bos_token_id

    @classmethod
    def from_folder(cls, path: str | Path, *, padded_size: int | None = None) -> Tokenizer:
        """Read `path`/tokenizer.json; sizes and special ids come from the JSON files beside it.

        Raises `InvalidRequest` if there is no tokenizer.json or it is of an unsupported kind.
        """
        folder = Path(path)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InvalidRequest(
                "there is no tokenizer.json", place=str(folder), hint="give a Hugging Face folder"
            )
        config, settings = read_json(folder / "config.json"), read_json(folder / "tokenizer_config.json")
        text = file.read_text(encoding="utf-8")
        width = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        try:
            tokenizer = cls(text, padded_size=padded_size or width)
        except Exception as error:  # the library raises plain Exception
            raise InvalidRequest(f"is no usable tokenizer: {error}", place=str(file)) from None
        generation = read_json(folder / "generation_config.json")
        eos = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
        eos |= tokenizer._named(settings.get("eos_token"))
        tokenizer._vocabulary = replace(tokenizer._vocabulary, eos_token_ids=frozenset(eos))
        tokenizer._bos = tokenizer._prompt_start(settings)
        return tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """Token ids to bytes, over the model's padded width."""
        return self._vocabulary

    @property
    def size(self) -> int:
        """Number of ids that the tokenizer knows, padding not included."""
        return self._size

    @property
    def bos_token_id(self) -> int | None:
        """The token that every plain prompt begins with; None for models that were trained without one.

        `encode` never adds it. Chat templates write their own.
        """
        return self._bos

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a generation."""
        return self._vocabulary.eos_token_ids

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`; with `special`, the names of special tokens in it become these tokens.

        Raises `InvalidRequest` for text that is no Unicode (a lone surrogate).
        """
        if not special or self._marks is None:
            return self._plain(text)
        ids: list[int] = []
        place = 0
        for match in self._marks.finditer(text):
            ids += self._plain(text[place : match.start()])
            ids.append(self._vocabulary.special[match.group(1)])
            place = match.end()
        return ids + self._plain(text[place:])

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`. Bytes that are no UTF-8 become U+FFFD. Ids of padding have no text."""
        return b"".join(self.token_bytes(token, skip_special) for token in ids).decode("utf-8", "replace")

    def token_bytes(self, token: int, skip_special: bool = True) -> bytes:
        """What `token` adds to a text. Raises `InvalidRequest` for an id outside the vocabulary."""
        if not 0 <= token < self._vocabulary.size:
            raise InvalidRequest(f"token id {token} is not in the vocabulary", place="token")
        name = self._names.get(token)
        if name is None:
            return self._vocabulary.tokens[token]
        return b"" if skip_special else name.encode()

    def token_text(self, token: int) -> str:
        """`token` for people: special tokens by name, incomplete characters as U+FFFD."""
        return self.token_bytes(token, skip_special=False).decode("utf-8", "replace")

    def token_id(self, name: str) -> int | None:
        """Id of the special token called `name`."""
        return self._vocabulary.special.get(name)

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            return list(self._encoder.encode(text, add_special_tokens=False).ids)
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("holds a lone surrogate, which is no text", place="text") from None

    def _named(self, token: Any) -> set[int]:
        """The id of a token given by name, as in tokenizer_config.json; empty if there is none."""
        name = token.get("content") if isinstance(token, dict) else token
        index = self._encoder.token_to_id(name) if isinstance(name, str) else None
        return set() if index is None else {index}

    def _prompt_start(self, settings: dict[str, Any]) -> int | None:
        bos = next(iter(self._named(settings.get("bos_token"))), None)
        added: Sequence[int] = self._encoder.encode("", add_special_tokens=True).ids
        if bos is not None and (settings.get("add_bos_token") or bos in added[:1]):
            return bos
        return None


def _control_tokens(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Added tokens that are special, or are named like control tokens without being flagged so."""
    return [
        token
        for token in data.get("added_tokens", [])
        if token.get("special") or _CONTROL.fullmatch(str(token["content"]))
    ]


def control_token_names(data: dict[str, Any]) -> list[str]:
    """Names of the tokens in the data of a ``tokenizer.json`` that text of clients must never become."""
    return [str(token["content"]) for token in _control_tokens(data)]


def _mark_pattern(added: Sequence[dict[str, Any]], special: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern whose group 1 is a special token's name, with the white space that the token swallows
    around it.
    """
    settings = {str(token["content"]): token for token in added}
    left: list[str] = []
    right: list[str] = []
    plain: list[str] = []
    for name in sorted(special, key=len, reverse=True):
        token = settings.get(name, {})
        (left if token.get("lstrip") else right if token.get("rstrip") else plain).append(re.escape(name))
    if not (left or right or plain):
        return None
    forms = "|".join(left + right + plain)
    swallow_left = rf"(?:\s*(?={'|'.join(left)}))?" if left else ""
    swallow_right = rf"(?:(?<={')|(?<='.join(right)})\s*)?" if right else ""
    return re.compile(f"{swallow_left}({forms}){swallow_right}")


def _ids(value: Any) -> set[int]:
    if isinstance(value, int):
        return {value}
    return {int(item) for item in value} if isinstance(value, list) else set()
