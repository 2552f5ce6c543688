"""A claim that exists is well formed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput, InvalidKey, InvalidSlug, Unresolved
from tenantry.model import KeyType, parse_key, parse_slug
from tenantry.resolve import Claim, ClaimKind


@given(st.text(max_size=80))
def test_a_claim_of_a_slug_is_a_slug(value: str) -> None:
    try:
        claim = Claim(ClaimKind.SLUG, value, "test")
    except Unresolved:
        with pytest.raises(InvalidSlug):
            parse_slug(value)
    else:
        assert parse_slug(claim.value) == value


@given(st.text(max_size=250))
def test_a_claim_of_a_key_is_a_text_key_that_can_be_printed(value: str) -> None:
    try:
        Claim(ClaimKind.KEY, value, "test")
    except Unresolved:
        if value.isprintable():
            with pytest.raises(InvalidKey):
                parse_key(value, KeyType.TEXT)
    else:
        assert value.isprintable()
        assert parse_key(value, KeyType.TEXT) == value


def test_a_key_is_at_most_200_bytes_long() -> None:
    assert Claim(ClaimKind.KEY, "é" * 100, "test").value == "é" * 100
    with pytest.raises(Unresolved, match="not a tenant key"):
        Claim(ClaimKind.KEY, "é" * 100 + "a", "test")


@pytest.mark.parametrize("value", ["", "Acme.org", "acme.org.", "acme.org:80", "acme", "127.0.0.1", "[::1]", "é.org"])
def test_a_claim_of_a_domain_is_normalised(value: str) -> None:
    with pytest.raises(Unresolved):
        Claim(ClaimKind.DOMAIN, value, "test")


@pytest.mark.parametrize("kind", list(ClaimKind))
@pytest.mark.parametrize("value", [None, 7, b"acme", ["acme"]])
def test_only_a_text_can_be_claimed(kind: ClaimKind, value: object) -> None:
    with pytest.raises(Unresolved):
        Claim(kind, value, "test")  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'id' is not a kind of claim"):
        Claim("id", "acme", "test")  # type: ignore[arg-type]


def test_an_error_says_which_resolver_it_came_from_and_what_to_do() -> None:
    with pytest.raises(Unresolved) as caught:
        Claim(ClaimKind.SLUG, "x" * 65_536, "header x-tenant")
    assert caught.value.where == "header x-tenant"
    assert caught.value.hint
    assert "65,538 characters" in caught.value.message
