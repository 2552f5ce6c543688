"""The port that every resolver implements. Pure."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tenantry.resolve.claim import Claim
from tenantry.resolve.request import RequestFacts


@runtime_checkable
class Resolver(Protocol):
    """Says which tenant a request names, from one place in the request, without I/O and without changing anything."""

    @property
    def name(self) -> str:
        """Where it looks, in a few words, the same for all requests: it stands in errors and as a claim's source."""
        ...

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim, or None if the place where it looks is empty.

        Raises:
            Unresolved: that place holds something, and it can't be trusted or names no tenant. It is never passed over.
        """
        ...
