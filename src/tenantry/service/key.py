"""Signing keys: list, rotate."""

from __future__ import annotations

from secrets import token_bytes, token_hex
from typing import Any

from tenantry.catalog.store import fetch
from tenantry.perimeter.token import KEY_BYTES
from tenantry.service.control import Control

DAYS = 90
"""How long databases accept a key; a worker rotates it well before."""

_RENEW_DAYS = 30

_NEWS_SECONDS = 120


async def rotate(control: Control, *, overlap: int | None = None) -> str:
    """Make a new signing key, give it to every database, then sign with it. No request fails meanwhile.

    Args:
        overlap: how long the old key is still accepted, seconds; None: a token's life and a margin for processes that
            have missed the news.

    Returns:
        The state of the operation: ``waiting`` until the overlap ends, then a worker retires the old key.
    """
    seconds = control.settings.token_seconds + _NEWS_SECONDS if overlap is None else overlap
    kid = token_hex(4)
    async with control.store.transaction() as conn:
        await fetch(conn, "new_key", (kid, token_bytes(KEY_BYTES), "pending", DAYS))
        args = {"kid": kid, "overlap": seconds}
        operation = await control.engine.start(conn, "rotate", args, [], control.actor)
    return await control.engine.run(operation)


async def renew(control: Control) -> int:
    """Rotate the signing key if it ends within a month; whether it was, as a number."""
    due = [row for row in await control.store.fetch("keys_due", (_RENEW_DAYS,)) if not row["renewing"]]
    if due:
        await rotate(control)
    return len(due)


async def listing(control: Control) -> list[dict[str, Any]]:
    """All signing keys, without the keys themselves."""
    return [{name: row[name] for name in row if name != "key"} for row in await control.store.fetch("keys")]
