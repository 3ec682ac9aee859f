"""Output tokens per second on the CPU, ours against transformers (+ xgrammar), in one run.

    python benchmarks/cpu.py [--shapes T,Q] [--workloads W1,W2,W3,W4,W4p] [--repeats 3] [--peers ours,transformers]

Shapes have random weights: **T** (Llama, hidden 320, 8 layers, 5 heads of 64, vocabulary 8,192) and **Q** (Qwen3-0.6B).
Workloads, token ids drawn at random with another seed per repeat:

* W1: one stream, 128 tokens in, 128 out, greedy.
* W2: 64 prompts (Q: 16), 512 shared + 64 own tokens, 64 out, greedy.
* W3: 32 requests (Q: 8) held to a JSON schema, 512 shared + 16 own tokens, at most 128 out, temperature 1.
* W4: 16 programs (Q: 4) one after the other, 4 turns each: append 32 tokens, generate 16.
* W4p: the same on a shared base of 512 tokens.

Ours runs through the whole engine (`sgl_runtime.launch`), with its defaults. The transformers side is a plain loop over
`model(...)` without the overhead of `generate`, with the shared prefix computed once per repeat and reused, and the
last logits only; in float32 and in bfloat16, the better one counting. Each peer runs in a process of its own, so that
its memory is its own. The last line is one JSON object: medians, spreads, peak memory, conditions.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "T": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 320,
        "intermediate_size": 896,
        "num_hidden_layers": 8,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 64,
        "vocab_size": 8192,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
    "Q": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
}
WORKLOADS = ("W1", "W2", "W3", "W4", "W4p")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {
                "type": "array",
                "items": {"enum": ["red", "green", "blue"]},
                "minItems": 1,
                "maxItems": 3,
            },
            "address": {
                "type": "object",
                "properties": {
                    "street": {"type": "string", "maxLength": 20},
                    "code": {"type": "string", "pattern": "^[0-9]{5}$"},
                },
                "required": ["street", "code"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "age", "tags", "address"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class Size:
    """How much of each workload a shape runs."""

    prompts: int
    requests: int
    programs: int


SIZES = {"T": Size(64, 32, 16), "Q": Size(16, 8, 4)}


class Drawn:
    """The token ids of one repeat. Ids below 256 are left out: some are special."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def ids(self, count: int) -> list[int]:
        return [int(token) for token in self._random.integers(256, 4000, count)]


def model_folder(shape: str, parent: Path) -> Path:
    """A folder with the shape's configuration and the tokenizer that ships with the package, but no weights."""
    from sgl_runtime.embedded import model_path

    folder = parent / shape
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        source = Path(model_path()) / name
        if source.is_file():
            shutil.copy(source, folder / name)
    (folder / "config.json").write_text(json.dumps({**SHAPES[shape], "bos_token_id": 1, "eos_token_id": 2}))
    return folder


# ------------------------------------------------------------------------------------------------------------ ours


class Ours:
    """Workloads as request trees sent to the engine."""

    def __init__(self, folder: Path, shape: str) -> None:
        import sgl_runtime

        self.size = SIZES[shape]
        self.client = sgl_runtime.launch(str(folder), load_format="dummy")
        self._failures: list[str] = []

    def run(self, workload: str, seed: int) -> int:
        """Run it; output tokens. Nothing of an earlier repeat is left in the cache."""
        self.client.flush_cache()
        return int(getattr(self, workload.lower())(Drawn(seed)))

    def close(self) -> None:
        self.client.close()

    def w1(self, drawn: Drawn) -> int:
        return self._together([[drawn.ids(128), 128]])

    def w2(self, drawn: Drawn) -> int:
        shared = drawn.ids(512)
        return self._together([[shared + drawn.ids(64), 64] for _ in range(self.size.prompts)])

    def w3(self, drawn: Drawn) -> int:
        from sgl_grammars.spec import JsonSchema

        shared = drawn.ids(512)
        parts = [[shared + drawn.ids(16), JsonSchema(SCHEMA)] for _ in range(self.size.requests)]
        return self._together(parts)

    def w4(self, drawn: Drawn, base: tuple[int, ...] = ()) -> int:
        total = 0
        for _ in range(self.size.programs):
            turns = [part for _ in range(4) for part in (drawn.ids(32), 16)]
            turns[0] = [*base, *turns[0]]
            total += self._together([turns])
        return total

    def w4p(self, drawn: Drawn) -> int:
        return self.w4(drawn, tuple(drawn.ids(512)))

    def _together(self, programs: list[list[Any]]) -> int:
        """Programs of alternating known ids and things to generate, all at once: output tokens of all."""
        from sgl_lang.tree import Failed, Finished, ProgramOptions, Ready

        left, tokens, done = len(programs), 0, threading.Event()

        def listen(event: Any) -> None:
            nonlocal left, tokens
            if isinstance(event, Ready):
                tokens += len(event.tokens)
            if isinstance(event, Failed):
                self._failures.append(event.error.message)
            if isinstance(event, Finished) or (isinstance(event, Failed) and event.branch is None):
                left -= 1
                if not left:
                    done.set()

        for parts in programs:
            program = self.client.open(ProgramOptions(), listen)
            self.client.send(program, _operations(parts))
        done.wait(600)
        if self._failures or left:
            raise RuntimeError(f"programs failed: {self._failures[:3]}, {left} not done")
        return tokens


def _operations(parts: list[Any]) -> list[Any]:
    from sgl_lang.tree import End, Extend, Gen, SamplingParams, Tokens

    nodes: list[Any] = []
    for part in parts:
        number = len(nodes)
        if isinstance(part, list):
            nodes.append(Tokens(id=number, ids=tuple(part)))
        elif isinstance(part, int):
            sampling = SamplingParams(max_tokens=part, temperature=0.0, ignore_eos=True)
            nodes.append(Gen(id=number, sampling=sampling))
        else:
            nodes.append(Gen(id=number, sampling=SamplingParams(max_tokens=128), constraint=part))
    return [Extend(branch=0, nodes=tuple(nodes)), End()]


# ---------------------------------------------------------------------------------------------------- transformers


class Transformers:
    """The same workloads over a transformers model: batches of fixed rows, the shared prefix computed once."""

    def __init__(self, folder: Path, shape: str, dtype: str) -> None:
        import torch
        import transformers

        self.torch, self.size = torch, SIZES[shape]
        config = transformers.AutoConfig.from_pretrained(folder)
        torch.manual_seed(0)
        torch.set_default_dtype(getattr(torch, dtype))
        self.model = transformers.AutoModelForCausalLM.from_config(config).eval()
        torch.set_default_dtype(torch.float32)
        self.cache = transformers.DynamicCache
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.vocab = config.vocab_size
        self._grammar: Any = None

    def run(self, workload: str, seed: int) -> int:
        with self.torch.inference_mode():
            return int(getattr(self, workload.lower())(Drawn(seed)))

    def close(self) -> None:
        pass

    def _forward(self, rows: list[list[int]], cache: Any) -> Any:
        out = self.model(self.torch.tensor(rows), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].float()

    def _greedy(self, rows: list[list[int]], cache: Any, count: int) -> list[list[int]]:
        made: list[list[int]] = [[] for _ in rows]
        for _ in range(count):
            chosen = self._forward(rows, cache).argmax(-1).tolist()
            rows = [[token] for token in chosen]
            for line, token in zip(made, chosen, strict=True):
                line.append(token)
        return made

    def _prefix(self, ids: list[int], copies: int) -> Any:
        cache = self.cache()
        self._forward([ids], cache)
        cache.batch_repeat_interleave(copies)
        return cache

    def w1(self, drawn: Drawn) -> int:
        return len(self._greedy([drawn.ids(128)], self.cache(), 128)[0])

    def w2(self, drawn: Drawn) -> int:
        cache = self._prefix(drawn.ids(512), self.size.prompts)
        made = self._greedy([drawn.ids(64) for _ in range(self.size.prompts)], cache, 64)
        return sum(len(line) for line in made)

    def w4(self, drawn: Drawn, base: Any = None) -> int:
        total = 0
        for _ in range(self.size.programs):
            cache = copy.deepcopy(base) if base is not None else self.cache()
            last: list[int] = []
            for _ in range(4):
                # the last generated token of a turn has no KV yet
                made = self._greedy([last + drawn.ids(32)], cache, 16)[0]
                last = made[-1:]
                total += len(made)
        return total

    def w4p(self, drawn: Drawn) -> int:
        return self.w4(drawn, self._prefix(drawn.ids(512), 1))

    def w3(self, drawn: Drawn) -> int:
        import xgrammar

        if self._grammar is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self.tokenizer, vocab_size=self.vocab, stop_token_ids=[2]
            )
            compiler = xgrammar.GrammarCompiler(info)
            self._grammar = compiler.compile_json_schema(SCHEMA, any_whitespace=False, separators=(",", ":"))
        count = self.size.requests
        cache = self._prefix(drawn.ids(512), count)
        matchers = [xgrammar.GrammarMatcher(self._grammar) for _ in range(count)]
        mask = xgrammar.allocate_token_bitmask(count, self.vocab)
        rows, total = [drawn.ids(16) for _ in range(count)], 0
        for _ in range(128):
            logits = self._forward(rows, cache)
            for row, matcher in enumerate(matchers):
                if not matcher.is_terminated():
                    matcher.fill_next_token_bitmask(mask, row)
            xgrammar.apply_token_bitmask_inplace(logits, mask)
            chosen = self.torch.multinomial(logits.softmax(-1), 1).squeeze(-1).tolist()
            for token, matcher in zip(chosen, matchers, strict=True):
                if not matcher.is_terminated():
                    total += matcher.accept_token(token)
            rows = [[token] for token in chosen]
            if all(matcher.is_terminated() for matcher in matchers):
                break
        return total


# ------------------------------------------------------------------------------------------------------- measuring

PEERS: dict[str, Callable[[Path, str], Any]] = {
    "ours": Ours,
    "transformers-float32": lambda folder, shape: Transformers(folder, shape, "float32"),
    "transformers-bfloat16": lambda folder, shape: Transformers(folder, shape, "bfloat16"),
}


def measure(peer: str, shape: str, workloads: list[str], repeats: int) -> dict[str, Any]:
    """One peer on one shape, in this process: rates per workload, start-up and peak memory."""
    import warnings

    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as parent:
        began = time.perf_counter()
        runner = PEERS[peer](model_folder(shape, Path(parent)), shape)
        result: dict[str, Any] = {"start_s": round(time.perf_counter() - began, 2)}
        for workload in workloads:
            runner.run(workload, 999)  # warm: code paths, grammar compiled
            rates = []
            for seed in range(repeats):
                start = time.perf_counter()
                tokens = runner.run(workload, seed)
                rates.append(tokens / (time.perf_counter() - start))
            result[workload] = [round(rate, 1) for rate in rates]
        result["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        runner.close()
    return result


def in_own_process(peer: str, shape: str, workloads: list[str], repeats: int) -> dict[str, Any]:
    arguments = ["--worker", peer, "--shapes", shape, "--workloads", ",".join(workloads)]
    command = [sys.executable, __file__, *arguments, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{peer} failed on {shape}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(shape: str, found: dict[str, dict[str, Any]], workloads: list[str]) -> dict[str, Any]:
    """A table on the way; the shape's part of the last line."""
    part: dict[str, Any] = {}
    for workload in workloads:
        medians = {peer: statistics.median(result[workload]) for peer, result in found.items()}
        line = {
            "ours": medians.get("ours"),
            "transformers": max((value for peer, value in medians.items() if peer != "ours"), default=None),
        }
        if line["ours"] and line["transformers"]:
            line["ratio"] = round(line["ours"] / line["transformers"], 2)
        part[workload] = {**line, "spread": {peer: result[workload] for peer, result in found.items()}}
        print(f"{shape} {workload:4} " + "  ".join(f"{peer} {rate:8.1f}" for peer, rate in medians.items()))
    part["peak_gb"] = {peer: result["peak_gb"] for peer, result in found.items()}
    part["start_s"] = {peer: result["start_s"] for peer, result in found.items()}
    print(f"{shape} peak GB {part['peak_gb']}, start s {part['start_s']}", flush=True)
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", default="T,Q")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--worker", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    workloads = options.workloads.split(",")
    if options.worker:
        print(json.dumps(measure(options.worker, options.shapes, workloads, options.repeats)))
        return
    result: dict[str, Any] = {}
    for shape in options.shapes.split(","):
        peers = [peer for peer in options.peers.split(",") if not (shape == "Q" and peer.endswith("float32"))]
        found = {peer: in_own_process(peer, shape, workloads, options.repeats) for peer in peers}
        result[shape] = report(shape, found, workloads)
    result["conditions"] = {
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "machine": platform.machine(),
        "repeats": options.repeats,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
