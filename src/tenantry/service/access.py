"""Access of an operator to all tenants: explicit, with a reason, on record, read-only unless told otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, errors

from tenantry.errors import InvalidInput, NotFound, PerimeterError
from tenantry.model import shown
from tenantry.perimeter.binder import ADMIN, OPERATOR
from tenantry.postgres.connect import connect
from tenantry.service.control import Control

_REASON = range(8, 1001)


@asynccontextmanager
async def all_tenants(
    control: Control, shard: str, database: str | None = None, *, reason: str, write: bool = False
) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection (autocommit) to which row security does not apply, for the length of the block.

    It logs in as ``tenantry_operator``, which may only read, or with ``write`` as ``tenantry_admin``. The audit log has
    the line before the connection is opened, and another when the block has ended.

    Args:
        shard: whose tenants.
        database: None: the shard's pooled database.
        reason: why, 8 to 1,000 characters; somebody will read it.
        write: may change rows.

    Raises:
        InvalidInput: the reason is missing, too short or too long.
        ShardNotFound, NotFound, ServerUnreachable: there is no way there.
        PerimeterError: the block tried to write without ``write``.
    """
    text = _checked(reason)
    database = await _checked_database(control, shard, database)
    role = ADMIN if write else OPERATOR
    dsn = await control.estate.login_dsn(shard, role, database)
    subject = f"{shard}/{database}"
    await control.audit("all tenants begin", subject, text, role=role)
    try:
        conn = await connect(dsn, seconds=control.settings.connect_seconds)
        try:
            yield conn
        except (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege) as error:
            if write:
                raise
            reads = f"access to all tenants only reads: {error.diag.message_primary}"
            raise PerimeterError(reads, where=subject, hint="ask for write=True, and say why") from error
        finally:
            await conn.close()
    finally:
        await control.audit("all tenants end", subject, text, role=role)


def _checked(reason: object) -> str:
    text = reason.strip() if isinstance(reason, str) else ""
    if len(text) not in _REASON or not " ".join(text.split()).isprintable():
        hint = "say in a sentence why all tenants' data is needed; a ticket's number helps"
        raise InvalidInput(f"{shown(reason)} is not a reason", hint=hint)
    return text


async def _checked_database(control: Control, shard: str, database: str | None) -> str:
    """Only databases that hold tenants, or will: others are not the operators' business."""
    await control.store.shard(shard)
    if database is None:
        found: str = (await control.store.fetch("pooled_space", (shard,)))[0]["database"]
        return found
    known = {(row["shard"], row["database"]) for row in await control.store.fetch("databases")}
    if (shard, database) not in known:
        raise NotFound(f"there is no database {shown(database)} with tenants on the shard {shard!r}")
    return database
