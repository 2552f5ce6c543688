"""What a tenant-scoped transaction of one statement costs, against the same in a bare transaction without tenancy.

The bare side reads a copy of the table that has no row security, as a role that may do just that, through the same
driver and with a pool of the driver's own. The naive way (``set_config`` as a statement of its own, a policy that reads
it) is measured beside it.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg_pool import ConnectionPool
from sqlalchemy import BigInteger, Text, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks._asyncpg import by_asyncpg
from benchmarks._harness import Report, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router, Tenant
from tenantry.context import tenant_scope
from tenantry.integrations.sqlalchemy import create_engine as create_tenant_engine
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.connect import merge_dsn
from tenantry.service import tenant

CALLS = 2000

_BARE_TABLES = """
CREATE TABLE orders (tenant_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO orders SELECT t, i, 'note ' || i FROM generate_series(1, 10) t, generate_series(1, 1000) i;
CREATE TABLE walled (LIKE orders INCLUDING ALL);
INSERT INTO walled SELECT * FROM orders;
ALTER TABLE walled ENABLE ROW LEVEL SECURITY;
CREATE POLICY naive ON walled USING (tenant_id = current_setting('app.tenant')::bigint);
CREATE ROLE plain LOGIN PASSWORD 'plain';
GRANT SELECT ON orders, walled TO plain;
ANALYZE;
"""


class Base(DeclarativeBase):
    """The models' base."""


class Order(Base):
    """The table of the benchmark."""

    __tablename__ = "orders"
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str] = mapped_column(Text)


async def fill(house: BenchHouse) -> Tenant:
    """Ten tenants with a thousand rows each; the one that is measured."""
    async with house.control() as control:
        made = [await tenant.create(control, f"tenant-{n}", key=n) for n in range(1, 11)]
        async with control.estate.admin("main", "tenantry") as conn:
            await conn.execute(
                "INSERT INTO orders SELECT t, i, 'note ' || i FROM generate_series(1, 10) t, generate_series(1, 1000) i"
            )
    with psycopg.connect(house.server.dsn("tenantry"), autocommit=True) as conn:
        conn.execute("ANALYZE")
    return made[2]


def bare_dsn(house: BenchHouse, *, tcp: bool) -> str:
    """A database without tenancy, with the same rows."""
    with psycopg.connect(house.server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE bare")
    with psycopg.connect(house.server.dsn("bare"), autocommit=True) as conn:
        conn.execute(_BARE_TABLES)
    return merge_dsn(house.server.dsn("bare", tcp=tcp), user="plain", password="plain")


def measure(made: Report, *, tcp: bool) -> None:
    """All drivers over one kind of connection."""
    with bench_house(tcp=tcp) as house:
        mine = asyncio.run(fill(house))
        bare = bare_dsn(house, tcp=tcp)
        where = "TCP" if tcp else "socket"
        with Router(house.settings) as router, ConnectionPool(bare, min_size=1, max_size=2, open=True) as pool:
            by_psycopg(made, router, mine, pool, where)
            by_sqlalchemy(made, router, mine, bare, where)
        by_asyncpg(made, house.settings, mine, bare, where, calls=CALLS)


def by_psycopg(made: Report, router: Router, mine: Tenant, pool: ConnectionPool, where: str) -> None:
    """psycopg through its own pool."""
    query = "SELECT note FROM orders WHERE tenant_id = %s AND id = %s"

    def bound() -> object:
        with router.transaction(mine) as conn:
            return conn.execute(query, (3, 500)).fetchone()

    def plain() -> object:
        with pool.connection() as conn, conn.transaction():
            return conn.execute(query, (3, 500)).fetchone()

    def naive() -> object:
        with pool.connection() as conn, conn.transaction():
            conn.execute("SELECT set_config('app.tenant', %s, true)", ("3",))
            return conn.execute("SELECT note FROM walled WHERE tenant_id = %s AND id = %s", (3, 500)).fetchone()

    made.compare(f"psycopg, {where}", bound, plain, calls=CALLS, goal=1.15)
    made.compare(f"psycopg, {where}: naive set_config", naive, plain, calls=CALLS)


def by_sqlalchemy(made: Report, router: Router, mine: Tenant, bare: str, where: str) -> None:
    """SQLAlchemy Core and ORM, sync."""
    engine = create_tenant_engine(router)
    plain_engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(bare))
    core = select(Order.note).where(Order.tenant_id == 3, Order.id == 500)

    def bound_core() -> object:
        with tenant_scope(mine), engine.begin() as conn:
            return conn.scalar(core)

    def plain_core() -> object:
        with plain_engine.begin() as conn:
            return conn.scalar(core)

    def naive_core() -> object:
        with plain_engine.begin() as conn:
            conn.execute(text("SELECT set_config('app.tenant', :t, true)"), {"t": "3"})
            return conn.scalar(core)

    def bound_orm() -> object:
        with tenant_scope(mine), Session(engine) as session, session.begin():
            return session.scalars(select(Order).where(Order.id == 500)).one().note

    def plain_orm() -> object:
        with Session(plain_engine) as session, session.begin():
            return session.scalars(select(Order).where(Order.tenant_id == 3, Order.id == 500)).one().note

    made.compare(f"SQLAlchemy Core, {where}", bound_core, plain_core, calls=CALLS // 2, goal=1.15)
    made.compare(f"SQLAlchemy Core, {where}: naive set_config", naive_core, plain_core, calls=CALLS // 2)
    made.compare(f"SQLAlchemy ORM, {where}", bound_orm, plain_orm, calls=CALLS // 2, goal=1.15)
    engine.dispose()
    plain_engine.dispose()


if __name__ == "__main__":
    with report("bind", Binaries.find().text) as result:
        for by_tcp in (False, True):
            measure(result, tcp=by_tcp)
