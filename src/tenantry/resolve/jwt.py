"""The tenant is in a claim of a signed token: ``{"tenant": "acme", "iss": ..., "exp": ...}``."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from tenantry.errors import InvalidClaim, InvalidInput, MissingDependency, Unresolved
from tenantry.model import shown
from tenantry.resolve.claim import Claim, ClaimKind
from tenantry.resolve.header import parse_header_name, slug_or_key
from tenantry.resolve.request import RequestFacts

try:
    from tenantry.resolve.keys import KeySource
    from tenantry.resolve.tokens import Verifier
except ModuleNotFoundError as error:
    raise MissingDependency("joserfc", "jwt") from error

MAX_LEEWAY = 300


class JwtClaim:
    """Claims the slug or key in one claim of a verified JSON Web Token.

    No answer: no token was sent (an ``Authorization`` header of another scheme holds none). Refused: every token that
    does not pass all checks, and a good one whose claim is missing or is not a single slug or key.

    Args:
        keys: what verifies signatures: a JWK set as a dict, a PEM text, a shared secret of at least 32 bytes, a list of
            these, or a function that returns one of them and may give others later. With several keys, or one that has
            an id, tokens have to name theirs in ``kid``.
        algorithms: the only ones that are accepted: ``["RS256"]``, ``["ES256", "Ed25519"]``, ``["HS256"]``... Shared
            secrets and key pairs don't mix.
        issuer: what ``iss`` must be, or several; None to accept any.
        audience: what ``aud`` must be or contain, or several; with None, tokens that have an audience are refused.
        claim: the name of the claim. Prefer ``kind="key"``: a key never changes, a slug may.
        kind: ``slug`` or ``key``.
        header: where the token is, after the word ``Bearer``; headers other than ``Authorization`` may leave it out.
        cookie: the cookie that holds the token instead.
        require: claims of a token that have to be there. ``nbf`` and ``iat`` are checked wherever they are.
        leeway: by how many seconds the issuer's clock may differ, 0 to 300.
        clock: seconds since 1970; for tests.

    Raises:
        InvalidInput: something above can't be used; no message holds a key.
    """

    def __init__(
        self,
        *,
        keys: KeySource | Callable[[], KeySource],
        algorithms: Collection[str],
        issuer: str | Collection[str] | None,
        audience: str | Collection[str] | None,
        claim: str = "tenant",
        kind: str = ClaimKind.SLUG,
        header: str | None = None,
        cookie: str | None = None,
        require: Collection[str] = ("exp",),
        leeway: int = 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if header is not None and cookie is not None:
            raise InvalidInput("JwtClaim looks at one place only", hint="give 'header' or 'cookie', not both")
        if leeway not in range(MAX_LEEWAY + 1):
            raise InvalidInput(f"leeway {shown(leeway)} can't be used", hint=f"give 0 to {MAX_LEEWAY} seconds")
        self._claim = claim
        self._kind = slug_or_key(kind)
        self._cookie = cookie
        self._header = parse_header_name(header or "authorization")
        self._verifier = Verifier(
            keys, algorithms, issuer=issuer, audience=audience, require=require, leeway=leeway, clock=clock
        )
        place = f"header {self._header}" if cookie is None else f"cookie {cookie}"
        self.name = f"claim {claim} of the token in {place}"

    def __repr__(self) -> str:
        return f"<Resolver: {self.name}>"

    def resolve(self, request: RequestFacts) -> Claim | None:
        """The claim of the token; see the class.

        Raises:
            InvalidClaim: the token is refused; nothing of it is in the message.
        """
        token = self._token(request)
        if token is None:
            return None
        try:
            value = self._verifier.claims(token).get(self._claim)
            return Claim(self._kind, self._text(value), self.name)
        except InvalidClaim as error:
            raise InvalidClaim(error.message, where=self.name, hint=error.hint) from None
        except Unresolved:
            # The issuer has signed it, but it may still be somebody's secret: not a character of it is shown.
            raise InvalidClaim(
                f"claim '{self._claim}' of the token is not one {self._kind}",
                where=self.name,
                hint="ask for a token of exactly one tenant",
            ) from None

    def _text(self, value: object) -> str:
        whole = isinstance(value, int) and not isinstance(value, bool) and self._kind is ClaimKind.KEY
        if not isinstance(value, str) and not whole:
            raise Unresolved("not a text")
        return str(value)

    def _token(self, request: RequestFacts) -> str | None:
        if self._cookie is not None:
            return self._from_cookies(request, self._cookie)
        values = set(request.headers.get(self._header, ()))
        if len(values) > 1:
            raise InvalidClaim("there are several tokens", where=self.name, hint="send one")
        return self._from_header(values.pop()) if values else None

    def _from_header(self, value: str) -> str | None:
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        return None if self._header == "authorization" else value.strip()

    def _from_cookies(self, request: RequestFacts, wanted: str) -> str | None:
        """A neighbour's subdomain can set a cookie for the whole domain, so a second value is never passed over."""
        pairs = [part.partition("=") for line in request.headers.get("cookie", ()) for part in line.split(";")]
        values = {value.strip().strip('"') for name, _, value in pairs if name.strip() == wanted}
        if len(values) > 1:
            raise InvalidClaim("there are several tokens", where=self.name, hint="delete the cookies of this site")
        return values.pop() if values else None
