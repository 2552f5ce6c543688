"""The asyncpg lines of the benchmark ``bind``.

The bare side is asyncpg's own pool without the statement that resets a connection, which would cost it a round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import BigInteger, Text, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks._harness import Report, Side
from tenantry import AsyncRouter, Settings, Tenant
from tenantry.context import tenant_scope
from tenantry.integrations.asyncpg import create_pool
from tenantry.integrations.sqlalchemy import create_async_engine as create_tenant_engine

BATCH = 50
"""Transactions for which the loop is entered once."""

_QUERY = "SELECT note FROM orders WHERE tenant_id = $1 AND id = $2"


class Base(DeclarativeBase):
    """The model's base."""


class Order(Base):
    """The table of the benchmark."""

    __tablename__ = "orders"
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str] = mapped_column(Text)


_ORDERS = Order.__table__
_CORE = select(_ORDERS.c.note).where(_ORDERS.c.tenant_id == 3, _ORDERS.c.id == 500)


def by_asyncpg(made: Report, settings: Settings, mine: Tenant, bare: str, where: str, *, calls: int) -> None:
    """asyncpg through its pools, and under SQLAlchemy, Core and ORM."""
    with asyncio.Runner() as runner:
        router = runner.run(AsyncRouter(settings).open())
        _driver(made, runner, router, mine, bare, where, calls)
        _alchemy(made, runner, router, mine, bare, where, calls // 2)
        runner.run(router.close())


def _driver(
    made: Report, runner: asyncio.Runner, router: AsyncRouter, mine: Tenant, bare: str, where: str, calls: int
) -> None:
    pool = create_pool(router)
    plain_pool = runner.run(_plain_pool(bare))

    async def bound() -> object:
        async with pool.transaction(mine) as conn:
            return await conn.fetchval(_QUERY, 3, 500)

    async def plain() -> object:
        async with plain_pool.acquire() as conn, conn.transaction():
            return await conn.fetchval(_QUERY, 3, 500)

    async def naive() -> object:
        async with plain_pool.acquire() as conn, conn.transaction():
            await conn.execute("SELECT set_config('app.tenant', $1, true)", "3")
            return await conn.fetchval(_QUERY.replace("orders", "walled"), 3, 500)

    sides = [_batch(runner, side) for side in (bound, plain, naive)]
    made.compare(f"asyncpg, {where}", sides[0], sides[1], calls=calls // BATCH, batch=BATCH, goal=1.15)
    made.compare(f"asyncpg, {where}: naive set_config", sides[2], sides[1], calls=calls // BATCH, batch=BATCH)
    runner.run(plain_pool.close())


def _alchemy(
    made: Report, runner: asyncio.Runner, router: AsyncRouter, mine: Tenant, bare: str, where: str, calls: int
) -> None:
    engine = create_tenant_engine(router, driver="asyncpg")
    plain_engine = create_async_engine("postgresql+asyncpg://", connect_args=_arguments(bare))

    async def bound() -> object:
        with tenant_scope(mine):
            async with engine.begin() as conn:
                return await conn.scalar(_CORE)

    async def plain() -> object:
        async with plain_engine.begin() as conn:
            return await conn.scalar(_CORE)

    async def bound_orm() -> object:
        with tenant_scope(mine):
            async with AsyncSession(engine) as session, session.begin():
                return (await session.scalars(select(Order).where(Order.id == 500))).one().note

    async def plain_orm() -> object:
        async with AsyncSession(plain_engine) as session, session.begin():
            wanted = select(Order).where(Order.tenant_id == 3, Order.id == 500)
            return (await session.scalars(wanted)).one().note

    for what, ours, other in (("Core", bound, plain), ("ORM", bound_orm, plain_orm)):
        sides = [_batch(runner, side) for side in (ours, other)]
        made.compare(f"SQLAlchemy {what} on asyncpg, {where}", *sides, calls=calls // BATCH, batch=BATCH, goal=1.15)
    runner.run(engine.dispose())
    runner.run(plain_engine.dispose())


def _batch(runner: asyncio.Runner, side: Callable[[], Awaitable[object]]) -> Side:
    async def many() -> object:
        answer = None
        for _ in range(BATCH):
            answer = await side()
        return answer

    return lambda: runner.run(many())


async def _plain_pool(bare: str) -> Any:
    async def nothing(conn: Any) -> None:
        pass

    return await asyncpg.create_pool(**_arguments(bare), min_size=1, max_size=2, reset=nothing)


def _arguments(bare: str) -> dict[str, Any]:
    """A conninfo string as asyncpg takes it."""
    parts: dict[str, Any] = dict(conninfo_to_dict(bare))
    parts["database"] = parts.pop("dbname")
    parts["port"] = int(parts["port"])
    return {**parts, "ssl": False}
