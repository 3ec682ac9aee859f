"""Ways to go on that are more than one branch: first of several, best of several, map, repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sgl_lang.errors import InvalidRequest
from sgl_lang.tree import BranchDone, Failed

if TYPE_CHECKING:
    from sgl_lang.expr import Piece
    from sgl_lang.state import ForkGroup, ProgramState

T = TypeVar("T")
R = TypeVar("R")


def first(group: ForkGroup, parent: ProgramState, count: int, timeout: float | None) -> list[ProgramState]:
    """See `ForkGroup.first`."""
    if not 1 <= count <= len(group):
        raise InvalidRequest(f"must be between 1 and {len(group)}, got {count!r}", place="first(k)")
    states = {state.branch: state for state in group}
    parent.add_join(list(group), "gather", count)
    execution = parent.execution
    execution.flush()

    def done() -> list[int]:
        return [
            event.branch
            for _, event in list(execution.events)
            if isinstance(event, BranchDone) and event.branch in states
        ]

    def failed() -> int:
        return len(
            {
                event.branch
                for _, event in list(execution.events)
                if isinstance(event, Failed) and event.branch in states
            }
        )

    execution.wait_until(
        lambda: len(done()) >= count or failed() > len(states) - count or execution.done, timeout
    )
    winners = [states[branch] for branch in done()[:count]]
    if len(winners) < count:
        for state in group:
            state.sync()  # raises what failed
    parent.gather_variables(winners)
    return winners


def map_items(
    state: ProgramState, items: Iterable[T], body: Callable[[ProgramState, T], R], parallel: int
) -> tuple[ForkGroup, list[R]]:
    """See `ProgramState.map`."""
    values = list(items)
    if not values:
        raise InvalidRequest("there is nothing to map over", place="map(items)")
    group = state.fork(len(values))
    if parallel <= 1:
        return group, [body(child, value) for child, value in zip(group, values, strict=True)]
    with ThreadPoolExecutor(min(parallel, len(values)), thread_name_prefix="sgl map") as pool:
        return group, list(pool.map(body, group, values))


def best_of(
    state: ProgramState, count: int, piece: Piece, score: Callable[[ProgramState], float]
) -> ProgramState:
    """See `ProgramState.best_of`."""
    group = state.fork(count)
    group += piece
    state.flush()
    scores = [score(child) for child in group]
    best = group[scores.index(max(scores))]
    for child in group:
        if child is not best:
            child.cancel()
    state.join_concatenate([best])
    state.adopt_variables(best)
    return best


def repeat(limit: int, until: Callable[[], bool] | None) -> Iterator[int]:
    """See `ProgramState.repeat`."""
    if limit < 1:
        raise InvalidRequest(f"must be at least 1, got {limit!r}", place="repeat(limit)")
    for step in range(limit):
        yield step
        if until is not None and until():
            return
