"""The way to the shards: connections of the control plane."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tenantry.errors import ServerUnreachable, ShardNotFound
from tests.fixtures.house import House

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def few_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.placements.estate._POOLS", 1)


def places(house: House) -> list[str]:
    return sorted({each.placement.database for each in house.tenants.values() if each.placement})


async def test_many_databases_at_once_do_with_few_pools(house: House) -> None:
    async with house.control() as control:
        first, second = places(house)

        async def ask(database: str) -> tuple[Any, ...]:
            async with control.estate.admin("main", database) as conn:
                rows = await (await conn.execute("SELECT current_database(), current_user")).fetchall()
            return tuple(rows[0])

        found = await asyncio.gather(*(ask(database) for database in [first, second] * 20))
        assert found == [(first, "tenantry_admin"), (second, "tenantry_admin")] * 20
        await ask(first)
        assert len(control.estate._pools) == 1


async def test_sessions_are_named_after_their_process(house: House) -> None:
    async with house.control() as control, house.control() as other:
        assert control.estate.name != other.estate.name
        async with control.estate.admin("main", places(house)[0]), control.estate.root("main") as conn:
            query = "SELECT usename FROM pg_stat_activity WHERE application_name = %s ORDER BY 1"
            rows = await (await conn.execute(query, (control.estate.name,))).fetchall()
        assert [name for (name,) in rows] == ["postgres", "tenantry_admin"]


async def test_what_is_not_there_is_named(house: House) -> None:
    async with house.control() as control:
        with pytest.raises(ShardNotFound, match="'mars'"):
            async with control.estate.root("mars"):
                pytest.fail("it got there")
        with pytest.raises(ShardNotFound):
            async with control.estate.admin("mars", "x"):
                pytest.fail("it got there")
        with pytest.raises(ServerUnreachable, match='database "nowhere" does not exist'):
            async with control.estate.root("main", "nowhere"):
                pytest.fail("it got there")
