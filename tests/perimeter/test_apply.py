"""Applying: twice is as once, whatever the house is called; at the same time, too; and a refusal says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from tenantry.errors import PerimeterBroken
from tenantry.model import BindingMode, House, KeyType, encode_key
from tenantry.perimeter.apply import apply_perimeter
from tenantry.perimeter.names import quoted
from tenantry.perimeter.token import Signer
from tenantry.postgres.server import THROWAWAY, LocalServer
from tests.fixtures.servers import Database, MakeDatabase, fresh_database
from tests.fixtures.walls import KEY, KEYS, KID, PASSWORD, run_apply, run_plan, set_passwords

COLUMNS = ["company_id", "order", "user", "row", "position", "int", "values", "authorization", "name", "_", "a" * 63]
TYPES = {
    KeyType.BIGINT: ["bigint", "integer", "smallint", "domain_of_bigint"],
    KeyType.UUID: ["uuid", "domain_of_uuid"],
    KeyType.TEXT: ["text", "varchar", "varchar(60)", "character(60)", "domain_of_text", 'text COLLATE "C"'],
}
MODES = [("server", BindingMode.SEALED), ("server15", BindingMode.SIGNED)]


@pytest.fixture(
    params=[(*mode, key) for mode in MODES for key in KeyType], ids=lambda p: f"{p[1]}-{p[2]}", scope="module"
)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Database, BindingMode, KeyType]]:
    server, mode, key_type = request.param
    with fresh_database(request.getfixturevalue(server)) as database:
        with database.connect() as conn:
            for name in ("bigint", "uuid", "text"):
                conn.execute(f"CREATE DOMAIN domain_of_{name} AS {name}")
        yield database, mode, key_type


@pytest.mark.parametrize("column", COLUMNS)
def test_applying_twice_is_applying_once_for_every_name_and_type(
    place: tuple[Database, BindingMode, KeyType], column: str
) -> None:
    database, mode, key_type = place
    schema = f"s_{column}"[:63]
    house = House(key_type, column, schema)
    key = 7 if key_type is KeyType.BIGINT else KEYS[key_type][0]
    with database.connect() as conn:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for number, kind in enumerate(TYPES[key_type]):
            conn.execute(
                f"CREATE TABLE {quoted(schema)}.t{number} ({quoted(column)} {kind} NOT NULL, id int,"
                f" PRIMARY KEY ({quoted(column)}, id))"
            )
    done = run_apply(database.dsn(), house, mode, [schema])
    assert done.changes
    assert done.findings == ()
    assert run_plan(database.dsn(), house, mode, [schema]).changes == ()
    assert run_apply(database.dsn(), house, mode, [schema]).changes == ()
    with database.connect() as conn:
        set_passwords(conn)
        conn.execute("SELECT tenantry_priv.add_key_v1(%s, %s, now() + interval '1 day')", (KID, KEY))
        conn.execute("INSERT INTO tenantry.plans VALUES ('free') ON CONFLICT DO NOTHING")
        conn.execute("DELETE FROM tenantry.residents")
        conn.execute(
            "INSERT INTO tenantry.residents VALUES (%s, %s, 1, 'open', %s, 'free')", (encode_key(key), key, schema)
        )
    token = Signer(KID, KEY).mint(encode_key(key), database.name, "tenantry_app")
    with database.connect("tenantry_app", password=PASSWORD, autocommit=False) as app:
        app.execute("SELECT tenantry.bind_v1(%s)", [token])
        for number in range(len(TYPES[key_type])):
            app.execute(f"INSERT INTO t{number} (id) VALUES (1)")
            assert app.execute(f"SELECT count(*) FROM t{number}").fetchone() == (1,)
            plan = app.execute(f"EXPLAIN (COSTS OFF) SELECT * FROM t{number}").fetchall()
            assert "OPERATOR(tenantry.===)" in str(plan)
        app.rollback()


def test_two_databases_of_one_new_server_can_be_walled_at_the_same_time() -> None:
    house = House(KeyType.BIGINT, "tenant_id", "app")
    with LocalServer(settings=THROWAWAY) as server:
        names = [f"d{number}" for number in range(4)]
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            for name in names:
                conn.execute(f"CREATE DATABASE {name}")
        for name in names:
            with psycopg.connect(server.dsn(name), autocommit=True) as conn:
                conn.execute("CREATE SCHEMA app CREATE TABLE t (tenant_id bigint PRIMARY KEY)")

        def close(name: str) -> None:
            run_apply(server.dsn(name), house, BindingMode.SEALED, ["app"])

        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(close, names))
        for name in names:
            assert run_plan(server.dsn(name), house, BindingMode.SEALED, ["app"]).closed


@pytest.mark.parametrize("mode", list(BindingMode))
def test_one_database_can_be_walled_twice_at_the_same_time(database: Database, mode: BindingMode) -> None:
    house = House(KeyType.BIGINT, "tenant_id", "app")
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA app")
        for number in range(5):
            conn.execute(f"CREATE TABLE app.t{number} (tenant_id bigint PRIMARY KEY)")

    async def both() -> None:
        async with (
            await AsyncConnection.connect(database.dsn(), autocommit=True) as one,
            await AsyncConnection.connect(database.dsn(), autocommit=True) as other,
        ):
            await asyncio.gather(*(apply_perimeter(conn, house, mode, ["app"]) for conn in (one, other)))

    asyncio.run(both())
    assert run_plan(database.dsn(), house, mode, ["app"]).closed


@pytest.mark.parametrize("first", list(BindingMode))
def test_a_wall_can_change_its_binding_mode(database: Database, first: BindingMode) -> None:
    house = House(KeyType.UUID, "tenant_id", "app")
    second = BindingMode.SIGNED if first is BindingMode.SEALED else BindingMode.SEALED
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA app CREATE TABLE t (tenant_id uuid PRIMARY KEY)")
    for mode in (first, second, first):
        run_apply(database.dsn(), house, mode, ["app"])
        assert run_plan(database.dsn(), house, mode, ["app"]).closed


def test_a_wall_of_no_schemas_and_of_an_empty_one(database: Database) -> None:
    house = House()
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA empty")
    for schemas in ([], ["empty"], ["public"]):
        run_apply(database.dsn(), house, BindingMode.SEALED, schemas)
        assert run_plan(database.dsn(), house, BindingMode.SEALED, schemas).closed


def test_a_table_that_cant_be_walled_is_named(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA app CREATE TABLE t (tenant_id point)")
    with pytest.raises(PerimeterBroken, match=r"app\.t can't be changed") as caught:
        run_apply(database.dsn(), House(KeyType.BIGINT, "tenant_id", "app"), BindingMode.SEALED, ["app"])
    assert caught.value.where == f"database {database.name}"


def test_a_schema_that_does_not_exist_is_an_error(database: Database) -> None:
    with pytest.raises(PerimeterBroken, match="nowhere"):
        run_apply(database.dsn(), House(), BindingMode.SEALED, ["nowhere"])


def test_a_login_without_rights_is_refused_and_changes_nothing(make_database: MakeDatabase) -> None:
    database = make_database()
    with database.connect() as conn:
        conn.execute("DROP ROLE IF EXISTS nobody_special; CREATE ROLE nobody_special LOGIN PASSWORD 'x'")
        dsn = database.dsn("nobody_special", password="x")
        with pytest.raises(PerimeterBroken) as caught:
            run_apply(dsn, House(), BindingMode.SEALED, ["public"])
        assert caught.value.hint
        assert conn.execute("SELECT FROM pg_namespace WHERE nspname = 'tenantry'").fetchall() == []
        conn.execute("DROP OWNED BY nobody_special; DROP ROLE nobody_special")


def test_without_the_server_no_role_is_touched(database: Database) -> None:
    house = House(KeyType.BIGINT, "tenant_id", "app")
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA app")
        run_apply(database.dsn(), house, BindingMode.SEALED, ["app"])
        conn.execute("ALTER ROLE tenantry_app CONNECTION LIMIT 7 CREATEDB")
        try:
            assert run_apply(database.dsn(), house, BindingMode.SEALED, ["app"], server=False).changes == ()
            assert run_plan(database.dsn(), house, BindingMode.SEALED, ["app"]).changes
        finally:
            conn.execute("ALTER ROLE tenantry_app CONNECTION LIMIT -1 NOCREATEDB")
