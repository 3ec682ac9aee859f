"""The state of a program: what it has said so far on one branch, and the values it has asked for.

Nothing here talks to an engine: a state appends nodes to its `Execution` and hands out `Ref` values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, overload

import msgspec
from typing_extensions import Self

from sgl_lang import control, streams
from sgl_lang.errors import InvalidRequest, ProgramError, SglError, UnknownVariable, ValidationFailed
from sgl_lang.execution import Execution
from sgl_lang.expr import Expr, GenExpr, Handle, Piece, Role, RoleExpr, SelectExpr
from sgl_lang.forks import ForkGroup
from sgl_lang.places import caller
from sgl_lang.refs import Ref, Refs, Span, resolve, split_marks
from sgl_lang.render import render_run
from sgl_lang.tools import Answer, Toolbox, ToolCall, run_calls, run_calls_async
from sgl_lang.tree import (
    ROOT,
    BranchId,
    End,
    Event,
    Gen,
    Hole,
    Image,
    Join,
    Node,
    NodeId,
    Ready,
    RequestTree,
    RoleBegin,
    RoleEnd,
    Select,
    Text,
    Usage,
    Value,
)
from sgl_lang.types import TEXT, TypeForm

__all__ = ["AsyncProgramState", "ForkGroup", "ProgramState"]

T = TypeVar("T")
R = TypeVar("R")


class Mark(NamedTuple):
    """Begin (`role` set) or end of a message among the items of a state."""

    role: str | None


Item = Any
"""Constant text (str), the node whose text stands here (int), or a `Mark`."""


class ProgramState:
    """One branch of a running program; also its result once it has ended.

    `s += piece` appends; `s["x"]` or `s[handle]` is the value generated as x (a `Ref` until it is needed).
    """

    def __init__(self, execution: Execution, branch: BranchId = ROOT) -> None:
        self.execution = execution
        self.branch = branch
        self.ret_value: Any = None
        self._names: dict[Any, Any] = {}
        self._items: list[Item] = []
        self._role: str | None = None
        self._base = 0
        self._inherited: Mapping[Any, Any] = {}
        self._closed = False
        self.tools: Toolbox | None = None
        self._tools_shown = False

    # ------------------------------------------------------------------------------------------ appending

    def __iadd__(self, piece: Piece) -> Self:
        self.append(piece)
        return self

    def append(self, piece: Piece) -> None:
        """Append text, an expression or a value; raises `ProgramError` for anything else."""
        kind = type(piece)
        if kind is str:
            self._append_text(piece)
        elif kind is Ref or kind is Span:
            self._splice(piece)
        elif issubclass(kind, Expr):
            piece.apply(self)
        elif issubclass(kind, str):
            self._append_text(str(piece))
        else:
            raise ProgramError(
                f"cannot append a value of type {kind.__name__}",
                place=str(caller()),
                hint="append text, an sgl expression or s[...]; put other values into an f-string",
            )

    def _append_text(self, text: str) -> None:
        for piece in split_marks(text):
            if isinstance(piece, str):
                self._append_plain(piece)
            elif piece[0] is self.execution:
                self._append_value(piece[1])
            else:
                self._append_plain(piece[0].wait(piece[1]).text)

    def _append_plain(self, text: str) -> None:
        if text:
            self.add_node(Text(id=self.execution.new_node(), text=text))
            self._items.append(text)

    def _append_value(self, of: NodeId) -> None:
        self.add_node(Value(id=self.execution.new_node(), of=of))
        self._items.append(of)

    def _splice(self, ref: Ref[Any]) -> None:
        if ref._run is not self.execution:
            self._append_plain(ref._text())
            return
        for item in ref._nodes():
            if isinstance(item, str):
                self._append_plain(item)
            else:
                self._append_value(item)

    def add_node(self, node: Node) -> None:
        """Append a node as it is (for expressions)."""
        if self._closed:
            raise ProgramError("this branch was joined; nothing can be added to it", place=str(caller()))
        self.execution.add(self.branch, node)
        if isinstance(node, Image):
            self._items.append(f"<image {node.url[:40]}>")

    # ------------------------------------------------------------------------------------------ generating

    def generate(self, handle: Handle[T], node: Gen | Select, form: TypeForm[T] | None = None) -> Ref[T]:
        """Append a node that generates, under the name of its handle; `form` replaces the handle's own."""
        form = handle.form if form is None else form
        self.add_node(node)
        self._items.append(node.id)
        ref: Ref[T] = Ref(self.execution, node.id, handle.label, form)
        if form is not TEXT:
            self.execution.set_form(node.id, form)
        self._define(handle, ref)
        return ref

    def _define(self, handle: Handle[Any], value: Any) -> None:
        self._names[handle] = value
        if handle.name is not None:
            self._names[handle.name] = value

    def generate_several(self, expr: GenExpr[Any]) -> None:
        """`n` samples: the first here, the others on forks of their own; the value is the list of them."""
        children = self.execution.fork(self.branch, expr.n - 1)
        values = Refs([self.generate(expr, expr.node(self))])
        for at, child in enumerate(children, start=1):
            seed = expr.sampling.get("seed")
            node = expr.node(self, **({} if seed is None else {"seed": seed + at}))
            self.execution.add(child, node)
            self.execution.do(End(branch=child))
            values.append(Ref(self.execution, node.id, expr.label, expr.form))
        self._define(expr, values)

    def generate_with_retry(self, expr: GenExpr[Any]) -> None:
        """Try on a fork; append the first attempt that is a valid value. Later attempts are drawn more
        freely.
        """
        for attempt in range(expr.retry + 1):
            child = self.fork(1)[0]
            ref = child.generate(expr, expr.node(child, **self._retry_changes(expr, attempt)))
            try:
                ref._value()
            except ValidationFailed:
                child.end()
                if attempt == expr.retry:
                    raise
                continue
            self.join_concatenate([child])
            self._define(expr, ref)
            return

    def _retry_changes(self, expr: GenExpr[Any], attempt: int) -> dict[str, Any]:
        if attempt == 0:
            return {}
        given = {**self.execution.options.sampling, **expr.sampling}
        seed = given.get("seed")
        return {
            "temperature": max(0.7, given.get("temperature", 1.0)),
            "seed": None if seed is None else seed + attempt,
        }

    def hole(self, name: str | None = None, lease_s: float = 60.0) -> Ref[str]:
        """Append a place for text that `fill` gives later; the cache is kept for `lease_s`."""
        node = Hole(id=self.execution.new_node(), name=name, lease_s=lease_s)
        self.add_node(node)
        self._items.append(node.id)
        ref: Ref[str] = Ref(self.execution, node.id, name or "hole", TEXT)
        if name is not None:
            self._names[name] = ref
        return ref

    def fill(self, hole: Ref[str], text: str) -> None:
        """Give `hole` its text."""
        self.execution.fill(hole._node, text)

    # ------------------------------------------------------------------------------------------ values

    @overload
    def __getitem__(self, key: GenExpr[T] | SelectExpr[T] | Handle[T]) -> T: ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        """While the program runs: a `Ref`, which waits when it must. Once it is over: the plain value."""
        value = self.named(key)
        return resolve(value) if self.execution.done else value

    def named(self, key: str | Handle[Any]) -> Any:
        """What stands behind a name: a `Ref`, several, or a plain value. Raises `UnknownVariable`."""
        try:
            return self._names[key]
        except KeyError:
            raise self._unknown(key) from None

    def _unknown(self, key: Any) -> UnknownVariable:
        label = key.label if isinstance(key, Handle) else str(key)
        names = [name for name in self._names if isinstance(name, str)]
        near = get_close_matches(label, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'nothing yet'}"
        return UnknownVariable(f"nothing is named {label!r} on this branch", place=str(caller()), hint=hint)

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = value

    def __contains__(self, key: object) -> bool:
        return key in self._names

    @overload
    def get(self, key: Handle[T], *, timeout: float | None = None) -> T: ...
    @overload
    def get(self, key: str, *, timeout: float | None = None) -> Any: ...
    def get(self, key: Any, *, timeout: float | None = None) -> Any:
        """The value itself, waiting at most `timeout` seconds for it (`DeadlineExceeded`)."""
        value = self.named(key)
        return value._value(timeout) if type(value) in (Ref, Span) else resolve(value)

    def get_var(self, name: str) -> Any:
        return self.get(name)

    def set_var(self, name: str, value: Any) -> None:
        self[name] = value

    def variables(self) -> dict[str, Any]:
        """All named values, waiting for them."""
        return {name: resolve(value) for name, value in self._names.items() if isinstance(name, str)}

    def meta(self, key: str | Handle[Any], timeout: float | None = None) -> Ready:
        """What the engine said about a value: tokens, finish reason, log probabilities, scores of choices,
        usage.
        """
        value = self.named(key)
        value = value[0] if type(value) is Refs else value
        if type(value) is not Ref:
            raise InvalidRequest(f"{key!r} was not generated", place=str(caller()))
        return value._ready(timeout)

    def get_meta_info(self, name: str, timeout: float | None = None) -> dict[str, Any]:
        """SGLang's form of `meta`."""
        ready = self.meta(name, timeout)
        return {
            "finish_reason": ready.finish_reason,
            "prompt_tokens": ready.usage.prompt_tokens,
            "completion_tokens": ready.usage.completion_tokens,
            "cached_tokens": ready.usage.cached_tokens,
            "output_token_logprobs": [(item.logprob, item.token) for item in ready.logprobs],
        }

    def usage(self, key: str | Handle[Any] | None = None) -> Usage:
        """Token counts of one value, or of the whole program once it has ended."""
        if key is not None:
            return self.meta(key).usage
        if self.execution.usage is None:
            self.execution.wait_done()
        return self.execution.usage or Usage()

    def cost(self) -> float:
        """Dollars that the program was charged so far, where the backend knows its prices."""
        return self.execution.cost

    # ------------------------------------------------------------------------------------------ reading

    def text(self, timeout: float | None = None) -> str:
        """The whole text of this branch, generated parts included; a message begins with its role in
        brackets.
        """
        text = ""
        for item in self._items:
            if isinstance(item, Mark):
                text += (
                    f"{'' if not text or text.endswith(chr(10)) else chr(10)}[{item.role}] "
                    if item.role
                    else "\n"
                )
            else:
                text += self._item_text(item, timeout)
        return text

    def _item_text(self, item: Item, timeout: float | None = None) -> str:
        return item if isinstance(item, str) else self.execution.wait(item, timeout).text

    def messages(self) -> list[dict[str, str]]:
        """The conversation as role and content; text outside of roles is left out."""
        found: list[dict[str, str]] = []
        inside = False
        for item in self._items:
            if isinstance(item, Mark):
                inside = item.role is not None
                if item.role is not None:
                    found.append({"role": item.role, "content": ""})
            elif inside:
                found[-1]["content"] += self._item_text(item)
        return found

    def text_iter(self, var: str | None = None, timeout: float | None = None) -> Iterator[str]:
        """Text of this branch, or of one variable, piece by piece as it comes (run with ``stream=True``)."""
        return streams.text_iter(self, var, timeout)

    def text_async_iter(self, var: str | None = None, timeout: float | None = None) -> AsyncIterator[str]:
        """`text_iter` for ``async for``."""
        return streams.text_async_iter(self, var, timeout)

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """The events of the whole program as they come."""
        return streams.events(self.execution, timeout)

    def async_events(self, timeout: float | None = None) -> AsyncIterator[Event]:
        """`events` for ``async for``."""
        return streams.async_events(self.execution, timeout)

    def sync(self) -> None:
        """Send what was said so far and wait until all of it is generated."""
        self.execution.flush()
        for item in self._items:
            if isinstance(item, int):
                self.execution.wait(item)

    def flush(self) -> None:
        """Send what was said so far, without waiting; otherwise that happens when a value is needed."""
        self.execution.flush()

    def error(self) -> SglError | None:
        """The first error of the run that was not raised yet; None if all went well. (`run` raises it.)"""
        return self.execution.first_error()

    def tree(self) -> RequestTree:
        """The request tree so far."""
        return self.execution.tree()

    def render(self, form: str = "marked", *, color: bool = False) -> str:
        """The program to look at.

        ``marked``: its text with generated parts in « » (green with `color`); ``usage``: a table of tokens and time;
        ``report``: both; ``tree``, ``mermaid``, ``timeline``, and ``html``, a self-contained page. Run with
        ``trace=True`` to see the tokens of constant text and of role marks.
        """
        return render_run(self.execution, form, color)

    def __repr__(self) -> str:
        return f"<{self.execution.name}, branch {self.branch}: {len(self._items)} parts>"

    # ------------------------------------------------------------------------------------------ roles, scopes

    @contextmanager
    def role(self, role: Role, name: str | None = None, call_id: str | None = None) -> Iterator[None]:
        """A message of `role`, as a `with` block."""
        node = RoleBegin(id=self.execution.new_node(), role=role, name=name, call_id=call_id)
        self.begin_role(node)
        yield
        self.end_role(RoleEnd(id=self.execution.new_node()), role)

    def begin_role(self, node: RoleBegin) -> None:
        if self._role is not None:
            raise ProgramError(f"{node.role} begins inside a message of {self._role}", place=str(caller()))
        if self.tools is not None and not self._tools_shown:
            node = msgspec.structs.replace(node, tools=self.tools.definitions())
            self._tools_shown = True
        self.add_node(node)
        self._role = node.role
        self._items.append(Mark(node.role))

    def set_tools(self, box: Toolbox) -> None:
        """Tools for the messages that follow; the first of them shows the tools to the model."""
        if any(isinstance(item, Mark) for item in self._items):
            raise ProgramError("tools must be given before the first message", place=str(caller()))
        self.tools = box

    def run_calls(self, calls: str | Handle[Any] | Sequence[ToolCall]) -> list[str]:
        """Run tool calls in parallel and append their results as messages; `calls`, or the name of a `gen_calls`.

        A tool's exception and its time-out become text for the model to read.
        """
        return run_calls(self, self._calls(calls))

    def _calls(self, calls: str | Handle[Any] | Sequence[ToolCall]) -> Sequence[ToolCall]:
        if isinstance(calls, (str, Handle)):
            found: Sequence[ToolCall] = self.get(calls).calls
            return found
        return calls

    def end_role(self, node: RoleEnd, role: str) -> None:
        if self._role != role:
            raise ProgramError(f"{role} ends, but the open message is {self._role}", place=str(caller()))
        self.add_node(node)
        self._role = None
        self._items.append(Mark(None))

    def _message(self, role: Role, pieces: Sequence[Piece]) -> Any:
        if not pieces:
            return self.role(role)
        self.append(RoleExpr(role, pieces))
        return None

    def system(self, *pieces: Piece) -> Any:
        """`s.system("text")`, or `with s.system():`."""
        return self._message("system", pieces)

    def user(self, *pieces: Piece) -> Any:
        """`s.user("text")`, or `with s.user():`."""
        return self._message("user", pieces)

    def assistant(self, *pieces: Piece) -> Any:
        """`s.assistant(sgl.gen("x"))`, or `with s.assistant():`."""
        return self._message("assistant", pieces)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """What is appended inside becomes the variable `name`, as text."""
        start = len(self._items)
        yield
        items = tuple(item for item in self._items[start:] if not isinstance(item, Mark))
        self._names[name] = Span(self.execution, items, name, TEXT)

    # ------------------------------------------------------------------------------------------ branches

    def fork(self, size: int = 1) -> ForkGroup:
        """`size` branches that begin with all that this state holds; they share its cache and run in
        parallel.
        """
        if not isinstance(size, int) or size < 1:
            raise InvalidRequest(f"must be at least 1, got {size!r}", place="fork(size)")
        return ForkGroup(self, [self._child(branch) for branch in self.execution.fork(self.branch, size)])

    def _child(self, branch: BranchId) -> ProgramState:
        child = type(self)(self.execution, branch)
        child._names = dict(self._names)
        child._inherited = dict(self._names)
        child._items = list(self._items)
        child._base = len(self._items)
        child._role = self._role
        child.tools, child._tools_shown = self.tools, self._tools_shown
        return child

    def map(
        self, items: Iterable[Any], body: Callable[[ProgramState, Any], R], *, parallel: int = 1
    ) -> list[R]:
        """Fork one branch per item, call ``body(branch, item)`` on each, and join; the results of `body`, in order.

        Variables that the branches define become lists here. A body that waits for values holds up the next one,
        unless `parallel` threads run them.
        """
        group, results = control.map_items(self, items, body, parallel)
        group.join()
        return results

    def best_of(self, n: int, piece: Piece, score: Callable[[ProgramState], float]) -> ProgramState:
        """Append `piece` on n branches and keep the one with the highest `score`; its text and variables go on here."""
        return control.best_of(self, n, piece, score)

    def repeat(self, limit: int, until: Callable[[], bool] | None = None) -> Iterator[int]:
        """``for step in s.repeat(5, until=lambda: ...)``: at most `limit` rounds, and no more once `until` is true."""
        return control.repeat(limit, until)

    def copy(self) -> ProgramState:
        """One branch that begins like this state. As a `with` block, the branch ends with the block."""
        return self.fork(1)[0]

    def __enter__(self) -> ProgramState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.branch != ROOT:
            self.end()

    def end(self) -> None:
        """Nothing more comes on this branch (a fork that is not joined ends with the program)."""
        if not self._closed:
            self.execution.do(End(branch=self.branch))
            self._closed = True

    def cancel(self) -> None:
        """Stop this branch and all that was forked from it; on the root, the program."""
        if self.branch == ROOT:
            self.execution.cancel()
        elif not self._closed:
            self._closed = True
            self.execution.cancel(self.branch)

    def join_concatenate(self, children: Sequence[ProgramState]) -> None:
        self.add_join(children, "concatenate")
        for child in children:
            self._items += child._items[child._base :]

    def adopt_variables(self, child: ProgramState) -> None:
        """What `child` named since it was forked gets the same name here."""
        named = {
            key: value
            for key, value in child._names.items()
            if child._inherited.get(key, _NOTHING) is not value
        }
        self._names.update(named)

    def gather_variables(self, children: Iterable[ProgramState]) -> None:
        """What `children` named since they were forked becomes lists here."""
        gathered: dict[Any, Refs] = {}
        for child in children:
            for name, value in child._names.items():
                if child._inherited.get(name, _NOTHING) is not value:
                    gathered.setdefault(name, Refs()).append(value)
        self._names.update(gathered)

    def add_join(self, children: Sequence[ProgramState], mode: Any, first: int | None = None) -> NodeId:
        for child in children:
            child.end()
        node = self.execution.new_node()
        branches = tuple(child.branch for child in children)
        self.add_node(Join(id=node, branches=branches, mode=mode, first=first))
        return node


_NOTHING = object()


class AsyncProgramState(ProgramState):
    """The state of an ``async def`` program: values are awaited, ``await s["x"]`` or ``await
    s.value(handle)``.
    """

    async def run_tools(self, calls: str | Handle[Any] | Sequence[ToolCall]) -> list[str]:
        """`run_calls` for async programs: async tools run on the event loop, others on threads."""
        if isinstance(calls, (str, Handle)):
            answer: Answer = await self.value(calls)
            return await run_calls_async(self, answer.calls)
        return await run_calls_async(self, calls)

    @overload
    async def value(self, key: Handle[T], *, timeout: float | None = None) -> T: ...
    @overload
    async def value(self, key: str, *, timeout: float | None = None) -> Any: ...
    async def value(self, key: Any, *, timeout: float | None = None) -> Any:
        """The value itself, waiting at most `timeout` seconds for it."""
        found = self.named(key)
        if type(found) in (Ref, Span):
            return await found._value_async(timeout)
        return await found if type(found) is Refs else found
