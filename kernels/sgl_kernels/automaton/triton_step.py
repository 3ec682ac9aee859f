# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN202
"""A constrained step in one Triton launch: one program per row, which goes over its logits a few times.

Plain rows are read twice (largest logit and mass; then the draw), greedy rows once. top-k and top-p look for the
smallest logit that is kept by bisection over the ordered bit patterns of floats, so they are exact and need no sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from sgl_kernels.automaton import Automata, Rows

__all__ = ["step"]

_BLOCK = 4096


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _masked(logits, class_of, table, held, at, size):
    """One block of logits, -inf where the token may not come; `table` is the row's state in the next-table.

    `held`: how many tokens the automaton speaks about: all (`size`), or none in free rows.
    """
    x = tl.load(logits + at, mask=at < size, other=float("-inf"))
    token_class = tl.load(class_of + at, mask=at < held, other=0)
    following = tl.load(table + token_class, mask=at < held, other=1)
    return tl.where(following != 0, x, float("-inf"))


@triton.jit
def _ordered(x):
    """int32 in the order of the floats."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _tally(logits, class_of, table, held, size, peak, heat, cut, least, BLOCK: tl.constexpr):  # noqa: N803
    """(how many, mass) of the tokens whose ordered logit is at least `cut` and whose weight at least `least`."""
    count = tl.zeros([], dtype=tl.int32)
    mass = tl.zeros([], dtype=tl.float32)
    for begin in range(0, size, BLOCK):
        x = _masked(logits, class_of, table, held, begin + tl.arange(0, BLOCK), size)
        weight = tl.exp((x - peak) / heat)
        inside = (x > float("-inf")) & (_ordered(x) >= cut) & (weight >= least)
        count += tl.sum(inside.to(tl.int32))
        mass += tl.sum(tl.where(inside, weight, 0.0))
    return count, mass


@triton.jit
def _step(
    logits_all,
    stride,
    size,
    class_of_all,
    next_all,
    offset,
    classes,
    automaton,
    state,
    temperature,
    top_k,
    top_p,
    min_p,
    seed,
    counter,
    tokens,
    good,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    logits = logits_all + row.to(tl.int64) * stride
    which = tl.load(automaton + row)
    held = tl.where(which >= 0, size, 0)
    which = tl.maximum(which, 0).to(tl.int64)
    class_of = class_of_all + which * size
    now = tl.load(state + row)
    table = next_all + tl.load(offset + which) + now.to(tl.int64) * tl.load(classes + which)
    heat = tl.load(temperature + row)

    peak = tl.full([], float("-inf"), dtype=tl.float32)
    best = tl.zeros([], dtype=tl.int32)
    broken = tl.zeros([], dtype=tl.int32)
    for begin in range(0, size, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        x = _masked(logits, class_of, table, held, at, size)
        broken += tl.sum((x != x).to(tl.int32))
        here = tl.max(tl.where(x == x, x, float("-inf")))
        if here > peak:
            peak = here
            best = tl.min(tl.where(x == here, at, size))
    fine = (broken == 0) & (peak > float("-inf")) & (peak < float("inf"))

    if fine & (heat > 0.0):
        least = tl.load(min_p + row)
        cut = tl.full([], -0x80000000, dtype=tl.int32)
        # The largest cut that keeps enough, between `low` (keeps enough) and `high` (does not).
        wanted_count = tl.load(top_k + row)
        if wanted_count > 0:
            low = cut.to(tl.int64)
            high = _ordered(peak).to(tl.int64) + 1
            while high - low > 1:
                middle = (low + high) >> 1
                count, _unused_mass = _tally(
                    logits, class_of, table, held, size, peak, heat, middle.to(tl.int32), 0.0, BLOCK
                )
                enough = count >= wanted_count
                low = tl.where(enough, middle, low)
                high = tl.where(enough, high, middle)
            cut = low.to(tl.int32)
        share = tl.load(top_p + row)
        if share < 1.0:
            _unused_whole, whole = _tally(logits, class_of, table, held, size, peak, heat, cut, 0.0, BLOCK)
            low = cut.to(tl.int64)
            high = _ordered(peak).to(tl.int64) + 1
            while high - low > 1:
                middle = (low + high) >> 1
                _unused_count, share_mass = _tally(
                    logits, class_of, table, held, size, peak, heat, middle.to(tl.int32), 0.0, BLOCK
                )
                enough = share_mass >= share * whole
                low = tl.where(enough, middle, low)
                high = tl.where(enough, high, middle)
            cut = low.to(tl.int32)
        _unused_total, total = _tally(logits, class_of, table, held, size, peak, heat, cut, least, BLOCK)

        key = _mix(tl.load(seed + row).to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15)
        place = (tl.load(counter + row) + 1).to(tl.uint64, bitcast=True)
        bits = _mix(key + place * 0x9E3779B97F4A7C15)
        target = (bits >> 40).to(tl.float32) * (1.0 / 16777216.0) * total

        # blocks: ... | passed, `mass` in all | the block where the mass passes the target | ...
        mass = tl.zeros([], dtype=tl.float32)
        found = tl.full([], -1, dtype=tl.int32)
        last = best
        for begin in range(0, size, BLOCK):
            if found < 0:
                at = begin + tl.arange(0, BLOCK)
                x = _masked(logits, class_of, table, held, at, size)
                weight = tl.exp((x - peak) / heat)
                inside = (x > float("-inf")) & (_ordered(x) >= cut) & (weight >= least) & (weight > 0.0)
                weight = tl.where(inside, weight, 0.0)
                here = tl.sum(weight)
                if here > 0.0:
                    last = tl.max(tl.where(inside, at, 0))
                    if mass + here > target:
                        passed = inside & (mass + tl.cumsum(weight, 0) > target)
                        first = tl.min(tl.where(passed, at, size))
                        found = tl.minimum(first, last)
                mass += here
        best = tl.where(found >= 0, found, last)

    token = tl.where(fine, best, 0)
    if fine & (held > 0):
        token_class = tl.load(class_of + token)
        tl.store(state + row, tl.load(table + token_class))
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(good + row, fine.to(tl.int8))
    tl.store(counter + row, tl.load(counter + row) + 1)


def step(logits: torch.Tensor, automata: Automata, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sgl_kernels.automaton.step`."""
    count, size = logits.shape
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    good = torch.empty(count, dtype=torch.int8, device=logits.device)
    if count:
        _step[(count,)](
            logits,
            logits.stride(0),
            size,
            automata.class_of,
            automata.next,
            automata.offset,
            automata.classes,
            rows.automaton,
            rows.state,
            rows.temperature,
            rows.top_k,
            rows.top_p,
            rows.min_p,
            rows.seed,
            rows.counter,
            tokens,
            good,
            BLOCK=min(_BLOCK, triton.next_power_of_2(size)),
            num_warps=8,
        )
    return tokens, good.bool()
