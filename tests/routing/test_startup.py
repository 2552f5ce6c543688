"""What a tenant's SQL can do to the defaults of the application's role does not reach the application."""

from __future__ import annotations

import psycopg
import pytest

from tenantry import Router
from tests.fixtures.house import House

PLANTED = {"statement_timeout": "1ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms"}


@pytest.fixture
def planted(house: House) -> House:
    """A tenant has changed the defaults of the role that all tenants' connections log in as."""
    with Router(house.settings) as router, router.tenant_scope("pooled-a"), router.transaction() as conn:
        for name, value in PLANTED.items():
            conn.execute(f"ALTER ROLE tenantry_app SET {name} = '{value}'")
    return house


def test_defaults_that_a_tenant_has_planted_on_the_role_stop_nobody(planted: House) -> None:
    try:
        with Router(planted.settings) as router, router.tenant_scope("pooled-b"), router.transaction() as conn:
            shown = conn.execute("SELECT current_setting('statement_timeout'), pg_sleep(0.02)").fetchone()
        assert shown is not None
        assert shown[0] == "30s"
    finally:
        with psycopg.connect(planted.servers[0].dsn(), autocommit=True) as admin:
            admin.execute("ALTER ROLE tenantry_app RESET ALL")
