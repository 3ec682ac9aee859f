"""Values that are not known yet.

`s["x"]` is a `Ref`: it can be put into later text without waiting, and it waits as soon as Python needs the
value (`if`, `==`, `int()`, `str()`, a field, a loop). Inside an f-string a ref of a running program becomes a
*mark*, which `s +=` turns back into a `Value` node, so that f-strings stay lazy too. A mark shows the
variable's name between ⟦ ⟧, followed by an invisible random key of the run; text from outside cannot guess
the key.
"""

from __future__ import annotations

import operator
import re
import secrets
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sgl_lang.tree import NodeId, Ready

if TYPE_CHECKING:
    from sgl_lang.execution import Execution
    from sgl_lang.types import TypeForm

__all__ = ["Ref", "Refs", "Span", "resolve", "split_marks"]

T = TypeVar("T")

_DIGITS = "\u2061\u2062\u2063\u2064"  # invisible operators: four symbols, two bits each
_KEY_SYMBOLS, _ID_SYMBOLS = 32, 16
_MARK = re.compile(f"⟦[^⟧]*⟧([{_DIGITS}]{{{_KEY_SYMBOLS}}})([{_DIGITS}]{{{_ID_SYMBOLS}}})")
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_runs: weakref.WeakValueDictionary[str, Execution] = weakref.WeakValueDictionary()


def _encode(number: int, symbols: int) -> str:
    return "".join(_DIGITS[number >> 2 * at & 3] for at in range(symbols))


def _decode(text: str) -> int:
    return sum(_VALUES[digit] << 2 * at for at, digit in enumerate(text))


def new_key(run: Execution) -> str:
    """A random key for the marks of `run`."""
    key = _encode(secrets.randbits(2 * _KEY_SYMBOLS), _KEY_SYMBOLS)
    _runs[key] = run
    return key


def mark(name: str, key: str, node: NodeId) -> str:
    return f"⟦{name.replace('⟧', '')}⟧{key}{_encode(node, _ID_SYMBOLS)}"


def split_marks(text: str) -> Iterator[str | tuple[Execution, NodeId]]:
    """Plain pieces of `text` and the marks in it, in order. What looks like a mark but has no known key is
    text.
    """
    if "⟦" not in text:
        yield text
        return
    start = 0
    for found in _MARK.finditer(text):
        run = _runs.get(found[1])
        if run is None:
            continue
        if found.start() > start:
            yield text[start : found.start()]
        yield run, _decode(found[2])
        start = found.end()
    if start < len(text):
        yield text[start:]


def resolve(value: Any) -> Any:
    """The value behind a `Ref`, `Refs` or `Span` (waits); anything else as it is."""
    kind = type(value)
    if kind is Ref or kind is Span:
        return value._value()
    return [resolve(item) for item in value] if kind is Refs else value


class Ref(Generic[T]):
    """The value of a node, known or not. Behaves like the value; `await` it in async programs."""

    __slots__ = ("_form", "_name", "_node", "_run")

    def __init__(self, run: Execution, node: NodeId, name: str, form: TypeForm[T]) -> None:
        self._run = run
        self._node = node
        self._name = name
        self._form = form

    def _nodes(self) -> tuple[NodeId | str, ...]:
        """What to splice: ids of nodes, and constant text."""
        return (self._node,)

    def _ready(self, timeout: float | None = None) -> Ready:
        return self._run.wait(self._node, timeout)

    def _text(self, timeout: float | None = None) -> str:
        return self._ready(timeout).text

    def _value(self, timeout: float | None = None) -> T:
        text = self._text(timeout)
        return self._run.typed(self._node, self._form, text)

    async def _value_async(self, timeout: float | None = None) -> T:
        ready = await self._run.wait_async(self._node, timeout)
        return self._run.typed(self._node, self._form, ready.text)

    def __await__(self) -> Generator[Any, None, T]:
        return self._value_async().__await__()

    def __format__(self, spec: str) -> str:
        if spec:
            return format(self._value(), spec)
        if self._run.tracing:
            return "".join(
                item if isinstance(item, str) else mark(self._name, self._run.key, item)
                for item in self._nodes()
            )
        return self._text()

    def __str__(self) -> str:
        return self._text()

    def __repr__(self) -> str:
        """In a running program the value's, which is waited for: ``{s["x"]!r}`` must not show anything else."""
        if self._run.ended and self._run.known(self._node) is None:
            return f"<{self._name}: no value>"
        return repr(self._value())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # protocols that are looked up on instances (copy, pickle, numpy)
        return getattr(self._value(), name)

    @property
    def __class__(self) -> type:  # isinstance(s["x"], int) means the value
        return type(self._value())

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("the class of a value cannot be changed")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._value()(*args, **kwargs)  # type: ignore[operator]

    def __hash__(self) -> int:
        return hash(self._value())

    def __reduce__(self) -> Any:
        return resolve, (self._value(),)


class Span(Ref[str]):
    """The text of several nodes in a row (`var_scope`): constant text is known, the rest is referred to."""

    __slots__ = ("_items",)

    def __init__(
        self, run: Execution, items: tuple[NodeId | str, ...], name: str, form: TypeForm[str]
    ) -> None:
        last = next((item for item in reversed(items) if not isinstance(item, str)), -1)
        super().__init__(run, last, name, form)
        self._items = items

    def _nodes(self) -> tuple[NodeId | str, ...]:
        return self._items

    def _text(self, timeout: float | None = None) -> str:
        return "".join(
            item if isinstance(item, str) else self._run.wait(item, timeout).text for item in self._items
        )

    def _value(self, timeout: float | None = None) -> str:
        return self._text(timeout)

    async def _value_async(self, timeout: float | None = None) -> str:
        parts = [
            item if isinstance(item, str) else (await self._run.wait_async(item, timeout)).text
            for item in self._items
        ]
        return "".join(parts)


class Refs(list[Any]):
    """What a join gathered: one value per branch, in the order of the branches."""

    def __str__(self) -> str:
        return str(resolve(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    async def values(self) -> list[Any]:
        return [await item if type(item) in (Ref, Span) else item for item in self]

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.values().__await__()


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Ref[Any], *args: Any) -> Any:
        return function(self._value(), *(resolve(arg) for arg in args))

    return method


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Ref[Any], other: Any) -> Any:
        return function(resolve(other), self._value())

    return method


_PLAIN: dict[str, Callable[..., Any]] = {
    "bool": bool, "int": int, "float": float, "index": operator.index, "len": len, "iter": iter,
    "bytes": bytes, "contains": operator.contains, "getitem": operator.getitem, "setitem": operator.setitem,
    "reversed": reversed,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "neg": operator.neg, "pos": operator.pos, "abs": abs, "round": round,
    "invert": operator.invert,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {
    "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "and": operator.and_,
    "or": operator.or_, "xor": operator.xor, "divmod": divmod,
}  # fmt: skip


def _add(self: Ref[Any], other: Any) -> Any:
    """With a text, the text of the value; else its sum."""
    other = resolve(other)
    return str(self) + other if isinstance(other, str) else self._value() + other


def _radd(self: Ref[Any], other: Any) -> Any:
    other = resolve(other)
    return other + str(self) if isinstance(other, str) else other + self._value()


for _name, _function in _PLAIN.items():
    setattr(Ref, f"__{_name}__", _forward(_function))
for _name, _function in _BINARY.items():
    setattr(Ref, f"__{_name}__", _forward(_function))
    setattr(Ref, f"__r{_name}__", _reflected(_function))
for _name, _function in {"__add__": _add, "__radd__": _radd}.items():
    setattr(Ref, _name, _function)
