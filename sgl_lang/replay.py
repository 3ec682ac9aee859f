"""Run a request tree that was compiled or stored before, without the program that made it."""

from __future__ import annotations

from typing import Any

from sgl_lang import passes
from sgl_lang.backends.default import get_default_backend
from sgl_lang.execution import Execution
from sgl_lang.options import RunOptions
from sgl_lang.refs import Ref
from sgl_lang.state import Mark, ProgramState
from sgl_lang.tree import (
    ROOT,
    BranchId,
    Chat,
    End,
    Extend,
    Fork,
    Gen,
    Hole,
    Join,
    Node,
    RequestTree,
    RoleBegin,
    RoleEnd,
    Select,
    Text,
    Value,
)
from sgl_lang.types import TEXT

__all__ = ["run_tree"]


def run_tree(tree: RequestTree, *, optimise: bool = True, **options: Any) -> ProgramState:
    """Run `tree`; the state has its text and, by name, its values as text (types are not part of a tree).

    Options are those of `run`; the tree's own options hold unless they are given. `optimise` applies the passes of
    `sgl_lang.passes`. Raises what failed.
    """
    run_options = _options(tree).with_keywords(options)
    execution = Execution(run_options.backend or get_default_backend(), run_options, "tree")
    state = ProgramState(execution)
    try:
        _Replay(state).play(passes.optimise(tree) if optimise else tree)
        execution.end()
        execution.wait_done()
    except BaseException:
        execution.cancel()
        raise
    execution.raise_unseen()
    return state


def _options(tree: RequestTree) -> RunOptions:
    known = tree.options
    return RunOptions(
        deadline_s=known.deadline_s,
        budget_tokens=known.max_tokens,
        priority=known.priority,
        namespace=known.namespace,
        stream=known.stream,
        trace=known.trace,
    )


class _Replay:
    """Feeds the operations of a tree to an execution, and keeps the states of its branches as a program would."""

    def __init__(self, root: ProgramState) -> None:
        self._states: dict[BranchId, ProgramState] = {ROOT: root}
        self._execution = root.execution

    def play(self, tree: RequestTree) -> None:
        for operation in tree.operations:
            if isinstance(operation, Extend):
                for node in operation.nodes:
                    self._execution.adopt(operation.branch, node)
                    self._note(self._states[operation.branch], node)
            elif isinstance(operation, Fork):
                self._execution.adopt_fork(operation)
                parent = self._states[operation.branch]
                self._states.update({child: parent._child(child) for child in operation.children})
            elif not (isinstance(operation, End) and operation.branch is None):
                self._execution.do(operation)

    def _note(self, state: ProgramState, node: Node) -> None:
        if isinstance(node, Text):
            state._items.append(node.text)
        elif isinstance(node, (Gen, Select, Hole)):
            state._items.append(node.id)
            if node.name is not None:
                state[node.name] = Ref(self._execution, node.id, node.name, TEXT)
        elif isinstance(node, Value):
            state._items.append(node.of)
        elif isinstance(node, RoleBegin):
            state._items.append(Mark(node.role))
        elif isinstance(node, RoleEnd):
            state._items.append(Mark(None))
        elif isinstance(node, Chat):
            state._items.append(node.messages)
        elif isinstance(node, Join):
            self._joined(state, [self._states[branch] for branch in node.branches], node.mode)

    def _joined(self, state: ProgramState, children: list[ProgramState], mode: str) -> None:
        if mode == "concatenate":
            for child in children:
                state._items += child._items[child._base :]
        state.gather_variables(children)
