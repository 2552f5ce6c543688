"""What goes on behind an application's back: tenants move, connections are lost, backends are left dirty."""

from __future__ import annotations

import psycopg

from tenantry import Tenant
from tenantry.postgres.connect import merge_dsn
from tests.fixtures.house import House


def admin(house: House, database: str) -> psycopg.Connection:
    """A superuser's connection to one of the house's databases on its first server."""
    return psycopg.connect(house.servers[0].dsn(database, tcp=True), autocommit=True)


def catalog(house: House) -> psycopg.Connection:
    """A superuser's connection to the catalog."""
    dsn = merge_dsn(house.control_settings.control_dsn, options="-csearch_path=tenantry_catalog")
    return psycopg.connect(dsn, autocommit=True)


def move(house: House, tenant: Tenant, home: Tenant) -> None:
    """Let a tenant live where another one does. Its rows stay behind; the tests look for where it is led to."""
    assert tenant.placement
    assert home.placement
    with catalog(house) as conn:
        old = conn.execute(
            "SELECT s.database, p.epoch FROM placements p JOIN spaces s ON s.id = p.space WHERE p.tenant = %s",
            (tenant.id,),
        ).fetchone()
    assert old
    with admin(house, old[0]) as conn:
        conn.execute("UPDATE tenantry.residents SET state = 'moved' WHERE code = %s", (tenant.code,))
    with admin(house, home.placement.database) as conn:
        conn.execute(
            "INSERT INTO tenantry.residents AS r (code, tenant, epoch, state, schema, plan)"
            " SELECT %s, %s, %s, 'open', %s, min(name) FROM tenantry.plans"
            " ON CONFLICT (code) DO UPDATE SET epoch = excluded.epoch, state = 'open', schema = excluded.schema",
            (tenant.code, tenant.key, old[1] + 1, home.placement.schema),
        )
    with catalog(house) as conn:
        conn.execute(
            "UPDATE placements SET space = (SELECT space FROM placements WHERE tenant = %s), epoch = %s"
            " WHERE tenant = %s",
            (home.id, old[1] + 1, tenant.id),
        )


def end_sessions(house: House, *, dirty: str | None = None) -> int:
    """Let the server end all connections of the application, as a restart or an administrator does."""
    with admin(house, "postgres") as conn:
        rows = conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'tenantry_app'"
        ).fetchall()
    return len(rows)
