"""Several resolvers: precedence, agreement, and errors that say where was looked."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import ConflictingTenants, InvalidInput, NoTenant, TenantNotFound, Unresolved
from tenantry.model import Tenant, TenantState
from tenantry.resolve import (
    Chain,
    Claim,
    ClaimKind,
    CustomDomain,
    Function,
    Header,
    Path,
    RequestFacts,
    Subdomain,
    agree,
    as_chain,
)
from tests.resolve.forge import request


def tenant(number: int) -> Tenant:
    return Tenant(
        id=UUID(int=number),
        key=number,
        slug=f"secret-{number}",
        name=f"Secret {number}",
        plan="free",
        state=TenantState.ACTIVE,
    )


def claim(number: int) -> Claim:
    return Claim(ClaimKind.KEY, str(number), f"source {number}")


def unreachable(facts: RequestFacts) -> str:
    raise AssertionError("asked")


def test_claims_come_in_the_order_of_the_resolvers() -> None:
    facts = request("acme.example.com", "/t/acme", headers={"x-tenant": ("7",)})
    forward = Chain(Subdomain("example.com"), Header("x-tenant", kind="key"), Path())
    backward = Chain(Path(), Header("x-tenant", kind="key"), Subdomain("example.com"))
    claims = forward.resolve(facts)
    assert [found.value for found in claims] == ["acme", "7", "acme"]
    assert backward.resolve(facts) == claims[::-1]


def test_resolvers_without_an_answer_are_left_out() -> None:
    chain = Chain(Subdomain("example.com"), CustomDomain(exclude=("example.com",)), Header("x-tenant"))
    assert [found.source for found in chain.resolve(request("shop.acme.org"))] == ["custom domain"]


def test_no_answer_says_where_was_looked() -> None:
    chain = Chain(Subdomain("example.com"), Header("x-tenant"), Path("/t/{tenant}"))
    with pytest.raises(NoTenant) as caught:
        chain.resolve(request("example.com"))
    assert caught.value.message == (
        "the request names no tenant; looked at: subdomain of example.com; header x-tenant; path /t/{tenant}"
    )
    assert caught.value.status == 404


def test_different_slugs_are_refused_at_once_and_not_named() -> None:
    chain = Chain(Subdomain("example.com"), Header("x-tenant"))
    with pytest.raises(ConflictingTenants) as caught:
        chain.resolve(request("acme.example.com", headers={"x-tenant": ("globex",)}))
    assert caught.value.message == "subdomain of example.com and header x-tenant name different tenants"
    assert "globex" not in str(caught.value.as_dict())


def test_keys_and_domains_are_compared_only_after_the_look_up() -> None:
    upper = Function(lambda _: "6F9619FF-8B86-D011-B42D-00CF4FC964FF", kind="key", name="upper")
    lower = Function(lambda _: "6f9619ff-8b86-d011-b42d-00cf4fc964ff", kind="key", name="lower")
    other = Function(lambda _: "shop.acme.org", kind="domain", name="other")
    chain = Chain(CustomDomain(exclude=("example.com",)), upper, lower, other)
    assert len(chain.resolve(request("www.acme.org"))) == 4


@pytest.mark.parametrize("first", [True, False])
def test_a_bad_answer_is_never_passed_over_for_a_good_one(first: bool) -> None:
    header, host = Header("x-tenant"), Subdomain("example.com")
    with pytest.raises(Unresolved, match="is not a slug") as caught:
        Chain(*((header, host) if first else (host, header))).resolve(
            request("acme.example.com", headers={"x-tenant": ("",)})
        )
    assert caught.value.where == "header x-tenant"


def test_the_first_refusal_is_the_one_that_is_seen() -> None:
    with pytest.raises(Unresolved) as caught:
        Chain(Header("x-tenant"), Function(unreachable)).resolve(request(headers={"x-tenant": ("",)}))
    assert caught.value.where == "header x-tenant"


def test_the_forwarded_host_is_ignored_unless_it_is_trusted() -> None:
    facts = request("acme.example.com", headers={"x-forwarded-host": ("globex.example.com",)})
    trusting = Chain(Subdomain("example.com"), trusted_host_header="X-Forwarded-Host")
    assert [found.value for found in Chain(Subdomain("example.com")).resolve(facts)] == ["acme"]
    assert [found.value for found in trusting.resolve(facts)] == ["globex"]


@pytest.mark.parametrize(
    "values", [(), ("a.example.com", "b.example.com"), ("a.example.com, b.example.com",)], ids=["none", "two", "joined"]
)
def test_a_trusted_host_that_is_missing_or_doubtful_is_refused(values: tuple[str, ...]) -> None:
    chain = Chain(Subdomain("example.com"), trusted_host_header="x-forwarded-host")
    with pytest.raises(Unresolved):
        chain.resolve(request("acme.example.com", headers={"x-forwarded-host": values} if values else {}))


@pytest.mark.parametrize(
    "resolvers",
    [
        (),
        (Header("x-tenant"), Header("X-Tenant")),
        (Subdomain,),
        (CustomDomain,),
        (lambda facts: "acme",),
        ("x-tenant",),
        (None,),
        (Chain(Path()),),
    ],
    ids=["nothing", "one place twice", "a class", "a class with a name", "a function", "a name", "None", "a chain"],
)
def test_what_can_not_be_asked_is_refused_when_the_chain_is_made(resolvers: tuple[Header, ...]) -> None:
    with pytest.raises(InvalidInput):
        Chain(*resolvers)


def test_a_chain_is_its_own_chain() -> None:
    chain = Chain(Path())
    assert as_chain(chain) is chain


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_claims_agree_exactly_if_all_mean_one_tenant(numbers: list[int]) -> None:
    """0 is nobody, who contradicts everybody else."""
    found = [(claim(number), tenant(number) if number else None) for number in numbers]
    if set(numbers) == {0}:
        with pytest.raises(TenantNotFound):
            agree(found)
        return
    if len(set(numbers)) == 1:
        assert agree(found) == tenant(numbers[0])
        return
    with pytest.raises(ConflictingTenants) as caught:
        agree(found)
    assert "secret" not in str(caught.value.as_dict()).lower()
    assert f"source {numbers[0]} and source " in caught.value.message


def test_a_tenant_that_changed_between_two_look_ups_is_still_the_same() -> None:
    suspended = Tenant(UUID(int=1), 1, "renamed", "Renamed", "free", TenantState.SUSPENDED)
    assert agree([(claim(1), tenant(1)), (claim(1), suspended)]) == tenant(1)


def test_nothing_found_is_no_tenant() -> None:
    with pytest.raises(NoTenant):
        agree([])
