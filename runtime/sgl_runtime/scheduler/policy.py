"""In which order waiting sequences are admitted. Plain data in, an order out; nothing here knows pages or tensors.

`tree`, the default, walks the request trees depth first:

1. who has waited for more than `max_wait` steps, oldest first, so that nothing starves;
2. higher priority first;
3. programs that have begun before new ones, the oldest first: finishing what is begun keeps little alive. Inside a
   program what a join waits for comes first, then depth first along the branches, which keeps fork siblings together;
4. new programs by the longest cached prefix, then by arrival. So all that share a prefix come one after the other
   while it is hot, which is the depth-first walk over the prefixes of all programs.

The baselines are `lpm` (longest cached prefix first, then arrival) and `fcfs` (arrival), both with priorities and no
ageing, as engines have them that do not know programs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args

__all__ = ["Candidate", "Policy", "Queue", "order"]

Policy = Literal["tree", "lpm", "fcfs"]
Key = tuple[object, ...]
Item = TypeVar("Item")


@dataclass(eq=False, slots=True)
class Candidate(Generic[Item]):
    """A sequence that waits to be admitted.

    `arrival`: the number of its program, in order of arrival. `since`: the step at which it began to wait. `path`: the
    places of its branch and of those above it among their siblings, from the root. `started`: its program has run
    before. `critical`: a join waits for it. `cached`: tokens of it that are cached now.
    """

    item: Item
    arrival: int
    since: int = 0
    path: tuple[int, ...] = ()
    priority: int = 0
    started: bool = False
    critical: bool = False
    cached: int = 0
    position: int = -1
    """Its place in the order when that was made last, counted from the first sequence ever admitted."""
    key: Key = field(default=())


def _tree_key(candidate: Candidate[Any], step: int, max_wait: int) -> Key:
    if step - candidate.since > max_wait:
        return (0, candidate.since, candidate.arrival, candidate.path)
    if candidate.started:
        return (1, -candidate.priority, 0, candidate.arrival, not candidate.critical, candidate.path)
    return (1, -candidate.priority, 1, -candidate.cached, candidate.arrival, candidate.path)


def _lpm_key(candidate: Candidate[Any], step: int, max_wait: int) -> Key:
    return (-candidate.priority, -candidate.cached, candidate.arrival, candidate.path)


def _fcfs_key(candidate: Candidate[Any], step: int, max_wait: int) -> Key:
    return (-candidate.priority, candidate.arrival, candidate.path)


_KEYS: dict[str, Callable[[Candidate[Any], int, int], Key]] = {
    "tree": _tree_key,
    "lpm": _lpm_key,
    "fcfs": _fcfs_key,
}


def order(
    candidates: Sequence[Candidate[Item]], policy: Policy = "tree", *, step: int = 0, max_wait: int = 512
) -> list[Candidate[Item]]:
    """`candidates` in the order in which they should be admitted at `step`. The same input gives the same order."""
    make = _KEYS[policy]
    return sorted(candidates, key=lambda candidate: make(candidate, step, max_wait))


class Queue(Generic[Item]):
    """The waiting sequences, kept in order at a bounded cost per step.

    `refresh` tells a candidate's `cached` anew (None: it does not change). A full ordering of n candidates is made at
    most every `n / window` steps; in between, new ones are put where they belong, so a step pays for about `window`
    of them whatever n is. With up to `window` candidates the order is always exact.
    """

    def __init__(
        self,
        policy: Policy = "tree",
        *,
        max_wait: int = 512,
        window: int = 256,
        refresh: Callable[[Candidate[Item]], int] | None = None,
    ) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"unknown policy {policy!r}; known: {', '.join(get_args(Policy))}")
        self.policy: Policy = policy
        self.max_wait = max_wait
        self.window = window
        self._refresh = refresh
        self._make = _KEYS[policy]
        self._members: dict[Candidate[Item], None] = {}
        self._sorted: list[Candidate[Item]] = []  # with some that have left
        self._ordered_at = -1
        self._left = 0
        """Candidates admitted so far."""

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, candidate: Candidate[Item]) -> bool:
        return candidate in self._members

    def add(self, candidate: Candidate[Item], step: int) -> int:
        """`candidate` waits from now on; its place in the order."""
        self._members[candidate] = None
        if self._refresh is not None:
            candidate.cached = self._refresh(candidate)
        candidate.key = self._make(candidate, step, self.max_wait)
        at = bisect_right(self._sorted, candidate.key, key=lambda other: other.key)
        self._sorted.insert(at, candidate)
        candidate.position = self._left + at
        return candidate.position

    def remove(self, candidate: Candidate[Item], *, admitted: bool = True) -> None:
        """`candidate` was `admitted` (or cancelled)."""
        del self._members[candidate]
        self._left += admitted

    def in_order(self, step: int) -> Iterator[Candidate[Item]]:
        """The candidates in order. They may be removed while one iterates; a new one is seen the next time."""
        if self._ordered_at < 0 or (step - self._ordered_at) * self.window >= len(self._members):
            self._reorder(step)
        for candidate in list(self._sorted) if len(self._members) <= self.window else self._sorted:
            if candidate in self._members:
                yield candidate

    def positions(self) -> Iterator[tuple[Candidate[Item], int]]:
        """Those whose place in the order changed notably since the last call, with the new place.

        Places are counted from the first sequence ever admitted, so that nothing changes for those who only move up
        because others were admitted.
        """
        place = self._left
        for candidate in self._sorted:
            if candidate in self._members:
                if abs(place - candidate.position) > (place - self._left) // 8 or candidate.position < 0:
                    candidate.position = place
                    yield candidate, place
                place += 1

    def _reorder(self, step: int) -> None:
        self._ordered_at = step
        refresh, make = self._refresh, self._make
        for candidate in self._members:
            if refresh is not None:
                candidate.cached = refresh(candidate)
            candidate.key = make(candidate, step, self.max_wait)
        self._sorted = sorted(self._members, key=lambda candidate: candidate.key)
