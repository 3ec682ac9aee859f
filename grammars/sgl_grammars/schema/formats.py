"""String formats: which the grammar engine knows, which a pattern says, which nobody enforces.

A format that no JSON Schema specification defines is an annotation there, and so it is here.
"""

from __future__ import annotations

NATIVE_FORMATS = frozenset({"duration", "email", "ipv4", "ipv6", "uuid", "uri"})
"""Enforced by llguidance as the specifications say (measured with the official test-suite)."""

_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = (
    r"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    r"|23:59:60(?:\.[0-9]+)?(?:[Zz]|[+-]00:00))"
)
# RFC 1123 labels without "--" at the third place: those are A-labels, whose check is not regular.
_LABEL = (
    r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-][A-Za-z0-9]"
    r"|[A-Za-z0-9][A-Za-z0-9-](?:[A-Za-z0-9][A-Za-z0-9-]|-[A-Za-z0-9])[A-Za-z0-9-]{0,58}[A-Za-z0-9]"
    r"|[A-Za-z0-9][A-Za-z0-9-](?:[A-Za-z0-9][A-Za-z0-9]|-[A-Za-z0-9]))"
)
_PCHAR = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_AUTHORITY = (
    r"//(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?"
    r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
_QUERY = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_FIRST = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+"
_LITERAL = r"[A-Za-z0-9._~!#$&'()*+,;=:/?@\[\]-]|%[0-9A-Fa-f]{2}|[\u00a0-\uffff]|[\U00010000-\U0010ffff]"
_NAME = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+(?:\.(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+)*(?::[1-9][0-9]{0,3}|\*)?"

PATTERN_FORMATS = {
    # RFC 3339, 5.6, with the days of each month and leap years; a leap second only at the end of a UTC day
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[Tt]{_TIME}$",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
    # RFC 6570: literals and expressions
    "uri-template": rf"^(?:{_LITERAL}|\{{[+#./;?&=,!@|]?{_NAME}(?:,{_NAME})*\}})*$",
    # RFC 3986, 4.1: with or without a scheme; the first segment of a relative path has no colon
    "uri-reference": (
        rf"^(?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?:{_AUTHORITY}(?:/(?:{_PCHAR})*)*|/(?:(?:{_PCHAR})+(?:/(?:{_PCHAR})*)*)?)"
        rf"|[A-Za-z][A-Za-z0-9+.-]*:(?:(?:{_PCHAR})+(?:/(?:{_PCHAR})*)*)?|(?:{_FIRST}(?:/(?:{_PCHAR})*)*)?){_QUERY}$"
    ),
    # RFC 6901
    "json-pointer": r"^(?:/(?:[^~/]|~0|~1)*)*$",
    "relative-json-pointer": r"^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~0|~1)*)*)$",
}

UNENFORCED_FORMATS = frozenset({"idn-email", "idn-hostname", "iri", "iri-reference", "regex"})

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
EXACT_FORMATS = {
    "ipv4": rf"^{_BYTE}(?:\.{_BYTE}){{3}}$",
    "uuid": "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
}
"""The native formats whose complement is taken of a pattern."""

OUTER_FORMATS = {
    **EXACT_FORMATS,
    "ipv6": "^[0-9A-Fa-f]*:[0-9A-Fa-f:.]*$",
    "uri": "^[A-Za-z][A-Za-z0-9+.-]*:",
    "email": "@",
    "duration": "^P",
}
"""Patterns that hold for every text of a native format, to show that two formats exclude each other."""
