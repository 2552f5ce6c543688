"""What every resolver promises. A new resolver is found by itself, and fails here until it has a case."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import NamedTuple

import pytest

from tenantry import resolve
from tenantry.errors import Unresolved
from tenantry.resolve import (
    Chain,
    Claim,
    CustomDomain,
    Function,
    Header,
    Path,
    RequestFacts,
    Resolver,
    Subdomain,
)
from tenantry.resolve.jwt import JwtClaim
from tests.resolve import forge
from tests.resolve.forge import bearer, request, signed


class Case(NamedTuple):
    """A resolver, a value that it takes, and how a client would put a value where it looks."""

    resolver: Resolver
    value: str
    ask: Callable[[str], RequestFacts]


def by_session(facts: RequestFacts) -> str | None:
    return facts.header("x-session")


CASES = {
    "Subdomain": Case(Subdomain("example.com"), "acme", lambda value: request(f"{value}.example.com")),
    "CustomDomain": Case(CustomDomain(exclude=("example.com",)), "shop.acme.org", request),
    "Header": Case(Header("X-Tenant"), "acme", lambda value: request(headers={"x-tenant": (value,)})),
    "Path": Case(Path("/t/{tenant}"), "acme", lambda value: request(path=f"/t/{value}/orders")),
    "JwtClaim": Case(JwtClaim(**forge.PINNED), "acme", lambda value: bearer(signed({**forge.GOOD, "tenant": value}))),
    "Function": Case(Function(by_session), "acme", lambda value: request(headers={"x-session": (value,)})),
}

SILENT = request("127.0.0.1:8000", path="/health")

HOSTILE = (
    "",
    " acme",
    "acme ",
    "-acme",
    "acme'; drop table tenants; --",
    "acme\0",
    "acme\r\nSet-Cookie: a=b",
    "acme\u202e",
    "acme\u200b",
    "аcme",  # Cyrillic a
    "ａcme",  # full-width a
    "acme\u2024example",  # a dot that is none
    "\u212aey",  # the Kelvin sign, whose lower case is k
    "\ud800",
    "..",
    "../globex",
    "acme@globex",
    "a" * 64,
    "a" * 65_536,
)

each = pytest.mark.parametrize("case", [pytest.param(CASES[name], id=name) for name in resolve.RESOLVERS])


def test_every_resolver_of_the_room_is_registered_and_has_a_case() -> None:
    modules = [import_module(f"tenantry.resolve.{found.name}") for found in pkgutil.iter_modules(resolve.__path__)]
    classes = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "resolve")
    }
    assert classes - {Resolver.__name__, Chain.__name__} == set(resolve.RESOLVERS) == set(CASES)


@each
def test_it_implements_the_port(case: Case) -> None:
    assert isinstance(case.resolver, Resolver)
    assert case.resolver.name.isprintable()
    assert 0 < len(case.resolver.name) < 80


@each
def test_its_answer_is_a_claim_that_names_it_as_the_source(case: Case) -> None:
    claim = case.resolver.resolve(case.ask(case.value))
    assert isinstance(claim, Claim)
    assert (claim.value, claim.source) == (case.value, case.resolver.name)


@each
def test_it_has_no_answer_for_a_request_that_names_nobody(case: Case) -> None:
    assert case.resolver.resolve(SILENT) is None


@each
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:20])
def test_it_refuses_a_hostile_value_with_a_short_printable_message(case: Case, value: str) -> None:
    with pytest.raises(Unresolved) as caught:
        case.resolver.resolve(case.ask(value))
    error = caught.value
    assert 400 <= error.status < 500
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 200


@each
def test_asking_twice_and_from_many_threads_gives_the_same_answer(case: Case) -> None:
    facts = case.ask(case.value)
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(case.resolver.resolve, [facts] * 64))
    assert len(answers) == 1


@each
def test_a_chain_of_it_alone_gives_its_answer(case: Case) -> None:
    assert [claim.value for claim in resolve.as_chain(case.resolver).resolve(case.ask(case.value))] == [case.value]


@each
def test_its_repr_says_where_it_looks(case: Case) -> None:
    assert repr(case.resolver) == f"<Resolver: {case.resolver.name}>"
