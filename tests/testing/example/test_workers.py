"""Which databases a worker has: each leaves the name of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("turn", range(6))
def test_a_worker_has_a_house_of_its_own(tenantry_router: Any, two_tenants: Any, turn: int) -> None:
    with tenantry_router.transaction(two_tenants.acme) as conn:
        assert conn.execute("SELECT count(*) FROM customers").fetchone() == (0,)
        conn.execute("INSERT INTO customers (email) VALUES ('someone@example.com')")
        name = conn.info.dbname
    assert os.environ["TENANTRY_CATALOG"] == tenantry_router.settings.catalog_dsn
    Path("names").mkdir(exist_ok=True)
    Path("names", f"{os.environ.get('PYTEST_XDIST_WORKER', 'alone')} {name}").touch()


@pytest.mark.tenantry(isolation="database")
def test_a_database_of_its_own(tenantry_router: Any, two_tenants: Any) -> None:
    with tenantry_router.transaction(two_tenants.globex) as conn:
        assert conn.execute("SELECT count(*) FROM customers").fetchone() == (0,)
