"""Train `sgl-tiny`.

    python train.py OUT_DIR --tokenizer ../sgl_runtime/embedded/sgl-tiny --steps 9000

One GPU (or a CPU for a few steps). Muon for the matrices, AdamW for the embedding and the norms, bfloat16 autocast,
a linear decay to zero. The same arguments give the same data in the same order.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import CONTEXT, Chunk, stream
from model import Config, Llama, export, load


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """Matrices [n, r, c] with their singular values brought near one (Newton-Schulz, as in the Muon optimiser)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised, per shape in one batch; the update has the size of an AdamW step (RMS 0.2)."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.95, decay: float = 0.1) -> None:
        self.groups: dict[torch.Size, list[Tensor]] = {}
        for p in parameters:
            self.groups.setdefault(p.shape, []).append(p)
        self.buffers = {
            shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self.groups.items()
        }
        self.momentum, self.decay = momentum, decay
        self.orthogonal = torch.compile(orthogonal) if parameters[0].is_cuda else orthogonal

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, parameters in self.groups.items():
            grads = torch.stack([p.grad for p in parameters if p.grad is not None])
            buffer = self.buffers[shape]
            buffer.lerp_(grads, 1 - self.momentum)
            update = self.orthogonal(grads.lerp(buffer, self.momentum)).float() * (0.2 * max(shape) ** 0.5)
            torch._foreach_mul_(parameters, 1 - rate * self.decay)
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-rate)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's tokens on the device."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    bounds: Tensor


def to_batch(chunks: list[Chunk], device: str, max_documents: int) -> Batch:
    """Chunks back to back. The target of a token is the next one; its weight is 0 across documents.

    `bounds` has a fixed length (static shapes for the compiler): the rest repeats the end, i.e. empty documents.
    """
    ids = np.concatenate([c.ids for c in chunks]).astype(np.int64)
    positions = np.concatenate([c.positions for c in chunks]).astype(np.int64)
    weights = np.concatenate([c.weights for c in chunks])
    starts = np.flatnonzero(positions == 0)
    if len(starts) > max_documents:
        raise ValueError(f"{len(starts)} documents in a batch, room for {max_documents}: raise max_documents")
    bounds = np.full(max_documents + 1, len(ids), np.int32)
    bounds[: len(starts)] = starts
    targets, next_weights = np.roll(ids, -1), np.roll(weights, -1)
    next_weights[-1] = 0.0

    def put(array: object) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor

    return Batch(put(ids), put(positions), put(targets), put(next_weights), put(bounds))


def batches(chunks: Iterator[Chunk], per_batch: int, device: str, max_documents: int) -> Iterator[Batch]:
    """Batches, one made ahead."""
    ahead: deque[Batch] = deque()
    while True:
        while len(ahead) < 2:
            ahead.append(to_batch([next(chunks) for _ in range(per_batch)], device, max_documents))
        yield ahead.popleft()


@dataclass
class Clock:
    """Speed of the run, and the number of steps that fit when only minutes were given."""

    minutes: float | None
    steps: int
    begin: float = 0.0

    def tick(self, step: int) -> None:
        if step == 30:
            torch.cuda.synchronize() if torch.cuda.is_available() else None
            self.begin = time.time()
        if step == 180 and self.minutes is not None:
            torch.cuda.synchronize()
            per_step = (time.time() - self.begin) / 150
            self.steps = 180 + int((self.minutes * 60 - 180 * per_step) / per_step)
            print(
                f"{per_step * 1000:.1f} ms a step: {self.steps} steps in {self.minutes} minutes", flush=True
            )


def rate_at(step: int, steps: int, peak: float, warm: int) -> float:
    return peak * min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model = Llama(Config(), device).to(device)
    if options.init:
        load(model, options.init)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name != "embedding"]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or name == "embedding"]
    muon = Muon(matrices, decay=options.decay)
    adam = torch.optim.AdamW(
        others, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda"
    )
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters on {device}", flush=True)
    forward = torch.compile(model, dynamic=False) if device == "cuda" else model
    chunks = stream(
        options.tokenizer, options.chunk, options.workers, options.base_weight, options.first_chunk
    )
    source = batches(
        chunks, options.batch // options.chunk, device, max_documents=max(8, options.batch // 160)
    )
    clock = Clock(options.minutes, options.steps)
    total, started, step, waited = torch.zeros((), device=device), time.time(), 0, 0.0
    while step < clock.steps:
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = forward(batch.ids, batch.positions, batch.targets, batch.weights, batch.bounds, CONTEXT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        planned = clock.steps if options.minutes is None or step > 180 else 10**9
        rate = rate_at(step, planned, options.rate, options.warm)
        muon.step(rate)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        model.zero_grad(set_to_none=True)
        total += loss.detach()
        step += 1
        if step == options.profile:
            profiler = torch.profiler.profile()
            profiler.start()
        if step == options.profile + 3 and options.profile:
            torch.cuda.synchronize()
            profiler.stop()
            print(
                profiler.key_averages().table(
                    sort_by="cuda_time_total", row_limit=28, max_name_column_width=70
                ),
                flush=True,
            )
        clock.tick(step)
        if step % options.report == 0 or step == clock.steps:
            speed = (
                options.batch * (step - 30) / (time.time() - clock.begin) / 1e6
                if clock.begin and step > 30
                else 0.0
            )
            print(
                f"step {step} loss {total.item() / options.report:.4f} rate {rate:.2e} {speed:.2f}M tokens/s {time.time() - started:.0f}s ({waited:.0f}s on data)",
                flush=True,
            )
            total.zero_()
    export(model, options.out)
    record = {
        "steps": step,
        "tokens": step * options.batch,
        "seconds": round(time.time() - started),
        "chunks": step * (options.batch // options.chunk),
    }
    print(json.dumps(record), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--init", type=Path, help="start from the weights of this folder")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--minutes", type=float, help="measure the speed and choose the steps (GPU)")
    parser.add_argument("--batch", type=int, default=131_072, help="tokens a step")
    parser.add_argument("--chunk", type=int, default=32_768)
    parser.add_argument("--first-chunk", type=int, default=0, help="go on in the data after another run")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--warm", type=int, default=200)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument(
        "--base-weight", type=float, default=0.08, help="loss weight of tokens outside the answers"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=int, default=0, help="profile three steps from this one on")
    parser.add_argument("--report", type=int, default=250)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
