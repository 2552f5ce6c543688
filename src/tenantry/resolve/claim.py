"""What a resolver says about a request: "it belongs to the tenant with this slug, domain or key". Pure.

A claim is not a tenant yet: the router looks it up. A claim whose value is malformed can't be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from tenantry.errors import InvalidInput, InvalidSlug, Unresolved
from tenantry.model import TEXT_KEY_BYTES, parse_slug, shown
from tenantry.resolve.hosts import is_domain, normalise_host


class ClaimKind(StrEnum):
    """By what a claim names its tenant."""

    SLUG = "slug"
    DOMAIN = "domain"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Claim:
    """One resolver's answer.

    Args:
        kind: what ``value`` is.
        value: a slug, a normalised domain name, or a tenant key as text (the router parses it by the house's key type).
        source: the name of the resolver, for messages and logs.
        path_prefix: the part of the path that named the tenant, to be moved to ``root_path`` or ``SCRIPT_NAME``.

    Raises:
        Unresolved: ``value`` is not a slug, domain or key. The message holds at most 60 of its characters, escaped.
    """

    kind: ClaimKind
    value: str
    source: str
    path_prefix: str = ""

    def __post_init__(self) -> None:
        match parse_kind(self.kind):
            case ClaimKind.SLUG:
                _check_slug(self.value, self.source)
            case ClaimKind.DOMAIN:
                _check_domain(self.value, self.source)
            case ClaimKind.KEY:
                _check_key(self.value, self.source)


@lru_cache(maxsize=4096)
def known_claim(kind: ClaimKind, value: str, source: str, path_prefix: str = "") -> Claim:
    """The same as a claim; one that was found right lately is not looked through again."""
    return Claim(kind, value, source, path_prefix)


def parse_kind(value: object) -> ClaimKind:
    """The kind of a claim from a configuration.

    Raises:
        InvalidInput: not ``slug``, ``domain`` or ``key``.
    """
    try:
        return ClaimKind(str(value))
    except ValueError:
        raise InvalidInput(f"{shown(value)} is not a kind of claim", hint="use 'slug', 'domain' or 'key'") from None


def _check_slug(value: object, source: str) -> None:
    try:
        parse_slug(value)
    except InvalidSlug as error:
        raise Unresolved(error.message, where=source, hint=error.hint) from None


def _check_domain(value: object, source: str) -> None:
    if not isinstance(value, str) or normalise_host(value) != value or not is_domain(value):
        raise Unresolved(f"{shown(value)} is not a normalised domain name", where=source)


def _check_key(value: object, source: str) -> None:
    # What can't be printed (controls, zero-width and bidirectional marks, lone surrogates) only serves to deceive.
    if not isinstance(value, str) or not value or not value.isprintable() or len(value.encode()) > TEXT_KEY_BYTES:
        raise Unresolved(
            f"{shown(value)} is not a tenant key",
            where=source,
            hint=f"send 1 to {TEXT_KEY_BYTES} bytes of printable UTF-8",
        )
