"""The page on PgBouncer: its configuration is one that works, and its query gives the file of users."""

from __future__ import annotations

import asyncio
import configparser
import re
from pathlib import Path

import psycopg
import pytest

from tenantry import Router
from tenantry.settings import Settings
from tests.fixtures.house import House
from tests.fixtures.pgbouncer import MakeBouncer, lead_through, logins

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "pgbouncer.md").read_text("utf-8")
FIRST, RESET = re.findall(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OURS = ("listen_port", "auth_file")
"""Where they are is the test's affair."""


def settings(*blocks: str) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read_string("\n".join(blocks))
    return {name: value for name, value in parser["pgbouncer"].items() if name not in OURS}


@pytest.mark.parametrize("blocks", [(FIRST,), (FIRST, RESET)], ids=["without a reset", "with a reset"])
def test_the_configuration_of_the_page_works(house: House, make_bouncer: MakeBouncer, blocks: tuple[str, ...]) -> None:
    found = settings(*blocks)
    assert found["pool_mode"] == "transaction"
    asyncio.run(lead_through(house, make_bouncer(**found).address))
    with Router(house.settings.model_copy(update={"pooler": True})) as router:
        for slug in house.tenants:
            with router.tenant_scope(slug) as tenant, router.transaction() as conn:
                assert conn.execute("SELECT tenantry.current_tenant_v1()").fetchone() == (tenant.key,)


def test_the_query_of_the_page_writes_the_file_of_users(house: House) -> None:
    query = re.search(r'"(SELECT format\(.*)"\n', PAGE)
    assert query is not None
    with psycopg.connect(house.servers[0].dsn()) as conn:
        rows = conn.execute(query[1].replace('\\"', '"').encode()).fetchall()
    [(name, kept)] = logins(house.servers[0]).items()
    assert rows == [(f'"{name}" "{kept}"',)]


@pytest.mark.parametrize("name", ["pooler", "pooler_prepares"])
def test_its_settings_are_settings(name: str) -> None:
    assert f"{name} = true" in PAGE
    assert name in Settings.model_fields
