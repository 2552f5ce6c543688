"""Keys in the forms in which people have them, and those that would be dangerous."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from joserfc.jwk import Key, KeySet, OctKey, RSAKey

from tenantry.errors import InvalidInput
from tenantry.resolve.keys import ALGORITHMS, import_keys, parse_algorithms
from tests.resolve.forge import EC, ED, PEM, RSA, SECRET, secret_key

RS256 = frozenset({"RS256"})
HS256 = frozenset({"HS256"})


@pytest.mark.parametrize(
    "source",
    [
        PEM,
        PEM.decode(),
        RSA,
        RSA.as_dict(private=False),
        {"keys": [RSA.as_dict(private=False)]},
        KeySet([RSA]),
        [PEM],
        (PEM, EC.as_pem(private=False)),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_public_key_is_taken_in_every_usual_form(source: Any) -> None:
    found = import_keys(source, RS256)
    keys = list(found) if isinstance(found, KeySet) else [found]
    assert [key.thumbprint() for key in keys] == [RSA.thumbprint()]


@pytest.mark.parametrize("source", [SECRET, SECRET.decode(), secret_key(), secret_key().as_dict()])
def test_a_shared_secret_is_taken_in_every_usual_form(source: Any) -> None:
    found = import_keys(source, HS256)
    assert isinstance(found, OctKey)
    assert found.raw_value == SECRET


def test_a_set_is_sifted_for_what_the_algorithms_can_use() -> None:
    mixed = {
        "keys": [
            {**RSA.as_dict(private=False), "kid": "a", "use": "sig"},
            {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "b", "use": "enc"},
            {**EC.as_dict(private=False), "kid": "c"},
            {**secret_key().as_dict(), "kid": "d"},
            {"kty": "from-the-future", "kid": "e"},
            {"kty": "RSA", "n": "broken"},
            {},
            None,
            7,
        ]
    }
    found = import_keys(mixed, RS256)
    assert isinstance(found, (KeySet, RSAKey))
    assert [key.kid for key in found] == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "source",
    [
        RSA.as_pem(private=False),
        EC.as_pem(private=False),
        ED.as_pem(private=False),
        RSA.as_pem(private=True),
        RSA.as_der(private=False),
        b" \n" + PEM,
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBroken0000000000000000000000000000 me",
        OctKey(b"-----BEGIN PUBLIC KEY----- somebody's", b""),
    ],
    ids=lambda source: ascii(source)[:30],
)
def test_a_key_pair_is_never_taken_for_a_shared_secret(source: Any) -> None:
    with pytest.raises(InvalidInput):
        import_keys(source, HS256)


@pytest.mark.parametrize("source", [SECRET, "", b"", None, {}, {"keys": []}, [], 7, EC, EC.as_pem(private=False), "x"])
def test_no_key_for_the_algorithms_is_refused_without_showing_one(source: Any) -> None:
    with pytest.raises(InvalidInput, match="there is no key for RS256") as caught:
        import_keys(source, RS256)
    assert SECRET.decode() not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("length", "algorithms"), [(31, {"HS256"}), (47, {"HS256", "HS384"}), (63, {"HS512"}), (20, {"HS256"})]
)
def test_a_short_secret_is_refused(length: int, algorithms: set[str]) -> None:
    with pytest.raises(InvalidInput, match="is shorter than") as caught:
        import_keys("s" * length, frozenset(algorithms))
    assert "sss" not in str(caught.value.as_dict())


def test_a_short_rsa_key_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        short: Key = RSAKey.generate_key(1024)
    with pytest.raises(InvalidInput, match="fewer than 2048 bits"):
        import_keys(short, RS256)


@pytest.mark.parametrize(
    "algorithms",
    [
        [],
        (),
        "RS256",
        None,
        ["none"],
        ["RS256", "none"],
        ["HS256", "RS256"],
        ["HS256", "ES256"],
        ["rs256"],
        ["RS128"],
        [None],
    ],
)
def test_algorithms_are_pinned_known_and_never_mixed(algorithms: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_algorithms(algorithms)


def test_every_algorithm_may_be_pinned_alone_and_key_pairs_together() -> None:
    assert all(parse_algorithms([name]) == {name} for name in ALGORITHMS)
    pairs = {name for name, kind in ALGORITHMS.items() if kind != "oct"}
    assert parse_algorithms(pairs) == pairs
