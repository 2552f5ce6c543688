"""What a dump of a database carries away, and what it need not."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from tenantry import Router
from tenantry.postgres.connect import merge_dsn, parse_dsn
from tenantry.service import perimeter
from tenantry.service.control import Control
from tests.leaks.conftest import VALUE, Confession, forms

DATABASE = "app_confession"
WITHOUT_KEYS = "--exclude-table-data=tenantry_priv.*"


def run(told: Confession, program: str, *arguments: str) -> str:
    """A program of PostgreSQL as a superuser; the password is in its environment, as operators should have it."""
    dsn = told.server.dsn(DATABASE, tcp=True)
    done = subprocess.run(
        [str(told.server.binaries.tool(program)), *arguments, "-d", merge_dsn(dsn, password=None)],
        env={**os.environ, "PGPASSWORD": parse_dsn(dsn)["password"]},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def pads(confession: Confession) -> set[str]:
    """How a database holds signing keys (RFC 2104): with one of them a token is signed as with the key."""

    async def read() -> list[bytes]:
        async with Control(confession.control_settings) as control:
            return [row["key"] for row in await control.store.fetch("keys")]

    padded = [bytes(byte ^ mask for byte in key) for key in asyncio.run(read()) for mask in (0x36, 0x5C)]
    return {form for each in padded for form in forms(each)}


def test_a_dump_of_a_shard_carries_the_signing_keys_and_no_password(confession: Confession, pads: set[str]) -> None:
    """Documented in docs/explanation/secrets.md."""
    dump = run(confession, "pg_dump")
    assert VALUE in dump
    assert any(pad in dump for pad in pads)
    assert confession.found_in(dump) == {}


def test_a_dump_without_keys_makes_a_whole_database_again(
    confession: Confession, pads: set[str], tmp_path: Path
) -> None:
    dump = run(confession, "pg_dump", WITHOUT_KEYS)
    assert VALUE in dump
    assert not any(pad in dump for pad in pads)
    with psycopg.connect(confession.server.dsn(), autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
    file = tmp_path / "dump.sql"
    file.write_text(dump)
    run(confession, "psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-o", os.devnull, "-f", str(file))

    async def mend() -> bool:
        async with Control(confession.control_settings) as control:
            await perimeter.apply(control)
            return all(section.plan.closed for section in await perimeter.plan(control))

    assert asyncio.run(mend())
    with Router(confession.settings) as router:
        for slug in ("acme", "globex"):
            with router.transaction(router.find(slug)) as conn:
                assert conn.execute("SELECT note FROM orders").fetchall() == [(VALUE,)]


def test_what_the_catalog_notes_of_operations_holds_no_secret(confession: Confession) -> None:
    query = (
        "SELECT x::text FROM tenantry_catalog.operations x"
        " UNION ALL SELECT x::text FROM tenantry_catalog.operation_steps x"
        " UNION ALL SELECT x::text FROM tenantry_catalog.audit_log x"
    )
    with psycopg.connect(confession.control_settings.control_dsn) as conn:
        text = "\n".join(line for (line,) in conn.execute(query).fetchall())
    assert "shard add" in text
    assert confession.found_in(text) == {}
