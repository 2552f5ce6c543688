from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from demo.attacks import INJECTIONS, Attack, Attacker, scenes
from demo.report import NotHeld
from demo.stage import Resident
from demo.visit import change_all, visit_all
from tenantry.service import perimeter
from tests.demo.conftest import SECRET, Site, Visit

pytestmark = pytest.mark.anyio

LEVELS = {"pooled", "schema", "database", "dedicated"}
ONLY_BESIDE = {"search-path", "qualified"}

HOLES = {
    "row security is off": (
        "ALTER TABLE campaigns DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE campaigns ENABLE ROW LEVEL SECURITY",
        {"or-true", "union", "update", "insert", "commit", "rls-off", "login"},
    ),
    "the application may become the owner": (
        "GRANT tenantry_owner TO tenantry_app",
        "REVOKE tenantry_owner FROM tenantry_app",
        {"role"},
    ),
    "the application owns the table": (
        "ALTER TABLE campaigns OWNER TO tenantry_app",
        "ALTER TABLE campaigns OWNER TO tenantry_owner; ALTER TABLE campaigns ENABLE ROW LEVEL SECURITY",
        {"alter"},
    ),
    "the application may set the seal": (
        "GRANT SET ON PARAMETER backtrace_functions TO tenantry_app",
        "REVOKE SET ON PARAMETER backtrace_functions FROM tenantry_app",
        {"seal"},
    ),
    "the application may run programs": (
        "ALTER ROLE tenantry_app INHERIT; GRANT pg_execute_server_program TO tenantry_app",
        "ALTER ROLE tenantry_app NOINHERIT; REVOKE pg_execute_server_program FROM tenantry_app",
        {"program"},
    ),
    "the application may read keys": (
        "GRANT USAGE ON SCHEMA tenantry_priv TO tenantry_app; GRANT SELECT ON signing_keys TO tenantry_app",
        "REVOKE USAGE ON SCHEMA tenantry_priv FROM tenantry_app; REVOKE SELECT ON signing_keys FROM tenantry_app",
        {"keys"},
    ),
}


async def attack(site: Site, visit: Visit) -> list[Attack]:
    attacker = Attacker(visit.vulnerable, visit.client, visit.router, SECRET)
    return await attacker.attack(list(scenes(site.residents)))


@asynccontextmanager
async def hole(site: Site, make: str, mend: str) -> AsyncIterator[None]:
    """A hole in the wall of the shared tables, mended with all that came through it."""
    at = site.at("pooled").tenant.placement
    assert at is not None
    with psycopg.connect(site.house.servers[0].dsn(at.database), autocommit=True) as conn:
        conn.execute("SET search_path = public, tenantry_priv")
        conn.execute("CREATE TABLE before AS SELECT * FROM campaigns")
        conn.execute(make)
        try:
            yield
        finally:
            conn.execute(mend)
            conn.execute("UPDATE campaigns c SET name = b.name FROM before b WHERE b.id = c.id")
            conn.execute("DELETE FROM campaigns c WHERE NOT EXISTS (SELECT FROM before b WHERE b.id = c.id)")
            conn.execute("DROP TABLE before")
            async with site.house.control() as control:
                await perimeter.apply(control)


async def test_every_attack_fails_at_every_level(site: Site, visit: Visit) -> None:
    found = await attack(site, visit)
    assert [each.name for each in found if not each.held] == []
    assert len(found) == len(INJECTIONS) + 5
    for each in found:
        levels = {outcome.level for outcome in each.outcomes}
        assert levels == ({"pooled", "schema"} if each.name in ONLY_BESIDE else LEVELS), each.name
    assert sum(outcome.answer.foreign for each in found for outcome in each.outcomes) == 0


async def test_attacks_that_are_answered_show_the_attacker_its_own_rows(site: Site, visit: Visit) -> None:
    found = {each.name: each for each in await attack(site, visit)}
    for outcome in found["or-true"].outcomes:
        [resident] = [each for each in site.residents if each.tenant.slug == outcome.attacker]
        assert outcome.answer.rows == resident.company.counts["campaigns"]


@pytest.mark.parametrize("name", HOLES)
async def test_a_hole_in_the_wall_is_seen_by_the_attacks_that_it_lets_through(site: Site, name: str) -> None:
    make, mend, through = HOLES[name]
    async with hole(site, make, mend), site.open() as visit:
        found = await attack(site, visit)
    assert through <= {each.name for each in found if not each.held}
    async with site.open() as visit:  # with connections on which nobody has become another role
        assert [each.name for each in await attack(site, visit) if not each.held] == []


async def test_an_attack_that_was_never_tried_did_not_hold() -> None:
    assert not Attack("name", "title").held


async def test_a_visit_finds_every_company_as_the_data_says(site: Site, visit: Visit) -> None:
    assert await visit_all(visit.client, site.residents) == 1 + 5 * len(site.residents)


@pytest.mark.parametrize(
    ("statement", "undo", "what"),
    [
        (
            "UPDATE campaigns SET name = name || '!' WHERE id = 1",
            "UPDATE campaigns SET name = rtrim(name, '!') WHERE id = 1",
            "its campaigns",
        ),
        (
            "INSERT INTO clicks SELECT company_id, 0, ad_id, clicked_at, '', 0, user_ip, '{}' FROM clicks WHERE id = 1",
            "DELETE FROM clicks WHERE id = 0",
            "its rows",
        ),
    ],
)
async def test_a_visit_finds_what_is_not_as_the_data_says(
    site: Site, visit: Visit, statement: str, undo: str, what: str
) -> None:
    at = site.at("pooled").tenant.placement
    assert at is not None
    with psycopg.connect(site.house.servers[0].dsn(at.database), autocommit=True) as conn:
        conn.execute(statement)
        try:
            with pytest.raises(ExceptionGroup) as caught:
                await visit_all(visit.client, site.residents)
        finally:
            conn.execute(undo)
    assert all(isinstance(error, NotHeld) for error in caught.value.exceptions)
    assert what in str(caught.value.exceptions[0])


async def test_a_change_is_seen_by_its_own_company_alone(site: Site, visit: Visit) -> None:
    before = await totals(site.residents, visit)
    await change_all(visit.client, site.residents[:1])
    after = await totals(site.residents, visit)
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, *[0] * (len(before) - 1)]


async def totals(residents: Sequence[Resident], visit: Visit) -> list[int]:
    counts = []
    for resident in residents:
        headers = {"x-tenant": resident.tenant.slug}
        counts.append((await visit.client.get("/api/stats", headers=headers)).json()["rows"]["campaigns"])
    return counts
