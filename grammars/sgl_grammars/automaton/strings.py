"""JSON strings: from the automaton of a decoded text to that of its JSON form.

Escapes are the canonical ones, as `json.dumps(ensure_ascii=False)` writes them: short ones where JSON has them, four
hexadecimal digits (in either case) for other control characters, and nothing else escaped. One text has one form.
"""

from __future__ import annotations

import numpy as np

from sgl_grammars.automaton import combine
from sgl_grammars.automaton.charset import ANY
from sgl_grammars.automaton.dfa import Bools, Dfa, Ints
from sgl_grammars.automaton.limits import Budget, NotRegular
from sgl_grammars.automaton.regex import compile_pattern

__all__ = ["any_text", "format_dfa", "quoted"]

_SHORT = {'"': 0x22, "\\": 0x5C, "b": 0x08, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09}
_HEX = [[ord(letter) for letter in {digit.lower(), digit.upper()}] for digit in "0123456789abcdef"]
_STAGES = 6  # after: \, u, u0, u00, u000, u001


def any_text(low: int, high: int | None, budget: Budget) -> Dfa:
    """Any text of `low` to `high` characters, decoded."""
    return combine.repeat(combine.characters(ANY), low, high, budget)


def quoted(text: Dfa, budget: Budget) -> Dfa:
    """The JSON strings whose decoded text `text` accepts."""
    quote = combine.literal(b'"')
    return combine.concat([quote, _escaped(text, budget), quote], budget)


def _escaped(text: Dfa, budget: Budget) -> Dfa:
    """As `text`, with quotes, backslashes and control characters escaped.

    State s with such a byte ahead gets six more states: the way through an escape that was begun in s.
    """
    hidden = [*range(0x20), 0x22, 0x5C]
    begun = np.flatnonzero(text.table[:, hidden].any(axis=1))
    count, size = len(begun), text.size
    budget.states(size + _STAGES * count)
    stage = [size + index * count + np.arange(count, dtype=np.int32) for index in range(_STAGES)]
    table = np.zeros((size + _STAGES * count, 256), dtype=np.int32)
    table[:size] = text.table
    table[:size, hidden] = 0
    targets = text.table[begun]
    table[begun, ord("\\")] = stage[0]
    for letter, byte in _SHORT.items():
        table[stage[0], ord(letter)] = targets[:, byte]
    controls = targets[:, :0x20].any(axis=1)
    table[stage[0], ord("u")] = np.where(controls, stage[1], 0)
    table[stage[1], ord("0")] = np.where(controls, stage[2], 0)
    table[stage[2], ord("0")] = np.where(controls, stage[3], 0)
    for half, name in ((0, "0"), (1, "1")):
        own = targets[:, 16 * half : 16 * half + 16]
        table[stage[3], ord(name)] = np.where(own.any(axis=1), stage[4 + half], 0)
        for digit, codes in enumerate(_HEX):
            for code in codes:
                table[stage[4 + half], code] = own[:, digit]
    return _pruned(table, np.append(text.accepting, np.zeros(_STAGES * count, dtype=bool)), text.start)


def _pruned(table: Ints, accepting: Bools, start: int) -> Dfa:
    """Drop escape states that lead nowhere (a text of lower-case letters has none)."""
    dead = ~table.any(axis=1) & ~accepting
    keep = ~dead
    keep[0] = True
    number = np.cumsum(keep, dtype=np.int32) - np.int32(1)
    number[dead] = 0
    return Dfa(number[table[keep]], accepting[keep], int(number[start]))


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_H16 = "[0-9a-fA-F]{1,4}"
_LS32 = f"({_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(  # RFC 3986, section 3.2.2
    [
        f"({_H16}:){{6}}{_LS32}",
        f"::({_H16}:){{5}}{_LS32}",
        *(f"(({_H16}:){{0,{4 - n}}}{_H16})?::({_H16}:){{{n}}}{_LS32}" for n in (4, 3, 2, 1, 0)),
        f"(({_H16}:){{0,5}}{_H16})?::{_H16}",
        f"(({_H16}:){{0,6}}{_H16})?::",
    ]
)
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_P = r"([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

_FORMATS = {
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "email": rf"{_ATEXT}+(\.{_ATEXT}+)*@{_LABEL}(\.{_LABEL})*",
    "uri": (
        r"[A-Za-z][A-Za-z0-9+.-]*:(//(([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?"
        r"([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(:[0-9]*)?"
        rf"(/{_P}*)*|/({_P}+(/{_P}*)*)?|({_P}+(/{_P}*)*)?)(\?({_P}|[/?])*)?(#({_P}|[/?])*)?"
    ),
}


def format_dfa(name: str, budget: Budget) -> Dfa:
    """Decoded texts of a format. Raises `NotRegular` for formats that are not built here."""
    if name not in _FORMATS:
        raise NotRegular(f"format {name!r} is not built as an automaton")
    return compile_pattern(_FORMATS[name], budget)
