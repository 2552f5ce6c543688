"""Host names as they arrive and as they are configured, brought to one form. Pure.

What arrives is checked against RFC 9110 section 7.2 and RFC 1123 section 2.1, and only folded where DNS folds: the case
of a-z, one trailing dot, the port. Letters that only look like a-z are refused, never mapped: a browser sends an
internationalised name as A-labels (``xn--...``).
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Collection
from functools import lru_cache

from tenantry.errors import InvalidInput, Unresolved
from tenantry.model import shown

HOST_CHARACTERS = 253
"""The longest host name, without a trailing dot (RFC 1035 section 2.3.4)."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_HOST = re.compile(r"(?P<name>[a-z0-9.-]+?|\[[0-9a-f:.]+\])\.?(?::(?P<port>[0-9]{0,5}))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@lru_cache(maxsize=4096)
def normalise_host(host: str) -> str:
    """The name in a ``Host`` header: lower case, without port and trailing dot. An IPv6 address keeps its brackets.

    Raises:
        Unresolved: it is missing or is not a host.
    """
    if not host:
        raise Unresolved("the request has no Host header", hint="send one; HTTP/1.1 requires it")
    found = _HOST.fullmatch(host.translate(_FOLD))
    if found is None or int(found["port"] or 0) > 65535 or not _is_name_or_address(found["name"]):
        raise Unresolved(f"{shown(host)} is not a host name", hint="send the name of the site, with or without a port")
    return found["name"]


def parse_domain(value: object) -> str:
    """A domain name from a configuration or an operator, in lower case and as A-labels.

    ``Bücher.example`` becomes ``xn--bcher-kva.example``.

    Raises:
        InvalidInput: not a domain name, an IP address, or letters that IDNA 2008 (RFC 5891) does not allow.
    """
    name = value.removesuffix(".").translate(_FOLD) if isinstance(value, str) else ""
    if not name.isascii() or "xn--" in name:
        name = _a_labels(name)
    if len(name) > HOST_CHARACTERS or not _NAME.fullmatch(name) or _ends_in_number(name):
        raise InvalidInput(
            f"{shown(value)} is not a domain name",
            hint="write it like 'app.example.com': no scheme, port, path, wildcard or leading dot",
        )
    return name


def is_domain(host: str) -> bool:
    """Whether a normalised host could be a customer's domain: two labels or more, and not an IP address."""
    return "." in host and not host.startswith("[") and not _ends_in_number(host)


def names(value: str | Collection[str]) -> tuple[str, ...]:
    """One name or several as a tuple, so that a lone string is not taken for its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


def _is_name_or_address(name: str) -> bool:
    if not name.startswith("["):
        return len(name) <= HOST_CHARACTERS and _NAME.fullmatch(name) is not None
    try:
        ipaddress.IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True


def _ends_in_number(name: str) -> bool:
    """Such a name is an IPv4 address to a browser, however it is written (WHATWG URL, "ends in a number")."""
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None


def _a_labels(name: str) -> str:
    import idna  # its tables are big, and most processes never need them

    try:
        return idna.encode(name).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return ""
