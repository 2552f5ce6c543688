"""The tenant is in a header that a gateway sets: ``X-Tenant: acme``. Pure."""

from __future__ import annotations

import re

from tenantry.errors import InvalidInput, Unresolved
from tenantry.model import shown
from tenantry.resolve.claim import Claim, ClaimKind, known_claim, parse_kind
from tenantry.resolve.request import RequestFacts

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]{1,100}", re.ASCII)


class Header:
    """Claims the slug or key in a header.

    Any client can send any header. Use it where a gateway overwrites the header, or next to a resolver that proves its
    answer, such as ``JwtClaim``: the chain then refuses a header that says something else.

    No answer: the header was not sent. Refused: an empty one, different values, and what is not visible ASCII.

    Args:
        header: its name, in any case.
        kind: ``slug`` or ``key``.

    Raises:
        InvalidInput: not the name of a header, or another kind.
    """

    def __init__(self, header: str, *, kind: str = ClaimKind.SLUG) -> None:
        self._header = parse_header_name(header)
        self._kind = slug_or_key(kind)
        self.name = f"header {self._header}"

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim of the header; see the class."""
        value = request.header(self._header)
        if value is None:
            return None
        if not value.isascii():
            raise Unresolved(f"{shown(value)} is not visible ASCII", where=self.name)
        return known_claim(self._kind, value, self.name)


def parse_header_name(value: object) -> str:
    """The name of a header from a configuration, in lower case (RFC 9110 section 5.1).

    Underscores are refused: WSGI can't tell ``X_Tenant`` from ``X-Tenant``, and a proxy that overwrites one may let the
    other through.

    Raises:
        InvalidInput: not such a name.
    """
    name = value.lower() if isinstance(value, str) and value.isascii() else ""
    if not _TOKEN.fullmatch(name):
        raise InvalidInput(
            f"{shown(value)} is not the name of a header", hint="write it like 'x-tenant', without underscores"
        )
    return name


def slug_or_key(value: object) -> ClaimKind:
    """The kind of a claim that may not be a domain.

    Raises:
        InvalidInput: another kind.
    """
    kind = parse_kind(value)
    if kind is ClaimKind.DOMAIN:
        raise InvalidInput("only a host can claim a domain", hint="use kind='slug' or kind='key'")
    return kind
