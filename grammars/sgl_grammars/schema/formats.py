"""String formats: which the grammar engine knows, which a pattern says, which nobody enforces.

A format that no JSON Schema specification defines is an annotation there, and so it is here.
"""

from __future__ import annotations

NATIVE_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
"""Enforced by llguidance."""

_UNRESERVED = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_LITERAL = r"[A-Za-z0-9._~!#$&()*+,;=:/?@\[\]-]|%[0-9A-Fa-f]{2}|[\u00a0-\uffff]"
_NAME = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+(?:\.(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+)*(?::[1-9][0-9]{0,3}|\*)?"

PATTERN_FORMATS = {
    # RFC 6570: literals and expressions
    "uri-template": rf"^(?:{_LITERAL}|\{{[+#./;?&=,!@|]?{_NAME}(?:,{_NAME})*\}})*$",
    # RFC 3986, 4.1: with or without a scheme
    "uri-reference": (
        rf"^(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?:{_UNRESERVED}|/)*(?:\?(?:{_UNRESERVED}|[/?])*)?(?:#(?:{_UNRESERVED}|[/?])*)?$"
    ),
    # RFC 6901
    "json-pointer": r"^(?:/(?:[^~/]|~0|~1)*)*$",
    "relative-json-pointer": r"^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~0|~1)*)*)$",
}

UNENFORCED_FORMATS = frozenset({"idn-email", "idn-hostname", "iri", "iri-reference", "regex"})
