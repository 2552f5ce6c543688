"""Positions in the write-ahead log (PostgreSQL: pg_lsn Type). Pure."""

from __future__ import annotations

import re

from tenantry.errors import InvalidInput

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as a number of bytes.

    Raises:
        InvalidInput: it is no position.
    """
    match = _LSN.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{text[:40]!r} is no position in the write-ahead log", hint="PostgreSQL writes them as 16/B374D848"
        )
    return int(match[1], 16) << 32 | int(match[2], 16)


def shown_lsn(lsn: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
