"""Slugs before the application's own domain."""

from __future__ import annotations

import pytest

from tenantry.errors import InvalidInput, Unresolved
from tenantry.resolve import Claim, ClaimKind, Subdomain
from tests.resolve.forge import request


def slug(resolver: Subdomain, host: str) -> str | None:
    claim = resolver.resolve(request(host))
    return claim.value if claim else None


def test_the_label_before_a_suffix_is_the_slug() -> None:
    claim = Subdomain("example.com", "example.org").resolve(request("Acme.Example.ORG:8443"))
    assert claim == Claim(ClaimKind.SLUG, "acme", "subdomain of example.com, example.org")


@pytest.mark.parametrize("host", ["example.com", "www.example.com", "WWW.example.com", "api.eu.example.com"])
def test_the_applications_own_names_are_no_answer(host: str) -> None:
    assert slug(Subdomain("example.com", ignore=("www", "api.eu")), host) is None


def test_www_is_ignored_by_default_and_a_lone_string_is_one_name() -> None:
    assert slug(Subdomain("example.com"), "www.example.com") is None
    assert slug(Subdomain("example.com", ignore="api"), "a.example.com") == "a"


@pytest.mark.parametrize("host", ["a.b.example.com", "www.acme.example.com"])
def test_more_than_one_label_is_refused(host: str) -> None:
    with pytest.raises(Unresolved, match="more than one label"):
        slug(Subdomain("example.com"), host)


@pytest.mark.parametrize("label", ["xn--cme-7cd", "xn--acme"])
def test_a_label_that_a_browser_shows_as_other_letters_is_refused(label: str) -> None:
    with pytest.raises(Unresolved, match="is not a slug"):
        slug(Subdomain("example.com"), f"{label}.example.com")


def test_the_longest_of_nested_suffixes_wins_in_any_order() -> None:
    for resolver in (Subdomain("example.com", "eu.example.com"), Subdomain("eu.example.com", "example.com")):
        assert slug(resolver, "acme.eu.example.com") == "acme"
        assert slug(resolver, "acme.example.com") == "acme"
        assert slug(resolver, "eu.example.com") is None


def test_localhost_can_be_the_suffix_while_developing() -> None:
    assert slug(Subdomain("localhost"), "acme.localhost:8000") == "acme"


@pytest.mark.parametrize("suffixes", [(), ("",), (".example.com",), ("*.example.com",), ("http://example.com",)])
def test_a_wrong_suffix_is_refused_when_the_resolver_is_made(suffixes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        Subdomain(*suffixes)
