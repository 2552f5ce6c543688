"""The catalog is restored from a copy that is older than some tenants: nobody sees what is not theirs, and the doctor
says what the catalog has forgotten."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tenantry import AsyncRouter, Router
from tenantry.errors import BindingRefused, KeyTaken, TenantMoved, TenantNotFound, TenantSuspended
from tenantry.postgres.account import Account
from tenantry.postgres.connect import parse_dsn
from tenantry.postgres.server import LocalServer
from tenantry.service import doctor, perimeter
from tenantry.service import house as houses
from tenantry.service import key as keys
from tenantry.service import plan as plans
from tenantry.service import tenant as tenants
from tenantry.service.check import Check, Status
from tenantry.service.tenant import NewTenant
from tests.docs.test_faults import forgotten_tenant
from tests.fixtures.house import House, MakeOwn
from tests.operations.invariants import catalog

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def copy() -> Iterator[Path]:
    """A file that the account of our servers may write."""
    with tempfile.TemporaryDirectory(prefix="tenantry-test-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "catalog.dump"


def _run(server: LocalServer, program: str, *arguments: str | Path) -> None:
    done = Account.choose().run(server.binaries.tool(program), *arguments)
    assert done.returncode == 0, done.stderr


def dump(house: House, copy: Path) -> None:
    _run(house.servers[0], "pg_dump", "-Fc", "-f", copy, "-d", house.control_settings.control_dsn)


def restore(house: House, copy: Path) -> None:
    """As an operator does: the database is made anew, and filled from the copy."""
    dsn = house.control_settings.control_dsn
    name = sql.Identifier(str(parse_dsn(dsn)["dbname"]))
    with psycopg.connect(house.servers[0].dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
        conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
    _run(house.servers[0], "pg_restore", "-d", dsn, copy)


async def write(house: House, slug: str) -> None:
    async with AsyncRouter(house.settings) as router, router.tenant_scope(slug), router.transaction() as conn:
        await conn.execute("INSERT INTO orders (note) VALUES (%s)", (f"secret of {slug}",))


@pytest.fixture
async def house(make_own: MakeOwn, copy: Path, anyio_backend: str) -> House:
    """Restored: of what has happened since the copy was made the catalog knows nothing."""
    made = await make_own()
    async with made.control() as control:
        await plans.create(control, "roomy", isolation="schema", warm=1)
        await houses.refill(control)
        for slug in ("early", "paused", "gone"):
            made.tenants[slug] = await tenants.create(control, slug)
        await write(made, "early")
    await asyncio.to_thread(dump, made, copy)
    async with made.control() as control:
        for slug, plan in (("late", "free"), ("late-schema", "roomy")):
            made.tenants[slug] = await tenants.create(control, slug, plan=plan)
            await write(made, slug)
        await tenants.suspend(control, "paused")
        await tenants.delete(control, "gone", confirm="gone", grace=0)
    await asyncio.to_thread(restore, made, copy)
    return made


async def test_each_tenant_gets_its_own_rows_or_a_clean_answer(house: House) -> None:
    async with AsyncRouter(house.settings) as router:
        async with router.tenant_scope("early") as tenant, router.transaction() as conn:
            rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
        assert rows == [(tenant.key, "secret of early")]
        for slug, kind in (("late", TenantNotFound), ("paused", TenantSuspended), ("gone", TenantMoved)):
            with pytest.raises(kind):
                async with router.tenant_scope(slug), router.transaction() as conn:
                    await conn.execute("SELECT 1")


async def test_an_application_that_remembers_a_forgotten_tenant_serves_it_and_no_other(house: House) -> None:
    async with AsyncRouter(house.settings) as router:
        for slug in ("late", "late-schema"):
            async with router.transaction(house.tenants[slug]) as conn:
                rows = await (await conn.execute("SELECT tenant_id, note FROM orders")).fetchall()
            assert rows == [(house.tenants[slug].key, f"secret of {slug}")]


async def test_a_new_tenant_does_not_get_the_key_of_a_forgotten_one(house: House) -> None:
    """The sequence of keys has gone back with the rest: they are passed over. Who asks for one is refused."""
    late = {house.tenants[slug].key for slug in ("late", "late-schema")}
    async with house.control() as control:
        for key in late:
            with pytest.raises(KeyTaken, match="a resident that the catalog does not know") as caught:
                await tenants.create(control, f"new-{key}", key=key)
            assert "tenantry doctor" in str(caught.value.hint)
        made = await tenants.create(control, "new")
        many = await tenants.create_many(control, [NewTenant(f"many-{n}") for n in range(5)])
        assert late.isdisjoint(each.key for each in many)
        assert made.key not in late
        assert await control.engine.unfinished() == []
    async with AsyncRouter(house.settings) as router:
        async with router.tenant_scope("new"), router.transaction() as conn:
            assert await (await conn.execute("SELECT note FROM orders")).fetchall() == []
        async with router.transaction(house.tenants["late"]) as conn:
            assert await (await conn.execute("SELECT note FROM orders")).fetchall() == [("secret of late",)]


async def test_a_space_that_somebody_forgotten_lives_in_is_not_given_away(house: House) -> None:
    """The catalog takes it for one that is ready; deleting its new tenant would delete the forgotten one's tables."""
    async with house.control() as control:
        with pytest.raises(KeyTaken, match="a resident that the catalog does not know"):
            await tenants.create(control, "squatter", plan="roomy", key=4711)
    async with AsyncRouter(house.settings) as router, router.transaction(house.tenants["late-schema"]) as conn:
        assert await (await conn.execute("SELECT note FROM orders")).fetchall() == [("secret of late-schema",)]


async def residents(house: House) -> Check:
    found = {check.name: check for check in await doctor.examine(house.control_settings)}
    return found["shard main residents"]


async def test_the_doctor_says_what_the_catalog_has_forgotten(house: House) -> None:
    check = await residents(house)
    assert check.status is Status.FAILED
    assert "2 are unknown to the catalog, 1 is missing, 1 is in another state" in check.what
    late = house.tenants["late"]
    assert f"resident {late.code}" in str(check.where)
    assert "docs/explanation/faults.md" in str(check.next)


async def test_what_it_has_forgotten_can_be_told_it_again(house: House) -> None:
    """With the statement that the documentation gives."""
    late = house.tenants["late"]
    assert late.placement is not None
    with catalog(house) as conn:
        conn.execute(forgotten_tenant("late", str(late.key), late.placement.database).encode())
    async with house.control() as control:
        await tenants.suspend(control, "paused")
        await tenants.delete(control, "gone", confirm="gone", grace=0)
    async with AsyncRouter(house.settings) as router, router.tenant_scope("late"), router.transaction() as conn:
        assert await (await conn.execute("SELECT note FROM orders")).fetchall() == [("secret of late",)]
    assert "1 is unknown to the catalog" in (await residents(house)).what


async def test_keys_that_were_rotated_since_are_told_again(make_own: MakeOwn, copy: Path) -> None:
    made = await make_own()
    async with made.control() as control:
        await tenants.create(control, "early")
    await asyncio.to_thread(dump, made, copy)
    async with made.control() as control:
        await keys.rotate(control, overlap=0)
        await houses.work(control)
    await asyncio.to_thread(restore, made, copy)

    def work() -> None:
        with Router(made.settings) as router, router.tenant_scope("early"), router.transaction() as conn:
            conn.execute("SELECT 1")

    with pytest.raises(BindingRefused):
        await asyncio.to_thread(work)
    found = [check for check in await doctor.examine(made.control_settings) if check.status is Status.FAILED]
    assert any("does not know the active signing key" in check.what for check in found)
    async with made.control() as control:
        await perimeter.apply(control)
    await asyncio.to_thread(work)
