"""JSON Web Tokens: from a text that anybody could have sent to claims that the issuer has signed (RFC 7519, RFC 8725).

No I/O: keys come from the application, and what a token says about keys (``jku``, ``x5u``, ``jwk``) is never followed;
its ``kid`` is only compared with the ids of the known keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from joserfc import jwt
from joserfc.errors import ClaimError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key, KeySet
from joserfc.jws import JWSRegistry

from tenantry.errors import InvalidClaim, InvalidInput, Unavailable
from tenantry.resolve.keys import KeySource, import_keys, parse_algorithms

TOKEN_CHARACTERS = 16_384
"""The longest token that is looked at; servers allow about as much for all headers together."""

_REASONS = {
    "bad_signature": "its signature is wrong",
    "expired_token": "it has expired",
    "invalid_key_id": "its key is not known",
    "unsupported_algorithm": "its algorithm is not allowed",
    "conflict_claims": "it says one thing twice",
}


class Verifier:
    """Checks tokens with pinned algorithms, keys, issuer and audience.

    Args:
        keys: see ``KeySource``; or a function that returns one, asked for every token, so that keys rotate without a
            restart. What it returns is imported again only when it is another object.
        algorithms: the only ones that are accepted.
        issuer: what ``iss`` must be; None doesn't look at it.
        audience: what ``aud`` must be or contain; with None, a token that is meant for somebody is refused.
        require: claims that have to be there, besides those above.
        leeway: by how many seconds the issuer's clock may differ.
        clock: seconds since 1970.

    Raises:
        InvalidInput: the algorithms or keys can't be used.
    """

    def __init__(
        self,
        keys: KeySource | Callable[[], KeySource],
        algorithms: Collection[str],
        *,
        issuer: str | Collection[str] | None,
        audience: str | Collection[str] | None,
        require: Collection[str],
        leeway: int,
        clock: Callable[[], float],
    ) -> None:
        self._algorithms = parse_algorithms(algorithms)
        self._registry = _Pinned(algorithms=self._algorithms, strict_check_header=False)
        self._audience = audience
        options: dict[str, Any] = {name: {"essential": True} for name in require}
        options |= {
            name: {"essential": True, "values": _texts(value, name)}
            for name, value in (("iss", issuer), ("aud", audience))
            if value is not None
        }
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=leeway, **options)
        self._source = keys if callable(keys) else None
        self._imported: tuple[object, Key | KeySet]
        self._imported = (object(), KeySet([])) if callable(keys) else (keys, import_keys(keys, self._algorithms))

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that has passed every check.

        Raises:
            InvalidClaim: it has not. The message holds nothing of the token.
            Unavailable: the function for keys returned none that can be used.
        """
        if len(token) > TOKEN_CHARACTERS:
            raise InvalidClaim(f"the token is longer than {TOKEN_CHARACTERS:,} characters", hint="put less into it")
        keys = self._keys()
        try:
            claims = jwt.decode(token, keys, registry=self._registry, decoder_cls=_NothingTwice).claims
            self._claims.validate(claims)
        except Exception as error:  # a hostile token may break the parser in any way; the answer is always the same
            raise InvalidClaim(f"the token is refused: {_reason(error)}", hint="sign in again") from None
        if self._audience is None and "aud" in claims:
            raise InvalidClaim("the token is refused: it is meant for another audience", hint="set 'audience'")
        return claims

    def _keys(self) -> Key | KeySet:
        if self._source is None:
            return self._imported[1]
        source = self._source()
        if source is not self._imported[0]:
            self._imported = (source, self._import(source))
        return self._imported[1]

    def _import(self, source: KeySource) -> Key | KeySet:
        try:
            return import_keys(source, self._algorithms)
        except InvalidInput as error:
            raise Unavailable(f"no token can be verified: {error.message}", hint=error.hint) from None


class _Pinned(JWSRegistry):
    """The pinned algorithms and no others; joserfc's own would allow its recommended ones where none is given."""

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError("not pinned")
        return self.algorithms[name]


class _SaidTwice(JoseError):
    error = "conflict_claims"


class _NothingTwice(json.JSONDecoder):
    """Refuses an object that has a name twice: two readers could take different ones (RFC 8725 section 2.6)."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _SaidTwice
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, JoseError) and error.error in _REASONS:
        return _REASONS[error.error]
    if isinstance(error, ClaimError):
        return f"its claim '{error.claim}' is missing or wrong"
    return "it is not a signed token"


def _texts(value: object, name: str) -> list[str]:
    texts = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple, set, frozenset)) else []
    )
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidInput(f"'{name}' of a token can't be compared with nothing", hint="give a text or a list of texts")
    return texts
