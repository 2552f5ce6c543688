"""The tenant is who owns the host: ``shop.customer.org``. Pure."""

from __future__ import annotations

from collections.abc import Collection

from tenantry.errors import InvalidInput
from tenantry.resolve.claim import Claim, ClaimKind, known_claim
from tenantry.resolve.hosts import is_domain, names, normalise_host, parse_domain
from tenantry.resolve.request import RequestFacts


class CustomDomain:
    """Claims every domain that is not the application's own.

    No answer: the application's domains and all below them, IP addresses and single-label names (health checks of a
    load balancer, ``localhost``).

    Args:
        exclude: the application's own domains; the same as the suffixes of ``Subdomain``.

    Raises:
        InvalidInput: nothing is excluded, or something that is not a domain name.
    """

    name = "custom domain"

    def __init__(self, exclude: str | Collection[str]) -> None:
        self._own = tuple(parse_domain(name) for name in names(exclude))
        if not self._own:
            raise InvalidInput("CustomDomain excludes nothing", hint="name the application's own domains in 'exclude'")

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim of the whole host; see the class."""
        host = normalise_host(request.host)
        if not is_domain(host) or any(host == own or host.endswith(f".{own}") for own in self._own):
            return None
        return known_claim(ClaimKind.DOMAIN, host, self.name)
