"""Decimal numbers in ranges, as automata over their JSON text."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from sgl_grammars.automaton import combine
from sgl_grammars.automaton.dfa import Dfa
from sgl_grammars.automaton.limits import Budget, NotRegular
from sgl_grammars.automaton.regex import compile_pattern

__all__ = ["integers", "multiples", "numbers"]

_INTEGER = "-?(0|[1-9][0-9]*)"
_NUMBER = _INTEGER + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_LONGEST = 40  # digits of a bound


def integers(low: int | None, high: int | None, budget: Budget) -> Dfa:
    """Integers from `low` to `high`, both included (None: no bound), without fraction and exponent; ``-0`` is 0."""
    if low is None and high is None:
        return compile_pattern(_INTEGER, budget)
    if any(bound is not None and len(str(abs(bound))) > _LONGEST for bound in (low, high)):
        raise NotRegular(f"a bound of more than {_LONGEST} digits")
    parts = []
    positive = _naturals(max(low or 0, 0), high)
    if positive:
        parts.append(positive)
    if low is None or low <= 0:
        least = max(-high, 0) if high is not None else 0
        negative = _naturals(least, None if low is None else -low)
        parts += [f"-({negative})"] if negative else []
    return compile_pattern("|".join(parts), budget) if parts else combine.NOTHING


def _naturals(low: int, high: int | None) -> str:
    """A pattern for the decimal numbers from `low` to `high`, without leading zeros; "" if there are none."""
    if high is not None and high < low:
        return ""
    text = str(low)
    parts = []
    if high is None:
        nines = "9" * len(text)
        parts.append(_same_length(text, nines))
        parts.append(f"[1-9][0-9]{{{len(text)},}}")
        return "|".join(parts)
    for length in range(len(text), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts.append(_same_length(str(first), str(min(high, 10**length - 1))))
    return "|".join(parts)


def _same_length(low: str, high: str) -> str:
    """A pattern for the digit strings from `low` to `high`, which are equally long."""
    if low == high:
        return low
    if len(low) == 1:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return low[0] + _group(_same_length(low[1:], high[1:]))
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != "0" * rest:
        parts.append(low[0] + _group(_same_length(low[1:], "9" * rest)))
        first += 1
    above = None
    if high[1:] != "9" * rest:
        above = high[0] + _group(_same_length("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}][0-9]{{{rest}}}")
    return "|".join([*parts, above] if above else parts)


def _group(pattern: str) -> str:
    return f"({pattern})" if "|" in pattern else pattern


def numbers(
    low: Decimal | None,
    high: Decimal | None,
    budget: Budget,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Dfa:
    """Numbers from `low` to `high`. Without bounds every JSON number; with bounds those without an exponent."""
    if low is None and high is None:
        return compile_pattern(_NUMBER, budget)
    parts = []
    plus_low = max(low, Decimal(0)) if low is not None else Decimal(0)
    if high is None or high > 0 or (high == 0 and not open_high):
        parts.append(
            _magnitudes(plus_low, high, open_low and low is not None and low >= 0, open_high, budget)
        )
    if low is None or low < 0 or (low == 0 and not open_low):
        least = -high if high is not None and high < 0 else Decimal(0)
        most = None if low is None else -low
        excluded = open_high and high is not None and high <= 0
        negative = _magnitudes(least, most, excluded, open_low, budget)
        parts.append(combine.concat([combine.literal(b"-"), negative], budget))
    return combine.union(parts, budget)


def _magnitudes(low: Decimal, high: Decimal | None, open_low: bool, open_high: bool, budget: Budget) -> Dfa:
    """Decimals without sign and exponent from `low` >= 0 to `high`: all but the smaller and the larger ones."""
    everything = compile_pattern(r"(0|[1-9][0-9]*)(\.[0-9]+)?", budget)
    found = everything
    if low > 0 or open_low:
        found = combine.difference(found, _at_most(low, not open_low, budget), budget)
    if high is not None:
        found = combine.intersection(found, _at_most(high, open_high, budget), budget)
    return found


def _at_most(bound: Decimal, strictly: bool, budget: Budget) -> Dfa:
    """Decimals without sign and exponent below `bound` >= 0, and (unless `strictly`) the bound itself."""
    text = format(bound, "f")
    if len(text) > 2 * _LONGEST:
        raise NotRegular(f"a bound of more than {2 * _LONGEST} digits")
    whole, _, fraction = text.partition(".")
    whole, fraction = str(int(whole)), fraction.rstrip("0")
    parts = []
    if int(whole) > 0:
        parts.append(f"({_naturals(0, int(whole) - 1)})(\\.[0-9]+)?")
    for index, digit in enumerate(fraction):
        if digit != "0":
            parts.append(f"{whole}\\.{fraction[:index]}[0-{int(digit) - 1}][0-9]*")
        if index:
            parts.append(f"{whole}\\.{fraction[:index]}")  # a shorter prefix of the fraction is smaller
    if fraction:
        parts.append(whole)
    if not strictly:
        parts.append(f"{whole}\\.{fraction}0*" if fraction else f"{whole}(\\.0+)?")
    if not parts:
        return combine.NOTHING
    return compile_pattern("|".join(parts), budget)


def multiples(divisor: int, budget: Budget) -> Dfa:
    """Integers that `divisor` > 0 divides, by long division: one state per remainder."""
    budget.states(divisor + 2)
    table = np.zeros((divisor + 2, 256), dtype=np.int32)
    remainders = np.arange(divisor)
    for digit in range(10):
        table[remainders + 1, ord("0") + digit] = (10 * remainders + digit) % divisor + 1
    start = divisor + 1  # before the first digit
    table[start] = table[1]
    accepting = np.zeros(divisor + 2, dtype=bool)
    accepting[1] = True
    digits = Dfa(table, accepting, start)
    return combine.intersection(
        combine.concat([compile_pattern("-?", budget), digits], budget), integers(None, None, budget), budget
    )
