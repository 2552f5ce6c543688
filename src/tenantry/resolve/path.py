"""The tenant is in the path: ``/t/acme/orders``. Pure."""

from __future__ import annotations

import re

from tenantry.errors import InvalidInput, Unresolved
from tenantry.model import shown
from tenantry.resolve.claim import Claim, ClaimKind, known_claim
from tenantry.resolve.header import slug_or_key
from tenantry.resolve.request import RequestFacts

_TEMPLATE = re.compile(r"(/(?:[A-Za-z0-9._~-]+/)*)\{tenant\}/?", re.ASCII)


class Path:
    """Claims the slug or key in one segment of the path, and gives the part before the application's own path as
    ``path_prefix``.

    No answer: a path that does not begin like the template, and one that ends where the tenant would stand. Refused: a
    segment that is no slug or key, and a path with ``.`` or ``..`` segments, which proxies read in different ways.

    Args:
        template: begins with ``/`` and ends with the segment ``{tenant}``. Letters are compared exactly.
        kind: ``slug`` or ``key``.

    Raises:
        InvalidInput: another form of template, or another kind.
    """

    def __init__(self, template: str = "/t/{tenant}", *, kind: str = ClaimKind.SLUG) -> None:
        found = _TEMPLATE.fullmatch(str(template))
        if found is None:
            raise InvalidInput(f"{shown(template)} is not a template of a path", hint="write it like '/t/{tenant}'")
        self._before = found[1]
        self._kind = slug_or_key(kind)
        self.name = f"path {self._before}{{tenant}}"

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim of the path; see the class."""
        if not request.path.startswith(self._before) or request.path == self._before:
            return None
        if {".", ".."}.intersection(request.path.split("/")):
            raise Unresolved("the path has '.' or '..' segments", where=self.name, hint="send the path they stand for")
        value = request.path.removeprefix(self._before).partition("/")[0]
        return known_claim(self._kind, value, self.name, path_prefix=f"{self._before}{value}")
