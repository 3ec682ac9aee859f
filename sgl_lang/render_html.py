"""A program as one self-contained HTML page: no scripts, nothing loaded. All text is escaped."""

from __future__ import annotations

from html import escape

from sgl_lang.tree import RoleBegin, RoleEnd, Usage
from sgl_lang.treetext import node_text
from sgl_lang.views import BranchView, NodeView, ProgramView

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem;color:#1b1f24;background:#fff}
.branch{border-left:3px solid #d0d7de;margin:.4rem 0 .4rem 1rem;padding-left:.8rem}
.node{white-space:pre-wrap;word-break:break-word;display:inline}
.gen{background:#d7f5dd;border-radius:3px;padding:0 2px}.select{background:#dceaff;border-radius:3px;padding:0 2px}
.value{background:#fff3cd}.hole{background:#f3e1ff}.failed{background:#ffd9d9}
.role{display:block;color:#57606a;font-weight:600;margin-top:.5rem}
.label{color:#57606a;font-size:12px;margin-top:.5rem}
.counts{color:#57606a;font-size:11px;vertical-align:sub;margin:0 .3em 0 .15em}
.unknown{color:#8c959f;font-style:italic}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .7rem;text-align:right;
border-bottom:1px solid #d0d7de}
td:first-child,th:first-child{text-align:left}
.bar{fill:#2da44e}.axis{font-size:11px;fill:#57606a}
"""


def html_page(view: ProgramView) -> str:
    """The page: text with generated parts marked (hover for details), usage table, timeline."""
    title = escape(view.name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"{_branch(view, view.branches[0])}{_usage(view)}{_timeline(view)}</body></html>\n"
    )


def _branch(view: ProgramView, branch: BranchView) -> str:
    parts = [f'<div class="branch" id="branch{branch.id}"><div class="label">branch {branch.id}</div>']
    forks = dict(branch.forks)
    for at in range(len(branch.nodes) + 1):
        parts += [_branch(view, view.branches[child]) for child in forks.get(at, ())]
        if at < len(branch.nodes):
            parts.append(_node(branch.nodes[at]))
    return "".join([*parts, "</div>"])


def _node(node: NodeView) -> str:
    if isinstance(node.node, RoleBegin):
        return f'<span class="role">{escape(node.node.role)}</span>'
    if isinstance(node.node, RoleEnd):
        return "<br>"
    kind = "failed" if node.error is not None else node.kind
    if node.error is not None or node.text is None:
        shown = f'<span class="unknown">{escape(node.error or node.name or node.kind)}</span>'
    else:
        shown = escape(node.text)
    details = escape(_details(node), quote=True)
    return f'<span class="node {kind}" id="node{node.node.id}" title="{details}">{shown}</span>{_badge(node)}'


def _badge(node: NodeView) -> str:
    """The counts of a node, behind its text: all of a generated one; tokens of a known one, if they were traced."""
    if node.generated and node.text is not None:
        counts = [f"{value} {name}" for name, value in _numbers(node.usage) if name != "time"]
        shown = " · ".join([*counts, f"{node.usage.total_s * 1000:.1f} ms"])
    elif node.tokens:
        shown = f"{node.tokens} tokens, {node.usage.cached_tokens} cached"
    else:
        return ""
    return f'<span class="counts">{shown}</span>'


def _details(node: NodeView) -> str:
    lines = [node_text(node.node)[:300]]
    if node.line is not None:
        lines.append(f"asked for at {node.line}")
    if node.tokens is not None:
        lines.append(f"{node.tokens} tokens")
    if node.generated:
        lines += [f"{name} {value}" for name, value in _numbers(node.usage)]
    return "\n".join(lines)


def _numbers(usage: Usage) -> list[tuple[str, str]]:
    return [
        ("prompt", str(usage.prompt_tokens)),
        ("cached", str(usage.cached_tokens)),
        ("forced", str(usage.forced_tokens)),
        ("decoded", str(usage.decoded_tokens)),
        ("time", f"{usage.total_s * 1000:.1f} ms"),
    ]


def _usage(view: ProgramView) -> str:
    rows = [(node.name or node.kind, node.branch, node.usage) for node in view.nodes() if node.generated]
    body = "".join(
        _row(f"{name} (branch {branch})" if branch else name, usage) for name, branch, usage in rows
    )
    total = "" if view.usage is None else _row(view.name, view.usage)
    head = "".join(f"<th>{name}</th>" for name, _ in [("value", ""), *_numbers(Usage())])
    return f"<h2>Tokens and time</h2><table><tr>{head}</tr>{body}{total}</table>"


def _row(name: str, usage: Usage) -> str:
    return f"<tr><td>{escape(name)}</td>{''.join(f'<td>{value}</td>' for _, value in _numbers(usage))}</tr>"


def _timeline(view: ProgramView) -> str:
    bars = sorted(
        (node for node in view.nodes() if node.generated and node.end is not None),
        key=lambda node: node.start or 0.0,
    )
    if not bars:
        return ""
    total = max(node.end or 0.0 for node in bars) or 1e-9
    rows = "".join(_bar(node, at, total) for at, node in enumerate(bars))
    height = 20 * len(bars) + 20
    return (
        f'<h2>Timeline</h2><svg width="900" height="{height}" role="img">{rows}'
        f'<text class="axis" x="200" y="{height - 4}">0</text>'
        f'<text class="axis" x="840" y="{height - 4}">{total * 1000:.1f} ms</text></svg>'
    )


def _bar(node: NodeView, at: int, total: float) -> str:
    left = 200 + 640 * (node.start or 0.0) / total
    width = max(2.0, 640 * ((node.end or 0.0) - (node.start or 0.0)) / total)
    label = escape(f"branch {node.branch} {node.name or node.kind}")
    return (
        f'<text class="axis" x="0" y="{20 * at + 14}">{label}</text>'
        f'<rect class="bar" x="{left:.1f}" y="{20 * at + 3}" width="{width:.1f}" height="14">'
        f"<title>{escape(_details(node))}</title></rect>"
    )
