"""A verified token names the tenant: what is accepted, and the attacks on JSON Web Tokens that are not (RFC 8725)."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, Key, OctKey

from tenantry.errors import InvalidClaim, InvalidInput, Unavailable
from tenantry.resolve import Claim, ClaimKind, RequestFacts
from tenantry.resolve.jwt import JwtClaim
from tenantry.resolve.tokens import TOKEN_CHARACTERS
from tests.resolve.forge import (
    EC,
    ED,
    GOOD,
    NOW,
    PEM,
    PINNED,
    RSA,
    SECRET,
    as_json,
    bearer,
    encoded,
    handmade,
    request,
    secret_key,
    signed,
)


def jwt_claim(**changes: Any) -> JwtClaim:
    return JwtClaim(**{**PINNED, **changes})


def refused(facts: RequestFacts, **changes: Any) -> str:
    """The message of the refusal."""
    with pytest.raises(InvalidClaim) as caught:
        jwt_claim(**changes).resolve(facts)
    assert caught.value.status == 401
    assert caught.value.where
    assert caught.value.hint
    assert len(caught.value.message) < 120
    return caught.value.message


def test_a_good_token_claims_its_tenant() -> None:
    assert jwt_claim().resolve(bearer(signed())) == Claim(
        ClaimKind.SLUG, "acme", "claim tenant of the token in header authorization"
    )


def test_a_key_may_be_a_whole_number() -> None:
    claim = jwt_claim(kind="key").resolve(bearer(signed({**GOOD, "tenant": 7})))
    assert claim is not None
    assert (claim.kind, claim.value) == (ClaimKind.KEY, "7")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", RSA), ("PS512", RSA), ("ES256", EC), ("Ed25519", ED), ("EdDSA", ED), ("HS256", secret_key())],
)
def test_every_kind_of_key_verifies_without_a_warning(algorithm: str, key: Key) -> None:
    token = signed(key=key, alg=algorithm)
    assert jwt_claim(keys=key, algorithms=[algorithm]).resolve(bearer(token)) is not None


# Where the token is


@pytest.mark.parametrize("values", [(), ("Basic YWNtZTpzZWNyZXQ=",), ("Digest username=acme",), ("",)])
def test_no_bearer_token_is_no_answer(values: tuple[str, ...]) -> None:
    assert jwt_claim().resolve(request(headers={"authorization": values} if values else {})) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_may_have_any_case(scheme: str) -> None:
    assert jwt_claim().resolve(request(headers={"authorization": (f"{scheme} {signed()}",)})) is not None


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "bearer x", "Bearer a b", "Bearer a,b"])
def test_a_bearer_header_without_a_token_is_refused(value: str) -> None:
    assert "not a signed token" in refused(request(headers={"authorization": (value,)}))


def test_two_different_tokens_are_refused_even_if_both_are_good() -> None:
    first, second = signed(), signed({**GOOD, "tenant": "globex"})
    assert "several tokens" in refused(request(headers={"authorization": (f"Bearer {first}", f"Bearer {second}")}))


def test_another_header_may_hold_the_bare_token() -> None:
    resolver = jwt_claim(header="X-Id-Token")
    assert resolver.resolve(request(headers={"x-id-token": (signed(),)})) is not None
    assert resolver.resolve(request(headers={"x-id-token": (f"Bearer {signed()}",)})) is not None
    assert resolver.resolve(bearer(signed())) is None


def cookies(*lines: str) -> RequestFacts:
    return request(headers={"cookie": lines})


def test_a_cookie_may_hold_the_token() -> None:
    resolver = jwt_claim(cookie="session")
    assert resolver.name == "claim tenant of the token in cookie session"
    assert resolver.resolve(cookies(f"theme=dark; session={signed()}; x=y")) is not None
    assert resolver.resolve(cookies("theme=dark", f'session="{signed()}"')) is not None
    assert resolver.resolve(cookies("theme=dark; xsession=a; Session=b")) is None
    assert resolver.resolve(bearer(signed())) is None


def test_a_cookie_that_a_neighbours_subdomain_has_added_is_refused() -> None:
    mine, tossed = signed(), signed({**GOOD, "tenant": "globex"})
    assert "several tokens" in refused(cookies(f"session={mine}; session={tossed}"), cookie="session")
    assert "several tokens" in refused(cookies(f"session={tossed}", f"session={mine}"), cookie="session")


# Signatures and algorithms


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(algorithm: str) -> None:
    assert "algorithm" in refused(bearer(handmade(as_json({"alg": algorithm}), as_json(GOOD))))


@pytest.mark.parametrize("text", [PEM, PEM.strip(), RSA.as_der(private=False), as_json(RSA.as_dict(private=False))])
def test_an_hmac_made_with_the_public_key_is_refused(text: bytes) -> None:
    token = handmade(as_json({"alg": "HS256", "typ": "JWT"}), as_json(GOOD), text)
    assert "algorithm is not allowed" in refused(bearer(token))


def test_an_algorithm_of_the_same_family_that_is_not_pinned_is_refused() -> None:
    assert "algorithm is not allowed" in refused(bearer(signed(alg="RS512")))


def test_the_signature_of_another_key_is_refused() -> None:
    forged = ECKey.generate_key("P-256")
    assert "signature is wrong" in refused(bearer(signed(key=forged, alg="ES256")), keys=EC, algorithms=["ES256"])


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_part_is_refused(part: int) -> None:
    parts = signed().split(".")
    other = signed({**GOOD, "tenant": "globex"}, typ="x").split(".")
    refused(bearer(".".join([*parts[:part], other[part], *parts[part + 1 :]])))


def test_a_key_inside_the_token_is_not_used() -> None:
    mine = ECKey.generate_key("P-256")
    token = signed(key=mine, alg="ES256", jwk=mine.as_dict(private=False), jku="https://evil.example/keys")
    assert "signature is wrong" in refused(bearer(token), keys=EC, algorithms=["ES256"])


@pytest.mark.parametrize("kid", ["../../../dev/null", "/etc/passwd", "' union select 'x", "\0", "a" * 300, ""])
def test_a_key_id_is_only_compared(kid: str) -> None:
    keys = {"keys": [{**RSA.as_dict(private=False), "kid": "2026"}]}
    assert jwt_claim(keys=keys).resolve(bearer(signed(kid="2026"))) is not None
    assert kid not in refused(bearer(signed(kid=kid)), keys=keys) or not kid


def test_a_key_id_is_needed_as_soon_as_there_are_several_keys() -> None:
    keys = {"keys": [{**RSA.as_dict(private=False), "kid": "a"}, {**EC.as_dict(private=False), "kid": "b"}]}
    resolver = jwt_claim(keys=keys, algorithms=["RS256", "ES256"])
    assert resolver.resolve(bearer(signed(kid="a"))) is not None
    assert resolver.resolve(bearer(signed(key=EC, alg="ES256", kid="b"))) is not None
    for token in (signed(), signed(kid="b"), signed(key=EC, alg="ES256", kid="a")):
        refused(bearer(token), keys=keys, algorithms=["RS256", "ES256"])


def test_an_unknown_critical_header_is_refused_and_an_unknown_other_one_is_not() -> None:
    header = as_json({"alg": "HS256", "crit": ["tenant"], "tenant": "acme"})
    refused(bearer(handmade(header, as_json(GOOD), SECRET)), keys=SECRET, algorithms=["HS256"])
    assert jwt_claim().resolve(bearer(signed(nonce="x"))) is not None


# Claims


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example"}, "claim 'iss'"),
        ({"iss": ["https://id.example"]}, "claim 'iss'"),
        ({"iss": None}, "claim 'iss'"),
        ({"aud": "other"}, "claim 'aud'"),
        ({"aud": ["other", "App"]}, "claim 'aud'"),
        ({"aud": []}, "claim 'aud'"),
        ({"aud": {"app": 1}}, "claim 'aud'"),
        ({"aud": None}, "claim 'aud'"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": NOW - 30}, "expired"),
        ({"exp": None}, "claim 'exp'"),
        ({"exp": str(NOW + 60)}, "claim 'exp'"),
        ({"exp": True}, "claim 'exp'"),
        ({"nbf": NOW + 31}, "claim 'nbf'"),
        ({"nbf": "now"}, "claim 'nbf'"),
        ({"iat": NOW + 31}, "claim 'iat'"),
    ],
    ids=str,
)
def test_a_token_that_was_not_meant_for_us_now_is_refused(claims: dict[str, Any], reason: str) -> None:
    assert reason in refused(bearer(signed({**GOOD, **claims})))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_an_expiry_that_is_no_number_is_refused(number: str) -> None:
    payload = as_json({**GOOD, "exp": 0}).replace(b'"exp": 0', f'"exp": {number}'.encode())
    token = handmade(as_json({"alg": "HS256"}), payload, SECRET)
    assert "'exp'" in refused(bearer(token), keys=SECRET, algorithms=["HS256"])


@pytest.mark.parametrize("name", ["iss", "aud", "exp"])
def test_issuer_audience_and_expiry_have_to_be_there(name: str) -> None:
    claims = {key: value for key, value in GOOD.items() if key != name}
    assert "is missing" in refused(bearer(signed(claims)))


def test_clocks_may_differ_by_the_leeway() -> None:
    claims = {**GOOD, "exp": NOW - 29, "nbf": NOW + 30, "iat": NOW + 30}
    assert jwt_claim().resolve(bearer(signed(claims))) is not None
    assert "expired" in refused(bearer(signed(claims)), leeway=0)


def test_one_of_several_issuers_and_audiences_is_enough() -> None:
    resolver = jwt_claim(issuer=["https://old.example", "https://id.example"], audience={"web", "app"})
    assert resolver.resolve(bearer(signed({**GOOD, "aud": ["mail", "app"]}))) is not None


def test_what_has_to_be_there_can_be_chosen() -> None:
    forever = {key: value for key, value in GOOD.items() if key != "exp"}
    assert jwt_claim(require=()).resolve(bearer(signed(forever))) is not None
    assert "claim 'jti,nbf' is missing" in refused(bearer(signed()), require=("exp", "nbf", "jti"))


def test_without_an_audience_only_a_token_for_everybody_is_taken() -> None:
    resolver = jwt_claim(issuer=None, audience=None)
    assert resolver.resolve(bearer(signed({"tenant": "acme", "exp": NOW + 60}))) is not None
    assert "another audience" in refused(bearer(signed()), issuer=None, audience=None)


@pytest.mark.parametrize(
    "value",
    [None, "", "Acme", ["acme"], ["acme", "globex"], {"slug": "acme"}, 7, True, 1.5, "acme,globex", "a" * 64],
    ids=lambda value: ascii(value)[:20],
)
def test_a_claim_that_is_not_one_slug_is_refused_and_not_shown(value: object) -> None:
    message = refused(bearer(signed({**GOOD, "tenant": value})))
    assert message == "claim 'tenant' of the token is not one slug"


def test_a_token_without_the_claim_is_refused() -> None:
    claims = {key: value for key, value in GOOD.items() if key != "tenant"}
    assert "is not one slug" in refused(bearer(signed(claims)))


@pytest.mark.parametrize("value", [True, 1.5, None, [7], "", "7\n"])
def test_a_claim_that_is_not_one_key_is_refused(value: object) -> None:
    assert "is not one key" in refused(bearer(signed({**GOOD, "tenant": value})), kind="key")


def test_two_tenant_claims_in_one_token_are_refused() -> None:
    payload = as_json(GOOD)[:-1] + b', "tenant": "globex"}'
    token = handmade(as_json({"alg": "HS256"}), payload, SECRET)
    assert "says one thing twice" in refused(bearer(token), keys=SECRET, algorithms=["HS256"])


# Hostile bytes


def test_a_huge_token_is_refused_before_it_is_read() -> None:
    asked = []

    def keys() -> bytes:
        asked.append(1)
        return PEM

    assert "longer than" in refused(bearer("a" * (TOKEN_CHARACTERS + 1)), keys=keys)
    assert "longer than" in refused(bearer(signed({**GOOD, "x": "a" * TOKEN_CHARACTERS})), keys=keys)
    assert asked == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'["alg"]',
        b'"alg"',
        b"null",
        b'{"alg": null}',
        b'{"alg": ["RS256"]}',
        b'{"alg": {"RS256": 1}}',
        b'{"alg": "RS256", "kid": 7}',
        b'{"alg": "RS256", "kid": ["a"]}',
        b'{"alg": "RS256", "crit": [[]]}',
        b'{"alg": "RS256", "crit": 1}',
        b'{"alg": "RS256", "b64": false}',
        b'{"alg": "RS256", "b64": false, "crit": ["b64"]}',
        b"[" * 380,
        b"\xff\xfe",
    ],
    ids=lambda header: ascii(header)[:30],
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    refused(bearer(handmade(header, as_json(GOOD), SECRET)))


@pytest.mark.parametrize("payload", [b"", b"[]", b'"acme"', b"null", b"7" * 5_000, b"[" * 9_000, b"\xff", b"{"])
def test_a_malformed_payload_is_refused_even_if_it_is_signed(payload: bytes) -> None:
    token = handmade(as_json({"alg": "HS256"}), payload, SECRET)
    refused(bearer(token), keys=SECRET, algorithms=["HS256"])


@given(st.one_of(st.text(max_size=200), st.lists(st.binary(max_size=60).map(encoded), max_size=5).map(".".join)))
def test_no_text_without_a_signature_is_a_token(text: str) -> None:
    with pytest.raises(InvalidClaim):
        jwt_claim(cookie="session").resolve(cookies("session=" + text.replace(";", "")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["tenant", "iss", "aud", "exp", "nbf", "iat", "sub", "jti"]), json_values))
def test_signed_claims_of_any_form_are_a_claim_or_a_refusal(changes: dict[str, Any]) -> None:
    token = handmade(as_json({"alg": "HS256"}), json.dumps({**GOOD, **changes}).encode(), SECRET)
    resolver = jwt_claim(keys=SECRET, algorithms=["HS256"])
    try:
        claim = resolver.resolve(bearer(token))
    except InvalidClaim:
        return
    assert claim is not None
    assert claim.value == {**GOOD, **changes}["tenant"]


@pytest.mark.parametrize("keys", [PEM, {"keys": [{**RSA.as_dict(private=False), "kid": "2026"}]}])
def test_nothing_of_a_refused_token_is_shown(keys: Any) -> None:
    token = signed({**GOOD, "exp": 1, "tenant": "very-secret-name"}, kid="very-secret-kid")
    with pytest.raises(InvalidClaim) as caught:
        jwt_claim(keys=keys).resolve(bearer(token))
    shown = str(caught.value.as_dict()) + "".join(traceback.format_exception(caught.value))
    assert "very-secret" not in shown
    assert not any(part in shown for part in token.split("."))


# Keys that change


def test_keys_rotate_without_a_restart() -> None:
    old, new = EC, ECKey.generate_key("P-256")
    current = [old]
    resolver = jwt_claim(keys=lambda: current[0], algorithms=["ES256"])
    assert resolver.resolve(bearer(signed(key=old, alg="ES256"))) is not None
    current[0] = new
    assert resolver.resolve(bearer(signed(key=new, alg="ES256"))) is not None
    with pytest.raises(InvalidClaim):
        resolver.resolve(bearer(signed(key=old, alg="ES256")))


@pytest.mark.parametrize("keys", [None, {}, {"keys": []}, "not a key", b"", 7])
def test_a_source_without_keys_is_our_fault_and_not_the_clients(keys: Any) -> None:
    with pytest.raises(Unavailable, match="no token can be verified") as caught:
        jwt_claim(keys=lambda: keys).resolve(bearer(signed()))
    assert caught.value.status == 503


def test_a_source_that_fails_is_not_hidden() -> None:
    def keys() -> OctKey:
        raise TimeoutError("key server")

    with pytest.raises(TimeoutError, match="key server"):
        jwt_claim(keys=keys).resolve(bearer(signed()))


# Configuration


@pytest.mark.parametrize(
    "changes",
    [
        {"header": "x-token", "cookie": "session"},
        {"header": "x token"},
        {"kind": "domain"},
        {"leeway": -1},
        {"leeway": 301},
        {"leeway": 0.5},
        {"leeway": "30"},
        {"issuer": ""},
        {"issuer": []},
        {"audience": [""]},
        {"audience": 7},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused_when_the_resolver_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        jwt_claim(**changes)


def test_issuer_and_audience_have_to_be_decided() -> None:
    with pytest.raises(TypeError, match="issuer"):
        JwtClaim(keys=PEM, algorithms=["RS256"])  # type: ignore[call-arg]
