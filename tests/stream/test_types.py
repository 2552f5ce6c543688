"""Every type that a column can have goes through a stream as it is."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest

from tenantry.stream.path import Path
from tests.fixtures.servers import Database, MakeDatabase
from tests.stream.rig import Rig, execute

pytestmark = pytest.mark.anyio

VALUES = {
    "aclitem": "=r/postgres",
    "bit": "1",
    "bool": "t",
    "box": "(2,2),(0,0)",
    "bpchar": "a",
    "bytea": r"\x00ff5c27",
    "char": "x",
    "cid": "7",
    "cidr": "10.0.0.0/8",
    "circle": "<(1,2),3>",
    "date": "infinity",
    "datemultirange": "{[2020-01-01,2020-02-01),[2021-01-01,infinity)}",
    "daterange": "[2020-01-01,2020-02-01)",
    "float4": "0.1",
    "float8": "NaN",
    "gtsvector": None,
    "inet": "::ffff:1.2.3.4/128",
    "int2": "-32768",
    "int2vector": "1 2 3",
    "int4": "2147483647",
    "int4multirange": "{[1,3),[5,7)}",
    "int4range": "[1,)",
    "int8": "-9223372036854775808",
    "int8multirange": "{}",
    "int8range": "empty",
    "interval": "-1 year 2 mons -3 days 04:05:06.789",
    "json": '{"a":  [1, "\\u00e4", null], "a": 2}',
    "jsonb": '{"b": 1e400, "a": "\'\\\\"}',
    "jsonpath": '$."a"[*]?(@ > 1)',
    "line": "{1,2,3}",
    "lseg": "[(0,0),(1,1)]",
    "macaddr": "08:00:2b:01:02:03",
    "macaddr8": "08:00:2b:01:02:03:04:05",
    "money": "-12345.67",
    "name": "a name",
    "numeric": "-0.000000000000000000000000000000000000000000000000000000012345",
    "nummultirange": "{(-infinity,1.50)}",
    "numrange": "[1.10,2.0]",
    "oid": "4294967295",
    "oidvector": "1 2 3",
    "oid8": "18446744073709551615",
    "path": "((0,0),(1,1),(2,0))",
    "pg_lsn": "16/B374D848",
    "pg_snapshot": "10:20:10,14,15",
    "point": "(1e-300,-0)",
    "polygon": "((0,0),(1,1),(2,0))",
    "refcursor": "c",
    "regclass": "pg_class",
    "regcollation": '"C"',
    "regconfig": "english",
    "regdictionary": "simple",
    "regdatabase": "postgres",
    "regnamespace": "pg_catalog",
    "regoper": "||/",
    "regoperator": "+(integer,integer)",
    "regproc": "now",
    "regprocedure": "lower(text)",
    "regrole": "postgres",
    "regtype": "integer",
    "text": "\u00e4\U0001f600\t\n\\.\r''\"",
    "tid": "(1,2)",
    "time": "23:59:59.999999",
    "timestamp": "0044-03-15 12:00:00 BC",
    "timestamptz": "2026-11-24 12:34:56.789012+05:30",
    "timetz": "12:34:56.789-12:30",
    "tsmultirange": "{[2020-01-01,2020-02-01)}",
    "tsquery": "'fat' & ('rat' | !'cat':A)",
    "tsrange": '["2020-01-01 00:00","2020-02-01 00:00")',
    "tstzmultirange": "{[2020-01-01 00:00+00,)}",
    "tstzrange": "(,2020-02-01 00:00+02]",
    "tsvector": "'a':1A 'fat':2,4 'it''s':3",
    "txid_snapshot": "10:20:10,14,15",
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "varbit": "1011",
    "varchar": "",
    "xid": "4294967295",
    "xid8": "18446744073709551615",
    "xml": "<a>&lt;b/&gt;</a>",
}
"""A value of each base type, as text: one that is easily spoilt. None: nobody can make one."""

_TYPES = """
SELECT t.typname, t.typarray <> 0 FROM pg_type t
 WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm') AND t.typelem = 0
   AND t.typname !~ '^(pg_(node_tree|ndistinct|dependencies|mcv_list|brin_.*))$'
 UNION
SELECT typname, false FROM pg_type
 WHERE typname IN ('int2vector', 'oidvector', 'point', 'name', 'lseg', 'box', 'line')
 ORDER BY 1
"""


def columns(database: Database) -> dict[str, tuple[str, str]]:
    """A column of each type of the server, and one of its arrays: its type and a value."""
    with database.connect() as conn:
        found = conn.execute(_TYPES).fetchall()
    unknown = {name for name, _ in found} - VALUES.keys()
    assert not unknown, "types that this list does not know"
    made = {}
    for name, has_array in found:
        value = VALUES[name]
        if value is None:
            continue
        kind = f'pg_catalog."{name}"'
        made[f"c_{name}"] = (kind, value)
        if has_array:
            inside = value.replace("\\", "\\\\").replace('"', '\\"')
            made[f"a_{name}"] = (f"{kind}[]", f'{{"{inside}",NULL,"{inside}"}}')
    return made


def has_xml(database: Database) -> bool:
    """Whether the server was built with libxml."""
    with database.connect() as conn, suppress(psycopg.errors.FeatureNotSupported):
        conn.execute("SELECT '<a/>'::xml")
        return True
    return False


@pytest.fixture(params=["server", "server15", "server15 to server"])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    """One table with a column of each type, within one version of PostgreSQL, and to a later one."""
    first, _, last = request.param.partition(" to ")
    here = make_database(request.getfixturevalue(first))
    there = make_database(request.getfixturevalue(last or first))
    known = columns(here)
    if not (has_xml(here) and has_xml(there)):
        known = {name: column for name, column in known.items() if "xml" not in name}
    listing = ", ".join(f'"{name}" {kind}' for name, (kind, _) in known.items())
    for database, schema in ((here, "app"), (there, "t_2")):
        execute(
            database,
            f"CREATE SCHEMA {schema}",
            f"CREATE TABLE {schema}.all_types (tenant_id int, id int, {listing}, PRIMARY KEY (tenant_id, id))",
            *(
                f'CREATE TABLE {schema}."t_{name}" (tenant_id int PRIMARY KEY, "{name}" {kind})'
                for name, (kind, _) in known.items()
            ),
        )
    with here.connect() as conn:
        names = ", ".join(f'"{name}"' for name in known)
        marks = ", ".join(f"%s::{kind}" for kind, _ in known.values())
        values = [value for _, value in known.values()]
        conn.execute(f"INSERT INTO app.all_types (tenant_id, id, {names}) VALUES (2, 1, {marks})", values)
        conn.execute("INSERT INTO app.all_types (tenant_id, id) VALUES (2, 2), (1, 1)")
        for name, (kind, value) in known.items():
            conn.execute(f'INSERT INTO app."t_{name}" VALUES (2, %s::{kind})', [value])
    return Rig(here, there, Path("app", "t_2", "tenant_id", 2, 2))


async def test_every_type_is_copied_and_followed(rig: Rig) -> None:
    async with rig.streamed() as stream:
        await stream.same()
        names = [name for name in stream.following.shape.tables["all_types"].stored if name not in ("tenant_id", "id")]
        listing = ", ".join(f'"{name}"' for name in names)
        await stream.write(
            f"INSERT INTO app.all_types (tenant_id, id, {listing})"
            f" SELECT 2, 3, {listing} FROM app.all_types WHERE tenant_id = 2 AND id = 1"
        )
        await stream.write(
            *(
                f'UPDATE app.all_types a SET "{name}" = b."{name}" FROM app.all_types b'
                " WHERE a.tenant_id = 2 AND a.id = 2 AND b.tenant_id = 2 AND b.id = 1"
                for name in names
            )
        )
        await stream.same()
        tables = [table for table in stream.following.shape.tables.values() if table.name.startswith("t_")]
        assert sum(table.is_binary for table in tables) > 100, "most types are copied in binary form"
        await stream.write(
            "UPDATE app.all_types SET " + ", ".join(f'"{name}" = NULL' for name in names) + " WHERE id = 1"
        )
        await stream.same()
