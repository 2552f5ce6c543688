"""A header that names the tenant."""

from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput, Unresolved
from tenantry.resolve import Claim, ClaimKind, Header
from tests.resolve.forge import request


def test_the_header_holds_a_slug_by_default_or_a_key() -> None:
    facts = request(headers={"x-tenant": ("7",)})
    assert Header("X-Tenant").resolve(facts) == Claim(ClaimKind.SLUG, "7", "header x-tenant")
    assert Header("X-Tenant", kind="key").resolve(facts) == Claim(ClaimKind.KEY, "7", "header x-tenant")


def test_different_values_are_refused() -> None:
    with pytest.raises(Unresolved, match="sent 2 times"):
        Header("x-tenant").resolve(request(headers={"x-tenant": ("acme", "globex")}))


def test_values_that_a_wsgi_server_has_joined_are_refused() -> None:
    with pytest.raises(Unresolved, match="is not a slug"):
        Header("x-tenant").resolve(request(headers={"x-tenant": ("acme,globex",)}))


def test_bytes_that_are_not_ascii_are_refused_also_as_a_key() -> None:
    with pytest.raises(Unresolved, match="not visible ASCII"):
        Header("x-tenant", kind="key").resolve(request(headers={"x-tenant": ("\u00c3\u00a9",)}))


@pytest.mark.parametrize(
    "name", ["", "x tenant", "x-tenant:", "x-tenant\r\n", "x_tenant", "x-tenänt", "\u212aey", None]
)
def test_what_is_no_header_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Header(name)


@pytest.mark.parametrize("kind", ["domain", "id", "", None])
def test_another_kind_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInput):
        Header("x-tenant", kind=kind)
