"""Keys that verify tokens, from the forms in which people have them: JWK sets, PEM texts, shared secrets.

Checked once, before the first token: which kinds of key the algorithms need (RFC 7518), and that a public key is never
taken for a shared secret (RFC 8725 section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet, OctKey, RSAKey

from tenantry.errors import InvalidInput
from tenantry.model import shown

KeySource = str | bytes | Mapping[str, Any] | Sequence[Any] | Key | KeySet
"""A shared secret, a PEM text, a JWK, a JWK set, a key of joserfc, or a list of these."""

ALGORITHMS: Mapping[str, str] = {
    **{f"HS{bits}": "oct" for bits in (256, 384, 512)},
    **{f"RS{bits}": "RSA" for bits in (256, 384, 512)},
    **{f"PS{bits}": "RSA" for bits in (256, 384, 512)},
    **{f"ES{bits}": "EC" for bits in (256, 384, 512)},
    **dict.fromkeys(("EdDSA", "Ed25519", "Ed448"), "OKP"),
}
"""The algorithms that may be chosen, and the kind of key (``kty``) that each needs. ``none`` is not among them."""

_RSA_BITS = 2048
_PEM_OR_SSH = (b"-----BEGIN", b"---- BEGIN", b"ssh-", b"ecdsa-")


def parse_algorithms(algorithms: object) -> frozenset[str]:
    """The pinned algorithms, checked.

    Raises:
        InvalidInput: none given, an unknown one, or shared secrets mixed with key pairs.
    """
    chosen = frozenset(algorithms) if isinstance(algorithms, (list, tuple, set, frozenset)) else frozenset()
    unknown = sorted(shown(name) for name in chosen if name not in ALGORITHMS)
    if unknown or not chosen:
        raise InvalidInput(
            f"algorithms {', '.join(unknown) or shown(algorithms)} can't be used",
            hint=f"give a list of {', '.join(ALGORITHMS)}",
        )
    if len({ALGORITHMS[name] == "oct" for name in chosen}) > 1:
        raise InvalidInput(
            f"algorithms {', '.join(sorted(chosen))} mix shared secrets with key pairs",
            hint="use one resolver for HS256, HS384 and HS512, and another for the rest",
        )
    return chosen


def import_keys(source: KeySource, algorithms: frozenset[str]) -> Key | KeySet:
    """The keys in ``source`` that ``algorithms`` can use. A lone key without an id verifies every token.

    Raises:
        InvalidInput: none is left, or one is too weak. The message never holds a key.
    """
    kinds = frozenset(ALGORITHMS[name] for name in algorithms)
    keys = [key for key in _keys(source, kinds) if key.key_type in kinds and key.get("use") != "enc"]
    if not keys:
        raise InvalidInput(
            f"there is no key for {', '.join(sorted(algorithms))}",
            hint="give a JWK set as a dict, a PEM text with the public key, or a shared secret for HS256",
        )
    for key in keys:
        _check_strength(key, algorithms)
    return keys[0] if len(keys) == 1 and keys[0].kid is None else KeySet(keys)


def _keys(source: object, kinds: frozenset[str]) -> Iterator[Key]:
    if isinstance(source, get_args(Key)):
        yield source
    elif isinstance(source, Mapping) and "keys" not in source:
        yield from _imported(dict(source), [str(source.get("kty"))])
    elif isinstance(source, (str, bytes)):
        yield from _imported(source, kinds - {"oct"} if _looks_asymmetric(source) else kinds & {"oct"})
    elif isinstance(source, (Mapping, KeySet, list, tuple)):
        for one in source["keys"] if isinstance(source, Mapping) else source:
            yield from _keys(one, kinds)


def _imported(data: Any, kinds: Iterable[str]) -> Iterator[Key]:
    """The key, if it is of one of the kinds. A set may hold others; an issuer's next kind must not stop the rest."""
    for kind in sorted(kinds):
        try:
            yield JWKRegistry.import_key(data, kind)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        return


def _looks_asymmetric(data: str | bytes) -> bool:
    start = data.encode(errors="replace") if isinstance(data, str) else data
    return any(mark in start for mark in _PEM_OR_SSH)


def _check_strength(key: Key, algorithms: frozenset[str]) -> None:
    if isinstance(key, RSAKey) and key.public_key.key_size < _RSA_BITS:
        raise InvalidInput(f"an RSA key has fewer than {_RSA_BITS} bits", hint="RFC 7518 section 3.3 asks for 2048")
    if isinstance(key, OctKey):
        needed = max(int(name.removeprefix("HS")) for name in algorithms) // 8
        if len(key.raw_value) < needed:
            raise InvalidInput(
                f"a shared secret is shorter than {needed} bytes",
                hint=f"make one with: python -c 'import secrets; print(secrets.token_hex({needed}))'",
            )
        if _looks_asymmetric(key.raw_value):
            raise InvalidInput("a shared secret holds a key pair's text", hint="give a secret that only you know")
