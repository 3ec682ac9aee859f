"""Closed objects with properties in a fixed order, some of them optional.

After a property any of the next ones may come, up to and with the next required one. Their keys form a small trie; a
node of it is known by the properties that are still possible, so the tries after different properties share nearly all
of their nodes and the automaton stays linear in the text of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgl_grammars.automaton.dfa import Dfa, Ints
from sgl_grammars.automaton.limits import Budget, NotRegular

__all__ = ["Property", "object_dfa"]

_LONGEST_SHARED = 400


@dataclass(frozen=True)
class Property:
    """`key`: the name in quotes with the colon after it; `value`: never the empty text."""

    key: bytes
    value: Dfa
    required: bool


def object_dfa(members: Sequence[Property], begin: bytes, between: bytes, end: bytes, budget: Budget) -> Dfa:
    """``begin``, the members that are there with `between` between them, ``end``; ``{}`` if there is none."""
    work = _Assembly(members, between, budget)
    last = work.chain(end, work.final)
    after = np.zeros(256, dtype=np.int32)
    for index in range(len(members) - 1, -1, -1):
        following = work.candidates(index + 1)
        after = work.choices(following, work.between)
        if not any(member.required for member in members[index + 1 :]):
            after[end[0]] = last[end[0]]
        work.embed(index, after)
    row = work.choices(work.candidates(0), begin[1:])
    if not any(member.required for member in members):
        row[ord("}")] = work.final
    start = work.state(work.chain_to_row(begin[:1], row))
    return work.finish(start)


class _Assembly:
    """States that are added from the end of the text to its beginning. State 1 is the final one."""

    final = 1

    def __init__(self, members: Sequence[Property], between: bytes, budget: Budget) -> None:
        self.members = members
        self.between = between
        self.budget = budget
        self.blocks: list[Ints] = [np.zeros((2, 256), dtype=np.int32)]
        self.size = 2
        self.starts = [0] * len(members)
        self.nodes: dict[tuple[bytes, int, tuple[int, ...]], int] = {}

    def state(self, row: Ints) -> int:
        self.blocks.append(row[None])
        self.size += 1
        if self.size % 256 == 0:
            self.budget.states(self.size)
        return self.size - 1

    def chain_to_row(self, text: bytes, row: Ints) -> Ints:
        """A row from which `text` leads to a state that goes on as `row`."""
        target = self.state(row)
        return self.chain(text, target)

    def chain(self, text: bytes, target: int) -> Ints:
        """A row from which `text` (not empty) leads to `target`."""
        row = np.zeros(256, dtype=np.int32)
        row[text[-1]] = target
        for byte in reversed(text[:-1]):
            target = self.state(row)
            row = np.zeros(256, dtype=np.int32)
            row[byte] = target
        return row

    def embed(self, index: int, after: Ints) -> None:
        """Copy the automaton of a member's value; where it may end, the text goes on as `after` says."""
        value = self.members[index].value
        offset = self.size - 1
        block = value.table[1:] + (value.table[1:] != 0) * np.int32(offset)
        ends = np.flatnonzero(value.accepting[1:])
        if ((block[ends] != 0) & (after != 0)).any():
            raise NotRegular("a value whose end cannot be told from what follows it")
        block[ends] += after
        self.blocks.append(block)
        self.size += len(block)
        self.budget.states(self.size)
        self.starts[index] = offset + value.start

    def candidates(self, first: int) -> tuple[int, ...]:
        """The members that may come next when those before `first` are done with."""
        found = []
        for index in range(first, len(self.members)):
            found.append(index)
            if self.members[index].required:
                break
        return tuple(found)

    def choices(self, candidates: tuple[int, ...], lead: bytes) -> Ints:
        """A row from which `lead` and a candidate's key lead to its value."""
        if not candidates:
            return np.zeros(256, dtype=np.int32)
        return self._node(lead, 0, candidates)

    def _node(self, lead: bytes, depth: int, candidates: tuple[int, ...]) -> Ints:
        """The row after `depth` bytes that all `candidates` have in common."""
        if len(candidates) == 1:
            text = (lead + self.members[candidates[0]].key)[depth:]
            return self._tail(lead, depth, candidates[0], text)
        if depth > _LONGEST_SHARED:
            raise NotRegular("property names with a very long common beginning")
        row = np.zeros(256, dtype=np.int32)
        groups: dict[int, list[int]] = {}
        for index in candidates:
            groups.setdefault((lead + self.members[index].key)[depth], []).append(index)
        for byte, group in groups.items():
            row[byte] = self._target(lead, depth + 1, tuple(group))
        return row

    def _target(self, lead: bytes, depth: int, group: tuple[int, ...]) -> int:
        key = (lead, depth, group)
        if key not in self.nodes:
            if len(group) == 1 and depth == len(lead) + len(self.members[group[0]].key):
                return self.starts[group[0]]
            self.nodes[key] = self.state(self._node(lead, depth, group))
        return self.nodes[key]

    def _tail(self, lead: bytes, depth: int, index: int, text: bytes) -> Ints:
        """The row before the last bytes of one key; its states are remembered as `_target` would."""
        target = self.starts[index]
        whole = depth + len(text)
        for position in range(len(text) - 1, -1, -1):
            row = np.zeros(256, dtype=np.int32)
            row[text[position]] = target
            if position == 0:
                return row
            key = (lead, depth + position, (index,))
            if key not in self.nodes:
                self.nodes[key] = self.state(row)
            target = self.nodes[key]
        raise AssertionError(f"a key without text at {whole}")

    def finish(self, start: int) -> Dfa:
        self.budget.states(self.size)
        accepting = np.zeros(self.size, dtype=bool)
        accepting[self.final] = True
        return Dfa(np.concatenate(self.blocks), accepting, start)
