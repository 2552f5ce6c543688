"""Who: which tenant does a request belong to? Resolvers look at one place each, a chain asks them all.

    chain = Chain(Subdomain("example.com"), JwtClaim(keys=..., algorithms=["RS256"], issuer=..., audience=...))
    claims = chain.resolve(RequestFacts.from_asgi(scope))
    tenant = agree([(claim, look_up(claim)) for claim in claims])

Nothing here does I/O: a claim becomes a tenant in ``tenantry.routing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenantry.resolve.chain import Chain, agree, as_chain
from tenantry.resolve.claim import Claim, ClaimKind
from tenantry.resolve.domain import CustomDomain
from tenantry.resolve.function import Function
from tenantry.resolve.header import Header
from tenantry.resolve.hosts import normalise_host, parse_domain
from tenantry.resolve.path import Path
from tenantry.resolve.port import Resolver
from tenantry.resolve.request import RequestFacts
from tenantry.resolve.subdomain import Subdomain

if TYPE_CHECKING:
    from tenantry.resolve.jwt import JwtClaim

RESOLVERS = ("Subdomain", "CustomDomain", "Header", "Path", "JwtClaim", "Function")
"""The names of all resolvers here; the contract test runs on each."""

__all__ = [
    "RequestFacts",
    "Claim",
    "ClaimKind",
    "Resolver",
    "Subdomain",
    "CustomDomain",
    "Header",
    "Path",
    "JwtClaim",
    "Function",
    "Chain",
    "as_chain",
    "agree",
    "RESOLVERS",
    "normalise_host",
    "parse_domain",
]


def __getattr__(name: str) -> Any:
    """``JwtClaim`` needs an extra, so it is imported when it is asked for."""
    if name != "JwtClaim":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tenantry.resolve.jwt import JwtClaim

    return JwtClaim
