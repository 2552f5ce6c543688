"""Requests and tokens for the tests of this room; made by hand, so that hostile ones can be made too."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Mapping
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from tenantry.resolve import RequestFacts

NOW = 1_800_000_000
SECRET = b"0123456789abcdef0123456789abcdef"
RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")
PEM = RSA.as_pem(private=False)

GOOD = {"tenant": "acme", "iss": "https://id.example", "aud": "app", "exp": NOW + 60}
PINNED: Mapping[str, Any] = {
    "keys": PEM,
    "algorithms": ["RS256"],
    "issuer": "https://id.example",
    "audience": "app",
    "clock": lambda: NOW,
}
"""How most tests here make their JwtClaim."""


def request(
    host: str = "", path: str = "/", *, scheme: str = "https", headers: Mapping[str, tuple[str, ...]] | None = None
) -> RequestFacts:
    return RequestFacts(scheme=scheme, host=host, path=path, headers=headers or {})


def bearer(token: str) -> RequestFacts:
    return request("acme.example.com", headers={"authorization": (f"Bearer {token}",)})


def signed(claims: Mapping[str, Any] = GOOD, key: Key = RSA, alg: str = "RS256", **header: Any) -> str:
    registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EdDSA has newer names, but issuers still use the old one
        return jws.serialize_compact({"alg": alg, **header}, as_json(claims), key, registry=registry)


def handmade(header: bytes, payload: bytes, key: bytes | None = None) -> str:
    """A token of any bytes; with a key, signed by HMAC-SHA256."""
    head = f"{encoded(header)}.{encoded(payload)}"
    if key is None:
        return f"{head}."
    mac = hmac_sha256(key, head.encode())
    return f"{head}.{encoded(mac)}"


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def secret_key(value: bytes = SECRET) -> OctKey:
    return OctKey.import_key(value)
