"""Domains that customers own."""

from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput
from tenantry.resolve import Claim, ClaimKind, CustomDomain
from tests.resolve.forge import request


def test_a_host_outside_the_applications_domains_is_claimed_in_one_form() -> None:
    claim = CustomDomain(exclude=("example.com",)).resolve(request("Shop.Acme.ORG.:443"))
    assert claim == Claim(ClaimKind.DOMAIN, "shop.acme.org", "custom domain")


@pytest.mark.parametrize("host", ["example.com", "acme.example.com", "a.b.example.com", "EXAMPLE.com:80"])
def test_the_applications_own_domains_are_never_claimed(host: str) -> None:
    assert CustomDomain(exclude="example.com").resolve(request(host)) is None


@pytest.mark.parametrize("host", ["evilexample.com", "example.com.evil.org"])
def test_a_domain_that_only_resembles_the_applications_is_a_customers(host: str) -> None:
    claim = CustomDomain(exclude=("example.com",)).resolve(request(host))
    assert claim is not None
    assert claim.value == host


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1:80", "0x7f.1", "[::1]:8000", "localhost:8000", "web"])
def test_a_health_check_by_address_or_single_name_is_no_answer(host: str) -> None:
    assert CustomDomain(exclude=("example.com",)).resolve(request(host)) is None


@pytest.mark.parametrize("exclude", [(), [], ("not a domain",), ("127.0.0.1",)])
def test_it_has_to_know_the_applications_own_domains(exclude: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        CustomDomain(exclude=exclude)
