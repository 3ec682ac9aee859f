"""Where in the user's program something was asked for, so that an error can name the line."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NamedTuple


class Place(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}"


NOWHERE = Place("<unknown>", 0)
_OURS = (os.path.join(os.path.dirname(os.path.abspath(__file__)), ""), contextlib.__file__)
"""Files whose frames are passed over: this package, and what runs its `with` blocks."""


def caller() -> Place:
    """The innermost line outside this package; about a microsecond."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_OURS):
        if frame.f_back is None:
            return NOWHERE
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)
