"""Rows of one tenant from a real server to another place, while they change."""

from __future__ import annotations

import asyncio

import pytest

from tenantry.errors import StreamBroken
from tenantry.stream.path import Path
from tests.fixtures.servers import MakeDatabase
from tests.stream.rig import Rig, connector, execute

pytestmark = pytest.mark.anyio

TABLES = """
CREATE SCHEMA {0};
CREATE TYPE {0}.mood AS ENUM ('sad', 'glad');
CREATE DOMAIN {0}.amount AS numeric CHECK (VALUE >= 0);
CREATE TYPE {0}.pair AS (a int, b text);
CREATE TABLE {0}.people (
  tenant_id bigint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL,
  boss bigint, mood {0}.mood, owes {0}.amount, twice numeric GENERATED ALWAYS AS (owes * 2) STORED,
  moods {0}.mood[], pair {0}.pair, big text,
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, boss) REFERENCES {0}.people);
CREATE TABLE {0}.hens (tenant_id bigint NOT NULL, id int NOT NULL, egg int, PRIMARY KEY (tenant_id, id));
CREATE TABLE {0}.eggs (tenant_id bigint NOT NULL, id int NOT NULL, hen int NOT NULL, PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, hen) REFERENCES {0}.hens);
ALTER TABLE {0}.hens ADD FOREIGN KEY (tenant_id, egg) REFERENCES {0}.eggs;
CREATE TABLE {0}.logs (tenant_id bigint NOT NULL, id bigserial, at date NOT NULL, what text,
  PRIMARY KEY (tenant_id, id, at)) PARTITION BY RANGE (at);
CREATE TABLE {0}.logs_1 PARTITION OF {0}.logs FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE {0}.logs_2 PARTITION OF {0}.logs DEFAULT;
CREATE TABLE {0}.bare (tenant_id bigint NOT NULL, a int NOT NULL, b text, UNIQUE (tenant_id, a));
ALTER TABLE {0}.bare REPLICA IDENTITY FULL;
CREATE TABLE {0}.empty (tenant_id bigint PRIMARY KEY);
CREATE TABLE {0}.countries (code text PRIMARY KEY);
CREATE FUNCTION {0}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the trigger fired'; END $$;
"""
TRIGGER = (
    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {0}.hens FOR EACH ROW EXECUTE FUNCTION {0}.refuse();"
)

ROWS = """
INSERT INTO {0}.people (tenant_id, name, mood, owes, moods, pair, big)
SELECT 1 + n % 3, 'n' || n, CASE n % 2 WHEN 0 THEN 'sad'::{0}.mood END, n / 7.0, ARRAY['glad', NULL]::{0}.mood[],
       ROW(n, 'x"y')::{0}.pair,
       CASE n % 9 WHEN 0 THEN (SELECT string_agg(md5(n || '-' || j), '') FROM generate_series(1, 200) j) END
  FROM generate_series(1, 300) n;
UPDATE {0}.people p SET boss = id - 3 WHERE id > 3;
INSERT INTO {0}.hens SELECT t, n FROM generate_series(1, 3) t, generate_series(1, 10) n;
INSERT INTO {0}.eggs SELECT tenant_id, id, id FROM {0}.hens;
UPDATE {0}.hens SET egg = id;
INSERT INTO {0}.logs (tenant_id, at, what)
SELECT 1 + n % 3, date '2020-06-01' + n * 10, E'tab\\there\\\\' || n FROM generate_series(1, 60) n;
INSERT INTO {0}.bare SELECT 1 + n % 3, n, NULLIF(n % 5, 0)::text FROM generate_series(1, 30) n;
INSERT INTO {0}.countries VALUES ('at');
"""


@pytest.fixture
def rig(make_database: MakeDatabase) -> Rig:
    """Tenant 2 of three, on its way to a schema of its own in another database."""
    here, there = make_database(), make_database()
    execute(here, TABLES.format("app"), ROWS.format("app"))
    execute(there, TABLES.format("t_2"), TRIGGER.format("t_2"))
    return Rig(here, there, Path("app", "t_2", "tenant_id", 2, 2))


async def test_the_snapshot_is_the_tenant_and_nobody_else(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.same()
        assert stream.copied.rows == 100 + 10 + 10 + 20 + 10
    with rig.there.connect() as conn:
        for table in ("people", "hens", "eggs", "logs", "bare"):
            assert conn.execute(f"SELECT DISTINCT tenant_id FROM t_2.{table}").fetchall() == [(2,)]
        assert conn.execute("SELECT count(*) FROM t_2.people WHERE twice IS DISTINCT FROM owes * 2").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM t_2.countries").fetchone() == (0,)


async def test_changes_follow(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write(
            "INSERT INTO app.people (tenant_id, name, owes, big)"
            " VALUES (2, 'new', 5, repeat('x', 100000)), (1, 'other', 1, '')",
            "UPDATE app.people SET owes = owes + 1 WHERE tenant_id IN (1, 2)",  # large values are unchanged
            "UPDATE app.people SET name = name || '''\\' WHERE tenant_id = 2 AND id % 2 = 0",
            "UPDATE app.people SET mood = NULL, pair = NULL, moods = '{}' WHERE tenant_id = 2 AND id % 5 = 0",
            "UPDATE app.hens SET egg = NULL WHERE tenant_id = 2",
            "DELETE FROM app.eggs WHERE tenant_id = 2 AND id < 5",
            "UPDATE app.eggs SET id = id + 100 WHERE tenant_id = 2",
            "UPDATE app.bare SET b = 'changed', a = a + 1000 WHERE tenant_id = 2",
            "DELETE FROM app.bare WHERE a % 2 = 0",
            "UPDATE app.logs SET at = at + 1000 WHERE at < '2020-12-01'",  # to the other partition
            "INSERT INTO app.empty VALUES (2)",
        )
        await stream.same()
        await stream.write("DELETE FROM app.eggs WHERE tenant_id = 2", "DELETE FROM app.hens WHERE tenant_id = 2")
        await stream.same()


async def test_an_update_of_nothing_but_the_key_and_one_of_nothing_at_all(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write("INSERT INTO app.empty VALUES (2)", "UPDATE app.empty SET tenant_id = tenant_id")
        await stream.write("UPDATE app.bare SET a = -a WHERE tenant_id = 2")
        await stream.same()


async def test_what_is_rolled_back_does_not_follow(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write("UPDATE app.people SET name = 'rolled back'", "ROLLBACK", "BEGIN")
        await stream.write(
            "SAVEPOINT a", "UPDATE app.people SET name = 'gone'", "ROLLBACK TO a", "UPDATE app.bare SET b = 'kept'"
        )
        await stream.same()


async def test_truncate_empties_the_tenant_s_rows_and_no_others(rig: Rig) -> None:
    rig.path = Path("app", "t_2", "tenant_id", 2, 2)
    execute(rig.there, "INSERT INTO t_2.bare VALUES (9, 9, 'a neighbour')")
    async with rig.streamed() as stream:
        await stream.write(
            "INSERT INTO app.bare VALUES (2, 77, 'before')", "TRUNCATE app.bare RESTART IDENTITY CASCADE"
        )
        await stream.write("INSERT INTO app.bare VALUES (2, 78, 'after')")
        await stream.same()
    with rig.there.connect() as conn:
        assert conn.execute("SELECT * FROM t_2.bare WHERE tenant_id = 9").fetchall() == [(9, 9, "a neighbour")]


async def test_a_clone_has_another_key(rig: Rig) -> None:
    rig.path = Path("app", "t_2", "tenant_id", 2, 42)
    async with rig.streamed() as stream:
        await stream.write("UPDATE app.people SET name = 'x' WHERE id % 4 = 0", "DELETE FROM app.logs WHERE id % 4 = 0")
        await stream.write("UPDATE app.eggs SET hen = 11 - hen", "UPDATE app.bare SET a = -a", "TRUNCATE app.empty")
        await stream.same()
    with rig.there.connect() as conn:
        for table in ("people", "hens", "eggs", "logs", "bare"):
            assert conn.execute(f"SELECT DISTINCT tenant_id FROM t_2.{table}").fetchall() == [(42,)]


async def test_a_schema_of_its_own_needs_no_filter(rig: Rig) -> None:
    execute(
        rig.here,
        *(f"DELETE FROM app.{table} WHERE tenant_id <> 2" for table in ("logs", "bare")),
        "UPDATE app.hens SET egg = NULL",
        "DELETE FROM app.eggs WHERE tenant_id <> 2",
        "DELETE FROM app.hens WHERE tenant_id <> 2",
        "DELETE FROM app.people WHERE tenant_id <> 2",
    )
    rig.filtered = False
    async with rig.streamed() as stream:
        await stream.write("UPDATE app.people SET name = 'x' WHERE id % 4 = 0", "DELETE FROM app.logs WHERE id % 4 = 0")
        await stream.same()


async def test_a_transaction_larger_than_the_memory_meant_for_it(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write(
            "INSERT INTO app.bare SELECT 2, n, repeat('y', 100) FROM generate_series(1000, 9000) n",
            "UPDATE app.bare SET b = 'z' WHERE a BETWEEN 2000 AND 3000",
            "DELETE FROM app.bare WHERE a BETWEEN 2500 AND 2600",
        )
        await stream.same()


async def test_a_new_column_stops_the_stream(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write("ALTER TABLE app.bare ADD COLUMN c int", "INSERT INTO app.bare VALUES (2, 500, '', 1)")
        with pytest.raises(StreamBroken, match="columns are not the same"):
            await stream.catch_up()


async def test_a_row_that_is_missing_at_the_target_stops_the_stream(rig: Rig) -> None:
    async with rig.streamed() as stream:
        execute(rig.there, "DELETE FROM t_2.bare WHERE a = (SELECT min(a) FROM t_2.bare)")
        await stream.write("UPDATE app.bare SET b = 'changed' WHERE tenant_id = 2")
        with pytest.raises(StreamBroken, match="an UPDATE met 0 rows") as caught:
            await stream.catch_up()
        assert caught.value.where == "app.bare"
    with rig.there.connect() as conn:
        assert conn.execute("SELECT count(*) FROM t_2.bare WHERE b = 'changed'").fetchone() == (0,)


async def test_both_sides_are_compared_while_they_change(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write("UPDATE app.people SET name = 'before'", "DELETE FROM app.bare WHERE a < 10")
        over, writing = asyncio.Event(), 0

        async def write() -> None:
            nonlocal writing
            async with connector(rig.here)() as conn:
                while not over.is_set():
                    writing += 1
                    await conn.execute("INSERT INTO app.bare VALUES (2, %s, 'during')", (10_000 + writing,))

        writer = asyncio.create_task(write())
        for _ in range(3):
            await stream.following.verify()
        over.set()
        await writer
        assert writing > 3
        await stream.same()


async def test_a_difference_is_found_and_named(rig: Rig) -> None:
    async with rig.streamed() as stream:
        execute(rig.there, "UPDATE t_2.people SET name = 'spoilt' WHERE id = (SELECT min(id) FROM t_2.people)")
        with pytest.raises(StreamBroken, match="people has 100 rows on both sides, but not the same"):
            await stream.following.verify()


async def test_nothing_is_left_behind(rig: Rig) -> None:
    async with rig.streamed():
        pass
    await rig.transfer.end()
    with rig.here.connect() as conn:
        assert conn.execute(
            "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        ).fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    with rig.there.connect() as conn:
        assert conn.execute("SELECT count(*) FROM tenantry.streams").fetchone() == (0,)


async def test_a_stream_that_begins_again_begins_from_scratch(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.write("DELETE FROM app.bare WHERE tenant_id = 2")
    async with rig.streamed() as stream:
        await stream.same()
