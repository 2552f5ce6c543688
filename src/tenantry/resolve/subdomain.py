"""The tenant is the one label before the application's own domain: ``acme.example.com``. Pure."""

from __future__ import annotations

from collections.abc import Collection

from tenantry.errors import InvalidInput, Unresolved
from tenantry.model import shown
from tenantry.resolve.claim import Claim, ClaimKind, known_claim
from tenantry.resolve.hosts import names, normalise_host, parse_domain
from tenantry.resolve.request import RequestFacts


class Subdomain:
    """Claims the slug in ``SLUG.suffix``.

    No answer: the bare suffix, an ignored name, and hosts outside all suffixes. Refused: two labels or more before the
    suffix, and a label that is no slug.

    Args:
        suffixes: the application's own domains. Where they nest, the longest wins.
        ignore: names before a suffix that are the application's own, such as ``www`` or ``api.eu``.

    Raises:
        InvalidInput: no suffix, or one that is not a domain name.
    """

    def __init__(self, *suffixes: str, ignore: str | Collection[str] = ("www",)) -> None:
        if not suffixes:
            raise InvalidInput(
                "Subdomain has no suffix", hint="name the application's domain: Subdomain('example.com')"
            )
        self._suffixes = sorted((parse_domain(suffix) for suffix in suffixes), key=len, reverse=True)
        self._ignore = frozenset(parse_domain(name) for name in names(ignore))
        self.name = f"subdomain of {', '.join(self._suffixes)}"

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim of the host's first label; see the class."""
        host = normalise_host(request.host)
        for suffix in self._suffixes:
            if host == suffix:
                return None
            if host.endswith(f".{suffix}"):
                return self._claim(host.removesuffix(f".{suffix}"))
        return None

    def _claim(self, label: str) -> Claim | None:
        if label in self._ignore:
            return None
        if "." in label:
            raise Unresolved(
                f"{shown(label)} before the application's domain is more than one label",
                where=self.name,
                hint="use one label; list the application's own names in 'ignore'",
            )
        return known_claim(ClaimKind.SLUG, label, self.name)
