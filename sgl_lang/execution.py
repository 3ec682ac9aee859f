"""One run of a program, seen from the client: the operations it asked for, and what came back.

Operations are collected and sent in one piece as soon as a value is needed, or at the end: between two waits
the engine gets everything at once. Ids are made here, so nothing waits for an answer.

Locks: `_cond` guards the data and is never held while sending; `_sending` keeps the order of what is sent.
The listener takes `_cond` only.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sgl_grammars.tools import FORMATS, ToolFormat
from sgl_lang import refs
from sgl_lang.backends.base import THINK_MARKS
from sgl_lang.errors import (
    BudgetExceeded,
    Cancelled,
    DeadlineExceeded,
    NotStatic,
    ProgramError,
    SglError,
    UnsupportedFeature,
)
from sgl_lang.options import DEFAULT_WAIT_S, RunOptions
from sgl_lang.places import NOWHERE, Place, caller
from sgl_lang.tree import (
    ROOT,
    BranchId,
    Cancel,
    Delta,
    End,
    ErrorInfo,
    Event,
    Extend,
    Failed,
    Fill,
    Finished,
    Fork,
    Join,
    Node,
    NodeId,
    Operation,
    Ready,
    RequestTree,
    Text,
    Usage,
    Value,
)

if TYPE_CHECKING:
    from sgl_lang.backends.base import Backend, Session
    from sgl_lang.types import TypeForm

T = TypeVar("T")
_MISSING: Any = object()


class Execution:
    """The book of one run. `backend` None: only the tree is built (`compile`)."""

    def __init__(self, backend: Backend | None, options: RunOptions, name: str = "program") -> None:
        self.options = options
        self.name = name
        self.backend = backend
        self.key = refs.new_key(self)
        self.tracing = options.lazy_format
        self.operations: list[Operation] = []
        self.places: dict[NodeId, Place] = {}
        self.branch_of: dict[NodeId, BranchId] = {}
        self.parents: dict[BranchId, tuple[BranchId, NodeId]] = {}
        self.ready: dict[NodeId, Ready] = {}
        self.partial: dict[NodeId, str] = {}
        self.events: list[tuple[float, Event]] = []
        self.usage: Usage | None = None
        self.cost = 0.0
        self.loop_thread: int | None = None
        self.before_wait: Callable[[], None] | None = None
        self._forms: dict[NodeId, TypeForm[Any]] = {}
        self._values: dict[NodeId, Any] = {}
        self._errors: dict[NodeId, ErrorInfo] = {}
        self._branch_errors: dict[BranchId, tuple[ErrorInfo, NodeId | None]] = {}
        self._dependents: dict[NodeId, list[BranchId]] = {}
        self._joiners: dict[BranchId, list[BranchId]] = {}
        self._program_error: ErrorInfo | None = None
        self._seen: set[NodeId | None] = set()
        self._failure: BaseException | None = None
        self._cancelled = False
        self._done = False
        self._ended = False
        self._callbacks: list[Callable[[], None]] = []
        self._open: tuple[BranchId, list[Node]] | None = None
        self._sent = 0
        self._node_ids = itertools.count()
        self._highest = -1
        self._next_branch = ROOT + 1
        self._cond = threading.Condition()
        self._sending = threading.RLock()
        self._session: Session | None = None
        self.started = time.monotonic()

    # ------------------------------------------------------------------------------------------ asking

    @property
    def static(self) -> bool:
        return self.backend is None

    def new_node(self) -> NodeId:
        return next(self._node_ids)

    def add(self, branch: BranchId, node: Node) -> None:
        """Append a node to a branch; sent later."""
        if self.backend is not None:
            self.backend.capabilities.check(node)
        with self._cond:
            self._check_open()
            if self._open is None or self._open[0] != branch:
                self._close_extend()
                self._open = (branch, [])
            nodes = self._open[1]
            if self.options.merge_text and _merges(nodes, node):
                nodes[-1] = Text(id=nodes[-1].id, text=nodes[-1].text + node.text)  # type: ignore[union-attr]
                return
            nodes.append(node)
            self.places[node.id] = caller()
            self.branch_of[node.id] = branch
            self._highest = max(self._highest, node.id)
            self._note_dependence(branch, node)

    def _note_dependence(self, branch: BranchId, node: Node) -> None:
        if isinstance(node, Value):
            self._dependents.setdefault(node.of, []).append(branch)
        elif isinstance(node, Join):
            for child in node.branches:
                self._joiners.setdefault(child, []).append(branch)

    def do(self, operation: Operation) -> None:
        """Any operation other than `Extend`; sent later."""
        with self._cond:
            self._check_open()
            self._close_extend()
            self.operations.append(operation)

    def fork(self, branch: BranchId, count: int) -> tuple[BranchId, ...]:
        with self._cond:
            children = tuple(range(self._next_branch, self._next_branch + count))
            self._next_branch += count
            fork_at = self._highest + 1
            self.parents.update(dict.fromkeys(children, (branch, fork_at)))
            self.do(Fork(branch=branch, children=children))
        return children

    def adopt(self, branch: BranchId, node: Node) -> None:
        """Append a node that has its id already."""
        self._node_ids = itertools.count(node.id + 1)
        self.add(branch, node)

    def adopt_fork(self, operation: Fork) -> None:
        """Append a fork whose children have their ids already."""
        self._next_branch = max(self._next_branch, *operation.children) + 1
        fork_at = self._highest + 1
        self.parents.update(dict.fromkeys(operation.children, (operation.branch, fork_at)))
        self.do(operation)

    def fill(self, node: NodeId, text: str) -> None:
        """Give a hole its text, at once."""
        with self._cond:
            self.ready[node] = Ready(branch=self.branch_of[node], node=node, text=text)
        self.do(Fill(node=node, text=text))
        self.flush()

    def _check_open(self) -> None:
        if self._ended:
            if self._program_error is not None:
                self._seen.add(None)
                raise self._located(self._program_error, None, None)
            raise ProgramError(f"{self.name} has ended; nothing can be added", place=str(caller()))

    def _close_extend(self) -> None:
        if self._open is not None and self._open[1]:
            self.operations.append(Extend(branch=self._open[0], nodes=tuple(self._open[1])))
        self._open = None

    def flush(self) -> None:
        """Send what is collected."""
        if self.backend is None:
            self.changed()
            return
        with self._sending:
            with self._cond:
                self._close_extend()
                operations = self.operations[self._sent :]
                self._sent = len(self.operations)
                if self._done or self._cancelled:
                    return
            if self._session is None:
                self._session = self.backend.open(self.options.program_options(), self.on_event)
            if operations:
                self._session.send(operations)
        self.changed()

    def end(self) -> None:
        """The function has returned: nothing more comes."""
        with self._cond:
            if self._ended:
                return
            self._close_extend()
            self.operations.append(End())
            self._ended = True
        self.tracing = False
        self.flush()

    def cancel(self, branch: BranchId | None = None) -> None:
        """Stop a branch, or the program."""
        if branch is not None:
            self.do(Cancel(branch=branch))
            self.flush()
            return
        with self._cond:
            self._ended = True
        self.changed()
        self.tracing = False
        with self._sending:  # a flush on another thread either has opened the session, or never will
            self._cancelled = True
            if self._session is None:
                self._finish(ErrorInfo(code=Cancelled.code, message=f"{self.name} was cancelled"))
            elif not self._done:
                self._session.cancel()

    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls; raises `UnsupportedFeature` if that is not known."""
        if self.backend is None:
            return FORMATS["sgl-tiny"]
        style = self.backend.tool_format()
        if style is None:
            raise UnsupportedFeature(
                f"the model of the {self.backend.capabilities.name} backend has no known tool-call format",
                hint="use sgl.gen with a type that describes the call",
            )
        return style

    def think_marks(self) -> tuple[str, str]:
        """Begin and end of the model's reasoning."""
        return THINK_MARKS if self.backend is None else self.backend.think_marks()

    def tree(self) -> RequestTree:
        with self._cond:
            self._close_extend()
            return RequestTree(options=self.options.program_options(), operations=tuple(self.operations))

    # ------------------------------------------------------------------------------------------ events

    def on_event(self, event: Event) -> None:
        """The listener: called by the backend, on any thread."""
        with self._cond:
            if not isinstance(event, Delta) or self.options.stream:
                self.events.append((time.monotonic() - self.started, event))
            if isinstance(event, Ready):
                self._on_ready(event)
            elif isinstance(event, Delta):
                self.partial[event.node] = self.partial.get(event.node, "") + event.text
            elif isinstance(event, Failed):
                self._on_failure(event)
            elif isinstance(event, Finished):
                self.usage = event.usage
                self._done = True
            self._cond.notify_all()
            callbacks = self._take_callbacks()
        for callback in callbacks:
            callback()

    def _on_ready(self, event: Ready) -> None:
        """A value; but what was generated up to a cancel is none, it is only shown."""
        if event.finish_reason != "cancelled":
            self.ready[event.node] = event
            self._charge(event)
            return
        self.partial[event.node] = event.text
        error = ErrorInfo(code=Cancelled.code, message="the branch was cancelled")
        self._on_failure(Failed(error=error, branch=event.branch, node=event.node))

    def _charge(self, event: Ready) -> None:
        """Add what a value has cost; over the budget, the program is cancelled and its error says why."""
        if self.backend is None:
            return
        self.cost += self.backend.cost(event.usage)
        budget = self.options.budget_dollars
        if budget is not None and self.cost > budget and self._program_error is None:
            message = f"{self.name} has cost ${self.cost:.4f}, its budget is ${budget:.4f}"
            self._program_error = ErrorInfo(code=BudgetExceeded.code, message=message)
            threading.Thread(target=self.cancel, daemon=True).start()  # not while the backend is telling us

    def _on_failure(self, event: Failed) -> None:
        if event.node is not None:
            self._errors[event.node] = event.error
            for branch in self._dependents.get(event.node, ()):
                self._fail_branch(branch, event.error, event.node)
        if event.branch is None and event.node is None:
            self._program_error = self._program_error or event.error
            self._done = True
        else:
            branch = event.branch if event.branch is not None else self.branch_of.get(event.node or 0, ROOT)
            self._fail_branch(branch, event.error, event.node)

    def _fail_branch(self, branch: BranchId, error: ErrorInfo, node: NodeId | None) -> None:
        """`branch` goes no further; neither do forks made later and branches that join it."""
        if branch in self._branch_errors:
            return
        self._branch_errors[branch] = (error, node)
        if error.code == Cancelled.code:
            return
        for child, (parent, fork_at) in self.parents.items():
            if parent == branch and (node is None or node < fork_at):
                self._fail_branch(child, error, node)
        for joiner in self._joiners.get(branch, ()):
            self._fail_branch(joiner, error, node)

    def _take_callbacks(self) -> list[Callable[[], None]]:
        callbacks = self._callbacks
        if callbacks:
            self._callbacks = []
        return callbacks

    def _finish(self, error: ErrorInfo) -> None:
        self.on_event(Failed(error=error))

    def once_changed(self, callback: Callable[[], None]) -> None:
        """Call `callback` after the next event (at once, if the program is over)."""
        with self._cond:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback()

    # ------------------------------------------------------------------------------------------ values

    def known(self, node: NodeId) -> Ready | None:
        return self.ready.get(node)

    def wait(self, node: NodeId, timeout: float | None = None) -> Ready:
        """What came back for `node`; raises its error, `DeadlineExceeded` or (compiling) `NotStatic`."""
        ready = self.ready.get(node)
        if ready is not None:
            return ready
        self._check_may_wait(node)
        self.flush()
        self._wait_for(lambda: self.outcome(node), timeout, node)
        return self.ready[node]

    def _check_may_wait(self, node: NodeId) -> None:
        if self.backend is None:
            place = caller()
            raise NotStatic(
                f"the value generated at {self.places.get(node, NOWHERE)} is only known at run time",
                place=str(place),
                hint="splice it with `s += s[...]` or an f-string, or run the program instead",
            )
        if self.loop_thread == threading.get_ident() and self.outcome(node) is None:
            raise ProgramError(
                "this value is not known yet: `await` it in an async program",
                place=str(caller()),
                hint="what waits inside (retry, best_of, first) runs by `await asyncio.to_thread(...)`",
            )

    def outcome(self, node: NodeId) -> Ready | None:
        """The result if it is there, None if it may still come; raises if it will not."""
        ready = self.ready.get(node)
        if ready is not None:
            return ready
        error = self._error_of(node)
        if error is not None:
            raise error
        return None

    def _error_of(self, node: NodeId) -> SglError | None:
        branch = self.branch_of.get(node, ROOT)
        if node in self._errors:
            self._seen.add(node)
            return self._located(self._errors[node], branch, node)
        if branch in self._branch_errors:
            error, failed = self._branch_errors[branch]
            self._seen.add(failed)
            return self._located(error, branch, failed)
        if self._program_error is not None:
            self._seen.add(None)
            return self._located(self._program_error, None, None)
        if self._done:
            info = ErrorInfo(
                code=ProgramError.code, message="the program ended before this value was generated"
            )
            return self._located(info, branch, node)
        return None

    def _located(self, info: ErrorInfo, branch: BranchId | None, node: NodeId | None) -> SglError:
        error = info.to_error(branch, node)
        if node is not None and node in self.places:
            error.line = str(self.places[node])
        return error

    def _wait_for(self, ready: Callable[[], Any], timeout: float | None, node: NodeId | None) -> None:
        if self.before_wait is not None:
            self.before_wait()
        deadline = time.monotonic() + self._patience(timeout)
        with self._cond:
            while not ready():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._too_late(node, timeout)
                self._cond.wait(left)

    def _patience(self, timeout: float | None) -> float:
        """Seconds to wait at most. The engine keeps the program's deadline; allow it a second to say so."""
        if timeout is not None:
            return timeout
        if self.options.deadline_s is not None:
            return max(0.0, self.started + self.options.deadline_s + 1.0 - time.monotonic())
        return DEFAULT_WAIT_S

    def _too_late(self, node: NodeId | None, timeout: float | None) -> SglError:
        limit = timeout if timeout is not None else self.options.deadline_s or DEFAULT_WAIT_S
        error = DeadlineExceeded(f"{self.name}: no result within {limit:g} s", node=node, place=str(caller()))
        error.line = str(self.places[node]) if node in self.places else None
        return error

    async def wait_async(self, node: NodeId, timeout: float | None = None) -> Ready:
        """`wait` for async programs."""
        if self.backend is None:
            return self.wait(node)
        self.flush()
        await self._wait_for_async(lambda: self.outcome(node), timeout, node)
        return self.ready[node]

    async def _wait_for_async(
        self, ready: Callable[[], Any], timeout: float | None, node: NodeId | None
    ) -> None:
        deadline = time.monotonic() + self._patience(timeout)
        loop = asyncio.get_running_loop()
        while not ready():
            changed: asyncio.Future[None] = loop.create_future()
            self.once_changed(lambda future=changed: _wake(loop, future))  # type: ignore[misc]
            if ready():
                return
            try:
                await asyncio.wait_for(changed, max(0.0, deadline - time.monotonic()))
            except (asyncio.TimeoutError, TimeoutError):
                raise self._too_late(node, timeout) from None

    def node_error(self, node: NodeId) -> str | None:
        """The message of a failed node."""
        info = self._errors.get(node)
        return None if info is None else info.message

    def set_form(self, node: NodeId, form: TypeForm[Any]) -> None:
        self._forms[node] = form

    def typed(self, node: NodeId, form: TypeForm[T], text: str) -> T:
        """The typed value of a node's text, decoded once."""
        value = self._values.get(node, _MISSING)
        if value is _MISSING:
            try:
                value = self._values[node] = form.value(text)
            except SglError as error:
                self._seen.add(node)
                error.line, error.node = str(self.places.get(node, NOWHERE)), node
                error.branch = self.branch_of.get(node)
                raise
        return value  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------ the end

    @property
    def done(self) -> bool:
        return self._done

    @property
    def ended(self) -> bool:
        """The function has returned (or was cancelled)."""
        return self._ended

    def wait_done(self, timeout: float | None = None) -> None:
        """Until the last event."""
        self.flush()
        self._wait_for(lambda: self._done, timeout, None)
        self.close()

    async def wait_done_async(self, timeout: float | None = None) -> None:
        self.flush()
        await self._wait_for_async(lambda: self._done, timeout, None)
        self.close()

    def wait_until(self, ready: Callable[[], bool], timeout: float | None = None) -> None:
        """Until `ready()`, which is asked again after every event and every send."""
        self._wait_for(ready, timeout, None)

    async def wait_until_async(self, ready: Callable[[], bool], timeout: float | None = None) -> None:
        await self._wait_for_async(ready, timeout, None)

    def fail(self, error: BaseException) -> None:
        """The program's own code raised: cancel; `raise_failure` raises it to who reads a stream."""
        self._failure = error
        self.cancel()
        self.changed()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def changed(self) -> None:
        """Wake up who waits."""
        with self._cond:
            self._cond.notify_all()
            callbacks = self._take_callbacks()
        for callback in callbacks:
            callback()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def raise_unseen(self) -> None:
        """Raise the first error that the program has not met at a value already; typed values are checked
        here.
        """
        error = self.first_error()
        if error is not None:
            raise error

    def first_error(self) -> SglError | None:
        """An error of the run that no use of a value has raised; None if all went well."""
        if self._program_error is not None and None not in self._seen:
            return self._located(self._program_error, None, None)
        for node, info in self._errors.items():
            if node not in self._seen and info.code != Cancelled.code:
                return self._located(info, self.branch_of.get(node), node)
        for branch, (info, failed) in self._branch_errors.items():
            if failed is None and None not in self._seen and info.code != Cancelled.code:
                return self._located(info, branch, None)
        return self._first_invalid_value()

    def _first_invalid_value(self) -> SglError | None:
        for node, form in self._forms.items():
            if node in self.ready and node not in self._values and node not in self._seen:
                try:
                    self.typed(node, form, self.ready[node].text)
                except SglError as error:
                    return error
        return None


def _merges(nodes: list[Node], node: Node) -> bool:
    """Adjacent constant texts become one, so that they are tokenised as one."""
    if type(node) is not Text or node.special or not nodes:
        return False
    last = nodes[-1]
    return type(last) is Text and not last.special


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    loop.call_soon_threadsafe(done)
