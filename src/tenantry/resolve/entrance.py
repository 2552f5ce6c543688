"""What a web application asks for at its door. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tenantry.errors import NoTenant
from tenantry.resolve.chain import Chain, as_chain
from tenantry.resolve.claim import Claim
from tenantry.resolve.exempt import Exempt
from tenantry.resolve.port import Resolver
from tenantry.resolve.request import RequestFacts


class Entrance:
    """Which claims a request makes, if it needs any.

    Args:
        resolver: says which tenant a request names.
        exempt: paths that need no tenant: exact ones, or beginnings that end with ``*``.
        optional: whether a request that names no tenant gets through, without a tenant.

    Raises:
        InvalidInput: a wrong kind of resolver, or a path that does not begin with ``/``.
    """

    def __init__(self, resolver: Chain | Resolver, exempt: Iterable[str], *, optional: bool) -> None:
        self._chain = as_chain(resolver)
        self._exempt = Exempt(exempt)
        self._optional = optional

    def claims(self, facts: RequestFacts) -> tuple[Claim, ...]:
        """The claims to look up; none if the request goes on without a tenant.

        Raises:
            NoTenant: it needs one and names none.
            Unresolved: it names one in a way that can't be trusted.
        """
        if facts.path in self._exempt:
            return ()
        try:
            return self._chain.resolve(facts)
        except NoTenant:
            if self._optional:
                return ()
            raise


def path_prefix(claims: Sequence[Claim]) -> str:
    """The part of the path that named the tenant; empty if none did."""
    return next((claim.path_prefix for claim in claims if claim.path_prefix), "")
