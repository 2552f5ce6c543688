"""What the setting ``template`` can name, and what is said when it can't be used."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tenantry.errors import InvalidSettings, OperationFailed
from tenantry.model import BindingMode, House
from tenantry.operations.engine import is_passing
from tenantry.perimeter.binder import ADMIN
from tenantry.placements.template import parse_template
from tests.fixtures.servers import Database
from tests.fixtures.walls import PASSWORD, run_apply, set_passwords
from tests.placements.applications import ITEMS, NOTES, AlembicApplication

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Place:
    """A database with the perimeter's roles and an empty schema ``app``. ``dsn`` is the control plane's."""

    dsn: str
    conn: psycopg.Connection

    def relations(self) -> dict[str, str]:
        """The tables and indexes of the schema, each with its owner."""
        query = (
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class"
            " WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'i', 'S')"
        )
        return dict(self.conn.execute(query).fetchall())


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    with database.connect() as conn:
        conn.execute("CREATE SCHEMA app")
        run_apply(database.dsn(), House(app_schema="app"), BindingMode.SEALED, ["app"])
        set_passwords(conn)
        yield Place(database.dsn(ADMIN, password=PASSWORD), conn)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module of the application and returns its name."""
    names: list[str] = []
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        names.append(f"models_{uuid4().hex[:8]}")
        (tmp_path / f"{names[-1]}.py").write_text(f"from sqlalchemy import *\nmetadata = MetaData()\n{text}")
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def alembic(tmp_path: Path) -> AlembicApplication:
    return AlembicApplication(tmp_path)


# What is named wrongly


@pytest.mark.parametrize(
    "spec", ["", "sql", "sql:", "sqlalchemy:app.models", "alembic:", "django:app", "folder", "SQL:folder", ":", "::"]
)
def test_another_form_is_refused_with_those_that_there_are(spec: str) -> None:
    with pytest.raises(InvalidSettings, match="has no known form") as caught:
        parse_template(spec)
    assert caught.value.hint == "use 'sql:FOLDER', 'sqlalchemy:MODULE:METADATA' or 'alembic:FILE'"


@pytest.mark.parametrize("spec", ["sql:{}/nowhere", "alembic:{}/nowhere.ini", "alembic:{}", "sql:{}/a\n' $(id)"])
def test_a_folder_or_file_that_is_not_there_is_named(tmp_path: Path, spec: str) -> None:
    with pytest.raises(InvalidSettings, match="does not exist"):
        parse_template(spec.format(tmp_path))


MODULES = {
    "no module": ("", "sqlalchemy:no_such_module:metadata", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no attribute": ("", "sqlalchemy:{}:Base.metadata", "AttributeError: .*no attribute 'Base'"),
    "raises": ("{}['DATABASE_URL']", "sqlalchemy:{}:metadata", "KeyError: 'DATABASE_URL'"),
    "syntax": ("class", "sqlalchemy:{}:metadata", "SyntaxError"),
    "base": ("class Base: metadata = metadata", "sqlalchemy:{}:Base", "is a type, not a MetaData"),
    "schema": (
        "Table('items', metadata, Column('tenant_id', BigInteger), schema='shop')",
        "sqlalchemy:{}:metadata",
        "puts the table items into the schema shop",
    ),
}


@pytest.mark.parametrize(("text", "spec", "message"), MODULES.values(), ids=MODULES)
def test_metadata_that_can_t_be_used_says_why(
    write_module: Callable[[str], str], text: str, spec: str, message: str
) -> None:
    template = parse_template(spec.format(write_module(text)))
    before = list(sys.path)
    with pytest.raises(InvalidSettings, match=message) as caught:
        template.version()
    assert caught.value.hint
    assert sys.path == before


def test_a_base_is_taken_for_what_it_is(write_module: Callable[[str], str]) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_template(f"sqlalchemy:{write_module('class Base: metadata = metadata')}:Base").version()
    assert caught.value.hint == "name its metadata: 'Base.metadata'"


async def test_an_environment_that_can_t_be_read_says_why(alembic: AlembicApplication, place: Place) -> None:
    alembic.release(ITEMS)
    revision = alembic.folder / "migrations" / "versions" / "r1.py"
    revision.write_text("nonsense = ")
    with pytest.raises(InvalidSettings, match="can't be read: invalid syntax") as caught:
        parse_template(alembic.spec).version()
    assert caught.value.hint == f"run 'alembic --config {alembic.folder}/alembic.ini heads' to see why"
    shutil.rmtree(alembic.folder / "migrations")
    with pytest.raises(InvalidSettings, match="migrations"):
        parse_template(alembic.spec).version()


# SQLAlchemy

TABLE = "Table('items', metadata, Column('tenant_id', BigInteger, primary_key=True)"


async def test_tables_that_refer_to_each_other_are_made(place: Place, write_module: Callable[[str], str]) -> None:
    one = "Table('one', metadata, Column('id', Integer, primary_key=True), Column('two', ForeignKey('two.id')))"
    two = "Table('two', metadata, Column('id', Integer, primary_key=True), Column('one', ForeignKey('one.id')))"
    template = parse_template(f"sqlalchemy:{write_module(f'{one}{chr(10)}{two}')}:metadata")
    assert template.version()
    await template.apply(place.dsn, "app")
    assert {"one", "two"} <= place.relations().keys()


def test_a_version_tells_what_is_made(write_module: Callable[[str], str]) -> None:
    texts = (
        f"{TABLE})",
        f"{TABLE}, Column('name', Text))",
        f"{TABLE}, Column('name', Text, index=True))",
        f"{TABLE}, Column('name', Text), Index('items_name', 'name', postgresql_where=text('tenant_id > 1')))",
        f"{TABLE}, Column('name', Text), CheckConstraint('tenant_id > 1'))",
    )
    versions = [parse_template(f"sqlalchemy:{write_module(text)}:metadata").version() for text in texts]
    assert len(set(versions)) == len(versions)
    assert parse_template(f"sqlalchemy:{write_module(texts[0])}:metadata").version() == versions[0]


async def test_what_create_all_can_t_change_is_told(place: Place, write_module: Callable[[str], str]) -> None:
    await parse_template(f"sqlalchemy:{write_module(f'{TABLE})')}:metadata").apply(place.dsn, "app")
    text = f"{TABLE}, Column('price', Integer), Column('name', Text))\nTable('notes', metadata, Column('id', Integer))"
    with pytest.raises(OperationFailed, match="the table items lacks the columns name, price") as caught:
        await parse_template(f"sqlalchemy:{write_module(text)}:metadata").apply(place.dsn, "app")
    assert caught.value.hint == "create_all() does not alter tables: use Alembic or SQL files as the template"
    assert "notes" not in place.relations()


async def test_a_statement_of_create_all_that_fails_is_told(place: Place, write_module: Callable[[str], str]) -> None:
    text = f"{TABLE}, Column('name', Text, server_default=text('nothing()')))"
    with pytest.raises(OperationFailed, match=r"function nothing\(\) does not exist: CREATE TABLE items") as caught:
        await parse_template(f"sqlalchemy:{write_module(text)}:metadata").apply(place.dsn, "app")
    assert not is_passing(caught.value)


# Alembic


async def upgrade(alembic: AlembicApplication, place: Place) -> None:
    await parse_template(alembic.spec).apply(place.dsn, "app")


async def test_each_head_is_upgraded(alembic: AlembicApplication, place: Place) -> None:
    alembic.release(ITEMS)
    alembic.count = 0
    (alembic.folder / "migrations" / "versions" / "r1.py").rename(alembic.folder / "migrations" / "versions" / "a.py")
    alembic.release(NOTES)
    other = alembic.folder / "migrations" / "versions" / "r1.py"
    other.write_text(other.read_text().replace("'r1'", "'other'"))
    assert parse_template(alembic.spec).version() == "other,r1"
    await upgrade(alembic, place)
    assert {"items", "notes"} <= place.relations().keys()


REVISIONS = {
    "statement": (
        ["SELECT 1", "SELECT nothing"],
        r"in r1\.py, line 8: column \"nothing\" does not exist: SELECT nothing",
    ),
    "not SQL": (["'"], r"in r1\.py, line 7: unterminated quoted string"),
}


@pytest.mark.parametrize(("statements", "message"), REVISIONS.values(), ids=REVISIONS)
async def test_a_revision_that_fails_is_named_with_its_line_and_statement(
    alembic: AlembicApplication, place: Place, statements: list[str], message: str
) -> None:
    alembic.release(*statements)
    with pytest.raises(OperationFailed, match=message) as caught:
        await upgrade(alembic, place)
    assert not is_passing(caught.value)
    assert place.relations() == {}


ENVIRONMENTS = {
    "raises": ("raise ValueError('no settings')", r"in env\.py, line 1: ValueError: no settings"),
    "misses": ("import nothing_like_it", r"in env\.py, line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
    "ends": ("raise SystemExit('enough')", "alembic ended with the status 1: enough"),
    "does nothing": ("", r"env\.py ran the revisions in another place: let it use config\.attributes"),
}


@pytest.mark.parametrize(("text", "message"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
async def test_an_environment_that_fails_says_why(
    alembic: AlembicApplication, place: Place, text: str, message: str
) -> None:
    alembic.write_environment(text)
    alembic.release(ITEMS)
    with pytest.raises(OperationFailed, match=message):
        await upgrade(alembic, place)


async def test_a_lock_that_somebody_holds_is_worth_another_try(alembic: AlembicApplication, place: Place) -> None:
    alembic.release(ITEMS)
    await upgrade(alembic, place)
    alembic.release("SET LOCAL lock_timeout = 1", "ALTER TABLE items ADD COLUMN price int")
    with place.conn.transaction():
        place.conn.execute("LOCK TABLE app.items IN ACCESS SHARE MODE")
        with pytest.raises(OperationFailed, match="canceling statement due to lock timeout") as caught:
            await upgrade(alembic, place)
    assert is_passing(caught.value)


async def test_what_is_made_outside_of_a_transaction_belongs_to_the_owner_too(
    alembic: AlembicApplication, place: Place
) -> None:
    alembic.release(ITEMS)
    revision = alembic.folder / "migrations" / "versions" / "r1.py"
    revision.write_text(
        f"{revision.read_text()}    with op.get_context().autocommit_block():\n"
        "        op.execute('CREATE INDEX CONCURRENTLY items_name ON items (tenant_id, name)')\n"
        "        op.execute('CREATE TABLE aside ()')\n        raise ValueError('stop')\n"
    )
    with pytest.raises(OperationFailed, match="stop"):
        await upgrade(alembic, place)
    assert {"items_name", "aside"} <= place.relations().keys()
    assert set(place.relations().values()) == {"tenantry_owner"}


async def test_a_cancelled_upgrade_leaves_no_process_behind(
    alembic: AlembicApplication, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[asyncio.subprocess.Process] = []
    original = asyncio.create_subprocess_exec

    async def remember(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        processes.append(await original(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remember)
    alembic.release("LOCK TABLE gate")
    place.conn.execute("CREATE TABLE app.gate (); ALTER TABLE app.gate OWNER TO tenantry_owner")
    with place.conn.transaction():
        place.conn.execute("LOCK TABLE app.gate")
        upgrading = asyncio.create_task(upgrade(alembic, place))
        await waits_for_a_lock(place, upgrading)
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
    assert [process.returncode for process in processes] == [-9]


async def waits_for_a_lock(place: Place, task: asyncio.Task[None]) -> None:
    while not task.done():
        if place.conn.execute("SELECT FROM pg_locks WHERE NOT granted").fetchone() is not None:
            return
        await asyncio.wait([task], timeout=0.05)
    raise AssertionError(task.exception())
