"""The jinja environment of chat templates: sandboxed, immutable, and bounded in time, steps and size.

A template comes from a model folder, which somebody downloaded; it must be able to format a conversation
and nothing else. The sandbox keeps it from Python's internals. The `Budget` keeps it from running or
growing for ever: every pass of a loop body, every call and every printed or computed text is counted while
it renders.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from sgl_lang.errors import InvalidRequest

__all__ = ["Budget", "TemplateLimits", "compile_template", "render"]

_Loop = TypeVar("_Loop", bound=nodes.Node)


@dataclass(frozen=True, kw_only=True)
class TemplateLimits:
    """What one rendering may use. `characters` counts all text that is printed or put together on the way."""

    steps: int = 2_000_000
    characters: int = 64 << 20
    seconds: float = 10.0


class TemplateRefusal(jinja2.TemplateError):
    """The template itself called `raise_exception`."""


@dataclass
class Budget:
    """What is left for the rendering that runs on this thread."""

    limits: TemplateLimits
    steps: int = 0
    characters: int = 0
    deadline: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.limits.seconds

    def step(self) -> None:
        self.steps += 1
        if self.steps > self.limits.steps:
            raise _exhausted(f"takes more than {self.limits.steps} steps")
        if self.steps % 256 == 0 and time.monotonic() > self.deadline:
            raise _exhausted(f"takes longer than {self.limits.seconds:g} s")

    def text(self, characters: int) -> None:
        self.characters += characters
        if self.characters > self.limits.characters:
            raise _exhausted(f"makes more than {self.limits.characters} characters")


def _exhausted(what: str) -> InvalidRequest:
    return InvalidRequest(f"the chat template {what}", place="chat_template")


_current = threading.local()


def _budget() -> Budget:
    budget: Budget = _current.budget
    return budget


def _raise_exception(message: object) -> None:
    raise TemplateRefusal(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML. Private-use characters stay as they are, they carry
    marks.
    """
    if indent is not None and not 0 <= indent <= 16:
        raise InvalidRequest("tojson takes an indent of 0 to 16", place="chat_template")
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    _budget().text(len(text))
    return text


def _bounded_width(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose `width` argument cannot ask for more white space than a page holds."""

    def bounded(text: Any, width: Any = 4, *rest: Any, **named: Any) -> Any:
        size = width if isinstance(width, int) else len(str(width))
        if size > 10_000:
            raise _exhausted("asks for a width above 10000")
        return function(text, width, *rest, **named)

    return bounded


class _Generation(Extension):
    """``{% generation %}`` marks what training learns; when prompting it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja reads a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Counts what templates do against the budget of the thread's rendering."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def tick(self) -> str:
        _budget().step()
        return ""

    def joined(self, *parts: Any) -> str:
        """The operator ``~``."""
        texts = [str(part) for part in parts]
        _budget().text(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Context, /, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _budget().step()
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str):
            _budget().text(len(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            if isinstance(left, (str, list)) and isinstance(right, (str, list)):
                _budget().text(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            raise _exhausted("formats with %, which is not offered")
        elif operator == "*":
            self._check_product(left, right)
        elif operator == "**":
            raise _exhausted("computes powers, which is not offered")
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def _check_product(left: Any, right: Any) -> None:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int):
                _budget().text(len(one) * max(0, other))
            elif isinstance(one, int) and one.bit_length() > 4096:
                raise _exhausted("computes with numbers of more than 4096 bits")


def _printed(value: Any) -> Any:
    """Jinja's `finalize`: every printed value, also inside macros and set blocks."""
    text = value if isinstance(value, str) else str(value)
    _budget().text(len(text))
    return text


class _Counted(NodeTransformer):
    """Puts a step into every loop and macro body, and counts what ``~`` puts together."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named by jinja
        return self._with_step(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._with_step(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _environment_call("joined", node.nodes, node)

    def _with_step(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_environment_call("tick", [], node)).set_lineno(node.lineno))
        return node  # type: ignore[no-any-return]


def _environment_call(name: str, arguments: list[nodes.Expr], place: nodes.Node) -> nodes.Call:
    target = nodes.EnvironmentAttribute(name)
    call = nodes.Call(target, arguments, [], None, None)
    return call.set_lineno(place.lineno).set_environment(_ENVIRONMENT)  # type: ignore[return-value]


def _make_environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_printed
    )
    environment.filters["tojson"] = _tojson
    for name in ("center", "indent"):
        environment.filters[name] = _bounded_width(environment.filters[name])
    for name in ("format", "pprint", "urlize", "wordwrap", "xmlattr"):
        del environment.filters[name]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_ENVIRONMENT = _make_environment()


def compile_template(source: str) -> jinja2.Template:
    """Raises `InvalidRequest` with the line of a syntax error."""
    try:
        tree = _Counted().visit(_ENVIRONMENT.parse(source))
        code = _ENVIRONMENT.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        raise InvalidRequest(str(error.message), place=f"chat_template, line {error.lineno}") from None
    except RecursionError:
        raise _exhausted("nests too deeply") from None
    return jinja2.Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.make_globals(None))


def render(template: jinja2.Template, values: Mapping[str, Any], limits: TemplateLimits) -> str:
    """The text of `template`. Raises `InvalidRequest` if the template refuses, fails or exceeds `limits`."""
    _current.budget = Budget(limits)
    try:
        return template.render(values)
    except TemplateRefusal as error:
        raise InvalidRequest(f"the chat template refuses: {error}", place="messages") from None
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise InvalidRequest(f"the chat template fails: {error}", place="messages") from None
    except (RecursionError, MemoryError):
        raise _exhausted("nests or grows too much") from None
    finally:
        del _current.budget
