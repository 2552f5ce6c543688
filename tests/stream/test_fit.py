"""What stands in a stream's way is said by name, with the way out."""

from __future__ import annotations

import pytest

from tenantry.stream.fit import Obstacle, obstacles
from tenantry.stream.path import Path
from tests.fixtures.servers import Database, MakeDatabase
from tests.stream.rig import Rig, connector, execute

pytestmark = pytest.mark.anyio

GOOD = "CREATE TABLE {0}.good (tenant_id bigint NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant_id, id))"


@pytest.fixture
def rig(make_database: MakeDatabase) -> Rig:
    """Two schemas with one good table each."""
    here, there = make_database(), make_database()
    for database, schema in ((here, "app"), (there, "t_2")):
        execute(database, f"CREATE SCHEMA {schema}", GOOD.format(schema))
    return Rig(here, there, Path("app", "t_2", "tenant_id", 2, 2))


async def found(rig: Rig) -> list[Obstacle]:
    """What is in the way."""
    return obstacles(await rig.shape(), await rig.target_shape(), filtered=rig.filtered)


def both(rig: Rig, statement: str) -> None:
    """Run a statement in both schemas."""
    execute(rig.here, statement.format("app"))
    execute(rig.there, statement.format("t_2"))


async def test_nothing_is_in_the_way_of_good_tables(rig: Rig) -> None:
    assert await found(rig) == []


@pytest.mark.parametrize(
    ("statement", "what", "fix"),
    [
        ("CREATE TABLE {0}.x (tenant_id int, id int)", "x can't be followed: it has no primary key", "ADD PRIMARY KEY"),
        (
            "CREATE TABLE {0}.x (tenant_id int PRIMARY KEY); ALTER TABLE {0}.x REPLICA IDENTITY NOTHING",
            "x can't be followed: its REPLICA IDENTITY is NOTHING",
            "ADD PRIMARY KEY",
        ),
        (
            "CREATE TABLE {0}.x (tenant_id int, id int UNIQUE); ALTER TABLE {0}.x REPLICA IDENTITY FULL",
            "its REPLICA IDENTITY is FULL, and no unique key of columns that are NOT NULL",
            "ADD PRIMARY KEY",
        ),
        (
            "CREATE TABLE {0}.x (tenant_id int, id int PRIMARY KEY)",
            "its key x_pkey does not contain tenant_id",
            "REPLICA IDENTITY USING INDEX",
        ),
        (
            "CREATE UNLOGGED TABLE {0}.x (tenant_id int PRIMARY KEY)",
            "x is unlogged: nobody can follow its changes",
            "SET LOGGED",
        ),
        (
            (
                "CREATE TABLE {0}.x (tenant_id int, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (id);"
                "CREATE TABLE {0}.x1 PARTITION OF {0}.x FOR VALUES IN (1);"
                "ALTER TABLE {0}.x1 REPLICA IDENTITY NOTHING"
            ),
            "x1 can't be followed",
            "x1 ADD PRIMARY KEY",
        ),
    ],
)
async def test_a_table_that_cannot_be_followed(rig: Rig, statement: str, what: str, fix: str) -> None:
    both(rig, statement)
    (obstacle,) = await found(rig)
    assert what in obstacle.what
    assert fix in obstacle.fix


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE {0}.x (id int)",  # nobody's rows
        "CREATE TABLE {0}.x (tenant_id int PRIMARY KEY); ALTER TABLE {0}.x REPLICA IDENTITY FULL",
        (
            "CREATE TABLE {0}.x (tenant_id int NOT NULL, id int NOT NULL, UNIQUE (tenant_id, id));"
            "ALTER TABLE {0}.x REPLICA IDENTITY USING INDEX x_tenant_id_id_key"
        ),
        "CREATE TABLE {0}.x (tenant_id int, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (id)",
        "CREATE VIEW {0}.x AS SELECT 1 AS tenant_id",
        "CREATE DOMAIN {0}.d AS int; CREATE TABLE {0}.x (tenant_id int PRIMARY KEY, d {0}.d, e {0}.d[])",
    ],
)
async def test_tables_that_can_be_followed(rig: Rig, statement: str) -> None:
    both(rig, statement)
    assert await found(rig) == []


async def test_a_schema_of_its_own_needs_no_tenant_in_the_key(rig: Rig) -> None:
    both(rig, "CREATE TABLE {0}.x (tenant_id int, id int PRIMARY KEY)")
    rig.filtered = False
    assert await found(rig) == []


@pytest.mark.parametrize(
    ("here", "there", "what"),
    [
        (None, "ALTER TABLE {0}.good ADD COLUMN more int", "the column more is missing there and integer in t_2.good"),
        ("ALTER TABLE {0}.good ALTER note TYPE varchar(9)", None, "note is character varying(9) there and text in"),
        ("CREATE TABLE {0}.x (tenant_id int PRIMARY KEY)", None, "t_2.x is missing where the tenant is to go"),
        (None, "CREATE TABLE {0}.x (tenant_id int PRIMARY KEY)", "app.x is missing where the tenant is"),
        (
            "ALTER TABLE {0}.good ADD twice int GENERATED ALWAYS AS (id * 2) STORED",
            "ALTER TABLE {0}.good ADD twice int",
            "twice is integer (generated) there and integer in",
        ),
    ],
)
async def test_tables_that_are_not_the_same(rig: Rig, here: str | None, there: str | None, what: str) -> None:
    if here:
        execute(rig.here, here.format("app"))
    if there:
        execute(rig.there, there.format("t_2"))
    (obstacle,) = await found(rig)
    assert what in obstacle.what
    assert "tenantry migrate" in obstacle.fix


async def test_a_trigger_that_fires_for_streams_is_named(rig: Rig) -> None:
    execute(
        rig.there,
        "CREATE FUNCTION t_2.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER loud BEFORE INSERT ON t_2.good FOR EACH ROW EXECUTE FUNCTION t_2.f()",
        "ALTER TABLE t_2.good ENABLE ALWAYS TRIGGER loud",
    )
    (obstacle,) = await found(rig)
    assert "loud" in obstacle.what
    execute(rig.there, obstacle.fix)
    assert await found(rig) == []


async def test_every_fix_that_is_sql_helps(rig: Rig) -> None:
    both(rig, "CREATE UNLOGGED TABLE {0}.x (tenant_id int PRIMARY KEY)")
    for obstacle in await found(rig):
        execute(rig.here, obstacle.fix)
    assert await found(rig) == []


async def test_a_schema_with_a_hostile_name_is_read(database: Database) -> None:
    schema = 'x"; DROP TABLE y; --'
    quoted = '"x""; DROP TABLE y; --"'
    execute(
        database, f"CREATE SCHEMA {quoted}", f'CREATE TABLE {quoted}."a""b" (tenant_id int PRIMARY KEY, "c""d" text)'
    )
    rig = Rig(database, database, Path(schema, schema, "tenant_id", 1, 1))
    shape = await rig.shape()
    assert list(shape.tables) == ['a"b']
    assert shape.tables['a"b'].stored == ("tenant_id", 'c"d')
    async with connector(database)() as conn:
        assert (await (await conn.execute("SHOW search_path")).fetchone()) == ('"$user", public',)
