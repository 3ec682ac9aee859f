"""Train the tokenizer of `sgl-tiny` on the generator's text: BPE with byte fallback, 4,096 entries.

Design: words are merged without their leading space, and ` word` entries are appended afterwards for the most frequent
first pieces of words. So ` Mara` and `Mara` always split alike but for the first token, which makes copying into JSON
strings easy for a small model. Digits stand alone. Characters without an entry become `<0xNN>` bytes, so every text
round-trips.

    python tokenizer.py OUT_DIR [--documents 60000]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from sgl_corpus import document

VOCABULARY = 4096
SPECIAL = (
    "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", "<|call|>", "<|/call|>",
    "<|think|>", "<|/think|>", "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>",
)  # fmt: skip
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
SPACED_WORDS = 900
"""How many ` word` entries are appended after the merges inside words."""

# An escape of a JSON string; letters; a digit; JSON punctuation; other punctuation; line breaks; tabs; spaces; the rest.
INNER = (
    r"""\\["\\/bfnrtu]|[\p{L}\p{M}]+|\p{N}|[{}\[\]":,]+|[^\s\p{L}\p{M}\p{N}{}\[\]":,\\]+|\\|\n+|\t+| +|\s"""
)
SPLIT = r""" ?[\p{L}\p{M}]+|""" + INNER.replace(r"[\p{L}\p{M}]+|", "", 1)
CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is none or content is undefined -%}
{%- elif content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text if part.text is defined else part }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|bos|>' -}}
{%- set turns = messages -%}
{%- if messages and messages[0].role in ('system', 'developer') -%}
{{- '<|system|>' ~ text_of(messages[0].content) ~ '<|end|>' -}}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
{{- '<|tools|>' -}}
{%- for tool in tools -%}
{%- set f = tool.function if tool.function is defined else tool -%}
{%- set shown = {'name': f.name, 'description': f.description if f.description is defined and f.description else '', \
'parameters': f.parameters if f.parameters is defined and f.parameters else {'type': 'object', 'properties': {}}} -%}
{{- shown | tojson(separators=(',', ':')) -}}
{%- if not loop.last -%}{{- '\\n' -}}{%- endif -%}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in turns -%}
{%- if message.role in ('system', 'developer') -%}
{{- '<|system|>' ~ text_of(message.content) ~ '<|end|>' -}}
{%- elif message.role == 'user' -%}
{{- '<|user|>' ~ text_of(message.content) ~ '<|end|>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' ~ text_of(message.content) -}}
{%- if message.tool_calls is defined and message.tool_calls -%}
{%- for call in message.tool_calls -%}
{%- set f = call.function if call.function is defined else call -%}
{{- '<|call|>{"name":' ~ (f.name | tojson) ~ ',"arguments":' -}}
{%- if f.arguments is string -%}{{- f.arguments -}}{%- else -%}{{- f.arguments | tojson(separators=(',', ':')) -}}{%- endif -%}
{{- '}<|/call|>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- elif message.role == 'tool' -%}
{{- '<|tool|>' ~ text_of(message.content) ~ '<|end|>' -}}
{%- else -%}
{{- raise_exception('unknown role ' ~ message.role ~ ': use system, user, assistant or tool') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def corpus(count: int) -> list[str]:
    """Texts without their special tokens."""
    texts = []
    for seed in range(count):
        text = document(seed).text
        for token in SPECIAL:
            text = text.replace(token, "\n")
        texts.append(text)
    return texts


def train_inner(texts: list[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Alphabet and merges inside words; the space is never part of a word here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(INNER), "isolated")
    alphabet = [chr(i) for i in range(32, 127)] + ["\n", "\t"] + list("éüöäøåñçèíóúß€£¥–—’“”…•°×")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    ordered = sorted(model["vocab"], key=model["vocab"].get)
    return ordered, merges


def frequent_first_pieces(
    texts: list[str], vocab: list[str], merges: list[tuple[str, str]], count: int
) -> list[str]:
    """The most frequent first pieces of words that follow a single space."""
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=merges))
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    words: Counter[str] = Counter()
    for text in texts:
        words.update(
            piece for piece, _ in split.pre_tokenize_str(text) if piece[0] == " " and piece[1:2].isalpha()
        )
    first: Counter[str] = Counter()
    for word, times in words.items():
        pieces = inner.encode(word[1:]).tokens
        if pieces:
            first[pieces[0]] += times
    return [piece for piece, _ in first.most_common(count)]


def build(texts: list[str]) -> Tokenizer:
    """The tokenizer: specials, bytes, characters, merges inside words, then ` word` merges."""
    room = VOCABULARY - len(SPECIAL) - len(BYTES) - SPACED_WORDS
    inner, merges = train_inner(texts, room)
    spaced = frequent_first_pieces(texts, inner, merges, VOCABULARY - len(SPECIAL) - len(BYTES) - len(inner))
    entries = [*SPECIAL, *BYTES, *inner, *(" " + piece for piece in spaced)]
    all_merges = [*merges, *((" ", piece) for piece in spaced)]
    model = models.BPE(vocab={t: i for i, t in enumerate(entries)}, merges=all_merges, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return tokenizer


def config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>",
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": 4096, "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=int, default=60_000)
    options = parser.parse_args()
    texts = corpus(options.documents)
    tokenizer = build(texts)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(options.out / "tokenizer.json"), pretty=False)
    (options.out / "tokenizer_config.json").write_text(json.dumps(config(), indent=2) + "\n")
    (options.out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    sample = texts[:2000]
    ids = sum(len(e.ids) for e in tokenizer.encode_batch(sample))
    print(f"{tokenizer.get_vocab_size()} entries, {sum(map(len, sample)) / ids:.2f} characters a token")


if __name__ == "__main__":
    main()
