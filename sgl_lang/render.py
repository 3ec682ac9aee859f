"""Programs and request trees to look at: marked text, tree, Mermaid, timeline, report, HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sgl_lang.errors import InvalidRequest
from sgl_lang.render_html import html_page
from sgl_lang.tree import Gen, Join, RequestTree, RoleBegin, RoleEnd, Select, Usage, Value
from sgl_lang.treetext import node_text, tree_text
from sgl_lang.views import BranchView, NodeView, ProgramView, view_of

if TYPE_CHECKING:
    from sgl_lang.execution import Execution

__all__ = ["render_run", "render_tree"]

_GREEN, _RED, _GREY, _RESET = "\033[32m", "\033[31m", "\033[90m", "\033[0m"


def render_tree(tree: RequestTree, form: str) -> str:
    """See `RequestTree.render`."""
    if form == "text":
        return tree_text(tree)
    return _render(view_of(tree), form, False)


def render_run(execution: Execution, form: str, color: bool) -> str:
    """See `ProgramState.render`."""
    return _render(view_of(execution.tree(), execution, execution.name), form, color)


def _render(view: ProgramView, form: str, color: bool) -> str:
    forms: dict[str, Callable[[], str]] = {
        "marked": lambda: marked(view, color),
        "tree": lambda: text_tree(view),
        "mermaid": lambda: mermaid(view),
        "timeline": lambda: timeline(view),
        "usage": lambda: usage_table(view),
        "report": lambda: f"{marked(view, color)}\n\n{usage_table(view)}",
        "html": lambda: html_page(view),
    }
    if form not in forms:
        raise InvalidRequest(f"{form!r} is none of {', '.join(forms)}", place="render(form)")
    return forms[form]()


# ---------------------------------------------------------------------------------------------------- marked text


def marked(view: ProgramView, color: bool = False) -> str:
    """The program's text; generated parts stand in « » (or in green), forks are indented."""
    return "\n".join(_marked_branch(view, view.branches[0], color)).strip("\n")


def _marked_branch(view: ProgramView, branch: BranchView, color: bool) -> Iterator[str]:
    indent = "    " * branch.depth
    forks = dict(branch.forks)
    text = ""
    for at in range(len(branch.nodes) + 1):
        if at in forks:
            yield from _indented(text, indent)
            text = ""
            for child in forks[at]:
                yield f"{indent}  ─ branch {child}"
                yield from _marked_branch(view, view.branches[child], color)
        if at < len(branch.nodes):
            text += _marked_node(branch.nodes[at], text, color)
    yield from _indented(text, indent)


def _indented(text: str, indent: str) -> Iterator[str]:
    if text:
        for line in text.strip("\n").split("\n"):
            yield f"{indent}{line}"


def _marked_node(node: NodeView, before: str, color: bool) -> str:
    if isinstance(node.node, RoleBegin):
        return f"{'' if not before or before.endswith(chr(10)) else chr(10)}[{node.node.role}] "
    if isinstance(node.node, RoleEnd):
        return "\n"
    if node.error is not None:
        return _painted(f"!{node.error}!", _RED, color)
    text = f"⟨{node.name or node.kind}⟩" if node.text is None else node.text
    if node.generated and node.text is not None:
        return _painted(text, _GREEN, color) if color else f"«{text}»"
    return text


def _painted(text: str, paint: str, color: bool) -> str:
    return f"{paint}{text}{_RESET}" if color else text


# ------------------------------------------------------------------------------------------------------ text tree


def text_tree(view: ProgramView) -> str:
    """A line per node, forks as branches of a tree."""
    return "\n".join([view.name, *_tree_lines(view, view.branches[0], "")])


def _tree_lines(view: ProgramView, branch: BranchView, prefix: str) -> list[str]:
    items: list[tuple[str, list[str]]] = []
    forks = dict(branch.forks)
    for at in range(len(branch.nodes) + 1):
        for child in forks.get(at, ()):
            items.append((f"branch {child}", _tree_lines(view, view.branches[child], "")))
        if at < len(branch.nodes):
            items.append((_tree_label(branch.nodes[at]), []))
    lines = []
    for number, (label, below) in enumerate(items):
        last = number == len(items) - 1
        lines.append(f"{prefix}{'└─' if last else '├─'} {label}")
        lines += [f"{prefix}{'   ' if last else '│  '}{line}" for line in below]
    return lines


def _tree_label(node: NodeView) -> str:
    label = node_text(node.node)
    label = label if len(label) <= 120 else f"{label[:117]}..."
    if node.error is not None:
        return f"{label} ✗ {node.error}"
    if not node.generated or node.text is None:
        return label
    return f"{label} → {node.text!r}{_counts(node.usage)}"


def _counts(usage: Usage) -> str:
    parts = [
        f"{value} {name}"
        for name, value in (("decoded", usage.decoded_tokens), ("forced", usage.forced_tokens))
        if value
    ]
    return f" ({', '.join(parts)})" if parts else ""


# -------------------------------------------------------------------------------------------------------- mermaid


def mermaid(view: ProgramView) -> str:
    """A Mermaid flowchart: solid arrows in order, dotted ones where a value is used."""
    lines = ["flowchart TD"]
    ends: dict[int, str] = {0: "start"}
    lines.append('    start(["' + _mermaid_text(view.name) + '"])')
    for branch in view.branches.values():
        lines += _mermaid_branch(view, branch, ends)
    return "\n".join(lines)


def _mermaid_branch(view: ProgramView, branch: BranchView, ends: dict[int, str]) -> list[str]:
    lines: list[str] = []
    last = ends.get(branch.id, "start")
    forks = dict(branch.forks)
    for at in range(len(branch.nodes) + 1):
        for child in forks.get(at, ()):
            ends[child] = last
        if at < len(branch.nodes):
            node = branch.nodes[at]
            name = f"n{node.node.id}"
            lines.append(f"    {name}{_mermaid_shape(node)}")
            lines.append(f"    {last} --> {name}")
            if isinstance(node.node, Value):
                lines.append(f"    n{node.node.of} -.-> {name}")
            if isinstance(node.node, Join):
                lines += [f"    {_last_node(view, child)} --> {name}" for child in node.node.branches]
            last = name
    return lines


def _last_node(view: ProgramView, branch_id: int) -> str:
    """The last node of a branch; where it has none, of the branch it was forked from."""
    branch = view.branches[branch_id]
    while not branch.nodes:
        if branch.parent is None:
            return "start"
        branch = view.branches[branch.parent]
    return f"n{branch.nodes[-1].node.id}"


def _mermaid_shape(node: NodeView) -> str:
    label = _mermaid_text(_short_label(node))
    return f'(["{label}"])' if node.generated else f'["{label}"]'


def _short_label(node: NodeView) -> str:
    if isinstance(node.node, (Gen, Select)):
        known = "" if node.text is None else f": {node.text}"
        return f"{node.kind} {node.name}{known}"
    if isinstance(node.node, RoleBegin):
        return f"{node.node.role}:"
    if isinstance(node.node, RoleEnd):
        return "end of message"
    return node.text if node.text else node.kind


def _mermaid_text(text: str) -> str:
    short = text if len(text) <= 60 else text[:57] + "..."
    escapes = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " ", "`": "'"}
    return "".join(escapes.get(char, char) for char in short)


# ------------------------------------------------------------------------------------------------ timeline, usage


def timeline(view: ProgramView, width: int = 60) -> str:
    """When each generation ran, as bars on a common axis."""
    bars = sorted((node for node in view.nodes() if node.generated and node.end is not None), key=_begin)
    if not bars:
        return "nothing was generated"
    total = max(node.end or 0.0 for node in bars) or 1e-9
    lines = [f"{'':24}0{' ' * (width - 12)}{total * 1000:8.1f} ms"]
    for node in bars:
        left = min(width - 1, int(width * _begin(node) / total))
        size = max(1, round(width * (node.end or 0.0) / total) - left)
        label = f"branch {node.branch} {node.name or node.kind}"
        lines.append(f"{label[:23]:24}{' ' * left}{'█' * size}")
    return "\n".join(lines)


def _begin(node: NodeView) -> float:
    return node.start or 0.0


_HEAD = ("", "prompt", "cached", "forced", "decoded", "time")


def usage_table(view: ProgramView) -> str:
    """Tokens and time of every generated value, and of the program."""
    rows = [_usage_row(_row_name(node), node.usage) for node in view.nodes() if node.generated]
    if view.usage is not None:
        rows.append(_usage_row(view.name, view.usage))
    table = [_HEAD, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    lines = ["  ".join(_cell(row, widths, column) for column in range(len(_HEAD))).rstrip() for row in table]
    rule = "─" * sum([*widths, 2 * len(widths) - 2])
    return "\n".join(
        [lines[0], rule, *lines[1:-1], *([rule] if len(rows) > 1 and view.usage else []), lines[-1]]
    )


def _row_name(node: NodeView) -> str:
    name = node.name or node.kind
    return name if node.branch == 0 else f"{name} (branch {node.branch})"


def _cell(row: tuple[str, ...], widths: list[int], column: int) -> str:
    return row[column].ljust(widths[column]) if column == 0 else row[column].rjust(widths[column])


def _usage_row(name: str, usage: Usage) -> tuple[str, ...]:
    return (
        name,
        str(usage.prompt_tokens),
        f"{usage.cached_tokens}",
        str(usage.forced_tokens),
        str(usage.decoded_tokens),
        f"{usage.total_s * 1000:.1f} ms",
    )
