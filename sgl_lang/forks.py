"""The branches of a fork as a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from sgl_lang import control
from sgl_lang.errors import InvalidRequest, ProgramError
from sgl_lang.expr import Handle, Piece
from sgl_lang.places import caller
from sgl_lang.refs import Ref, Span

if TYPE_CHECKING:
    from sgl_lang.state import ProgramState

__all__ = ["ForkGroup", "JoinMode"]

T = TypeVar("T")
JoinMode = Literal["gather", "concatenate", "gather_variable", "concate_and_append"]
_JOIN_MODES = {"gather_variable": "gather", "concate_and_append": "concatenate"}


class ForkGroup(Sequence["ProgramState"]):
    """The branches of a fork, in order."""

    def __init__(self, parent: ProgramState, states: list[ProgramState]) -> None:
        self._parent = parent
        self._states = states

    @overload
    def __getitem__(self, at: int) -> ProgramState: ...
    @overload
    def __getitem__(self, at: slice) -> list[ProgramState]: ...
    def __getitem__(self, at: int | slice) -> ProgramState | list[ProgramState]:
        return self._states[at]

    def __setitem__(self, at: int, state: ProgramState) -> None:
        if state is not self._states[at]:  # `forks[i] += x` assigns the same state back
            raise ProgramError("a branch of a fork cannot be replaced", place=str(caller()))

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self._states)

    def __iadd__(self, piece: Piece | Callable[[int], Piece] | list[Piece]) -> ForkGroup:
        """Append to every branch: the same piece, `piece(i)`, or the i-th of a list."""
        if type(piece) is list:
            if len(piece) != len(self._states):
                raise ProgramError(
                    f"{len(piece)} pieces for {len(self._states)} branches", place=str(caller())
                )
            pieces = piece
        elif type(piece) not in (Ref, Span) and callable(piece):
            pieces = [piece(at) for at in range(len(self._states))]
        else:
            pieces = [piece] * len(self._states)
        for state, item in zip(self._states, pieces, strict=True):
            state.append(item)
        return self

    def join(self, mode: JoinMode = "gather") -> ProgramState:
        """End the branches and go on with the parent, which is returned.

        ``gather``: variables that the branches defined become lists in the parent. ``concatenate``: what each
        branch said after the fork is appended to the parent, in order; variables too, as lists.
        """
        wanted = _JOIN_MODES.get(mode, mode)
        if wanted not in ("gather", "concatenate"):
            raise InvalidRequest(f"{mode!r} is neither gather nor concatenate", place="join(mode)")
        if wanted == "concatenate":
            self._parent.join_concatenate(self._states)
        else:
            self._parent.add_join(self._states, "gather")
        self._parent.gather_variables(self._states)
        return self._parent

    def first(self, count: int, timeout: float | None = None) -> list[ProgramState]:
        """Wait for the first `count` branches to be done, cancel the others, and go on with the parent.

        The branches that were done first are returned; their variables become lists in the parent.
        """
        return control.first(self, self._parent, count, timeout)

    def values(self, key: str | Handle[T]) -> list[Any]:
        """The value of `key` on every branch, in order, waiting for them."""
        return [state.get(key) for state in self._states]

    def cancel(self) -> None:
        """Stop all branches."""
        for state in self._states:
            state.cancel()
