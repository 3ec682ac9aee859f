"""Tool calls: how model families write them, the grammars that hold them, the parsers that read them."""

from __future__ import annotations

from sgl_grammars.tools.formats import FORMATS, Call, Tool, ToolCallParser, ToolFormat, ToolPart, find_format
from sgl_grammars.tools.reasoning import REASONING, ReasoningFormat, ReasoningParser, find_reasoning

__all__ = [
    "REASONING", "ReasoningFormat", "ReasoningParser", "find_reasoning",
    "FORMATS", "Call", "Tool", "ToolCallParser", "ToolFormat", "ToolPart", "find_format",
]  # fmt: skip
