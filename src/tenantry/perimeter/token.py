"""Tokens: the proof that a transaction belongs to a tenant, minted by whoever holds the signing key.

``1.<kid>.<code>.<expiry>.<pid>.<mode>.<epoch>.<mac>`` where ``mac`` is HMAC-SHA256 (RFC 2104), in hex, over everything
before it and the database and login role that it is good for. ``pid`` 0 is good for any backend, ``epoch`` 0 for any
placement.
"""

from __future__ import annotations

import hmac
import re
import time

from tenantry.errors import InvalidInput
from tenantry.model import Mode, shown

VERSION = "1"
KEY_BYTES = 32

_PLAIN = re.compile(r"[0-9a-z]+", re.ASCII)


class Signer:
    """Mints tokens with one key.

    Args:
        kid: the key's id, ``[0-9a-z]``.
        key: 32 to 64 random bytes.
        seconds: how long a token is good.

    Raises:
        InvalidInput: the id has other characters; the key is too short or too long.
    """

    def __init__(self, kid: str, key: bytes, seconds: int = 60) -> None:
        if not _PLAIN.fullmatch(kid):
            raise InvalidInput(f"{shown(kid)} is not the id of a signing key", hint="use a-z and 0-9")
        if not 32 <= len(key) <= 64:
            raise InvalidInput(f"a signing key of {len(key)} bytes", hint="use 32 to 64 random bytes")
        self.kid = kid
        self._mac = hmac.new(key, digestmod="sha256")
        self._head = f"{VERSION}.{kid}."
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"Signer(kid={self.kid!r})"

    def mint(
        self,
        code: str,
        database: str,
        role: str,
        *,
        mode: Mode = Mode.READ_WRITE,
        epoch: int = 0,
        pid: int = 0,
        now: float | None = None,
    ) -> str:
        """A token.

        Args:
            code: the tenant's key, encoded.
            database: the only database that accepts it.
            role: the only login role that it is accepted from.
            mode: whether the transaction may write.
            epoch: the placement's epoch that the caller knows; 0 to accept any.
            pid: the only backend that accepts it; 0 behind a pooler.
            now: seconds since 1970, for tests.

        Raises:
            InvalidInput: the code has other characters than ``[0-9a-z]``.
        """
        if not _PLAIN.fullmatch(code):
            raise InvalidInput(f"{shown(code)} is not the code of a tenant key", hint="make it with encode_key()")
        expiry = int(time.time() if now is None else now) + self._seconds
        body = f"{self._head}{code}.{expiry}.{pid}.{mode.value}.{epoch}"
        mac = self._mac.copy()
        mac.update(f"{body}|{database}|{role}".encode())
        return f"{body}.{mac.hexdigest()}"
