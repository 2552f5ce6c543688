"""Several resolvers in one order of precedence. All are asked, and all that answer have to agree. Pure.

There is no "the first answer wins": a token of one tenant on the host of another has to be refused, whichever of the
two is asked first. Precedence decides which error is seen, and which claim leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tenantry.errors import ConflictingTenants, InvalidInput, NoTenant, TenantNotFound
from tenantry.model import Tenant, shown
from tenantry.resolve.claim import Claim, ClaimKind
from tenantry.resolve.header import parse_header_name
from tenantry.resolve.port import Resolver
from tenantry.resolve.request import RequestFacts


class Chain:
    """Resolvers in order of precedence.

    Args:
        resolvers: at least one; names may not repeat.
        trusted_host_header: where a proxy that you run puts the host (``x-forwarded-host``). It replaces ``Host`` for
            all resolvers, and a request without it is refused. By default ``Host`` is read and nothing else.

    Raises:
        InvalidInput: no resolver, something that is none, or two with one name.
    """

    def __init__(self, *resolvers: Resolver, trusted_host_header: str | None = None) -> None:
        for resolver in resolvers:
            _check_resolver(resolver)
        self.names = tuple(resolver.name for resolver in resolvers)
        if not self.names or len(set(self.names)) < len(self.names):
            raise InvalidInput(
                f"a chain of {list(self.names)} can't be asked",
                hint="give at least one resolver, and none twice; Subdomain takes several suffixes",
            )
        self._resolvers = resolvers
        self._host_header = None if trusted_host_header is None else parse_header_name(trusted_host_header)

    def __repr__(self) -> str:
        return f"<Chain: {'; '.join(self.names)}>"

    def resolve(self, request: RequestFacts) -> tuple[Claim, ...]:
        """The claims of all resolvers that have an answer, in order of precedence; at least one.

        Look all of them up and give the pairs to :func:`agree`: claims of different kinds can't be compared before.

        Raises:
            NoTenant: none has an answer; the message says where was looked.
            ConflictingTenants: two claim different slugs.
            Unresolved: one has found an answer that it refuses.
        """
        if self._host_header is not None:
            request = request.behind(self._host_header)
        answers = [resolver.resolve(request) for resolver in self._resolvers]
        claims = tuple([claim for claim in answers if claim is not None])
        if not claims:
            raise NoTenant(
                f"the request names no tenant; looked at: {'; '.join(self.names)}",
                hint="name the tenant in one of these places",
            )
        if len(claims) > 1:
            _same((claim, claim.value) for claim in claims if claim.kind is ClaimKind.SLUG)
        return claims


def as_chain(resolver: Chain | Resolver) -> Chain:
    """A lone resolver as a chain of one; a chain as it is."""
    return resolver if isinstance(resolver, Chain) else Chain(resolver)


def agree(found: Sequence[tuple[Claim, Tenant | None]]) -> Tenant:
    """The one tenant that all claims mean.

    A claim of nobody contradicts a claim of somebody, as one of somebody else does: otherwise the answer to a header
    ``X-Tenant: globex`` on another tenant's host would tell whether Globex is a customer.

    Args:
        found: every claim of a chain with the tenant that the catalog knows for it; None: it knows none.

    Raises:
        NoTenant: there is no claim.
        TenantNotFound: all claims are of nobody.
        ConflictingTenants: they mean different tenants. The message names the sources, and no tenant.
    """
    if not found:
        raise NoTenant("the request names no tenant")
    if len(found) > 1:
        _same((claim, tenant and tenant.id) for claim, tenant in found)
    tenant = found[0][1]
    if tenant is None:
        raise TenantNotFound("no claim of the request names a tenant that exists")
    return tenant


def _same(answers: Iterable[tuple[Claim, object]]) -> None:
    first: tuple[Claim, object] | None = None
    for claim, answer in answers:
        first = first or (claim, answer)
        if answer != first[1]:
            raise ConflictingTenants(f"{first[0].source} and {claim.source} name different tenants")


def _check_resolver(resolver: object) -> None:
    if isinstance(resolver, type) or not isinstance(resolver, Resolver):
        raise InvalidInput(
            f"{shown(resolver)} is not a resolver",
            hint="give an instance with 'name' and 'resolve'; wrap a function in Function",
        )
