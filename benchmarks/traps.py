"""The traps of row security: what the ORM sends behind policies, against ``WHERE tenant = constant`` without policies.

Behind a policy PostgreSQL uses no index for an operator that is not leakproof (LIKE, full text, JSON, arrays, enums,
citext). The ORM's statements name the tenant and have seeks; the statement without both shows what policies alone would
cost. Everything is measured inside one open transaction. One tenant has 300,000 of 500,000 rows and indexes of its own,
the small one has 5,000.

What is dominated by the search costs the same. What finds hundreds of rows reads each of them twice, and compares
citext twice. A statement that is not prepared pays 50 to 100 µs for being planned behind policies. What takes less than
50 µs by itself, one row by its key in a partition, pays some 10 µs for the policies.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Engine, Enum, Index, Integer, Text, event, func, select
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks._harness import Report, note, report
from benchmarks._house import BenchHouse, bench_house
from tenantry import Router, Tenant
from tenantry.integrations.sqlalchemy import create_engine
from tenantry.postgres import sqlfile
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.connect import merge_dsn
from tenantry.service import perimeter, tenant

HERE = Path(__file__).parent
BIG, SMALL = 3, 32
GOAL = 1.10
SECONDS = 0.15
"""How long a side is timed in each pair, more or less."""


class Base(DeclarativeBase):
    """The tables as the application knows them."""


class Mood(enum.Enum):
    """An enum of the database."""

    sad = "sad"
    ok = "ok"
    happy = "happy"
    rare = "rare"


class Note(Base):
    """A row with one column for each trap."""

    __tablename__ = "notes"
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str] = mapped_column(Text)
    mood: Mapped[Mood] = mapped_column(Enum(Mood, name="mood"))
    tags: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    doc: Mapped[dict[str, Any]] = mapped_column(JSONB)
    body: Mapped[str] = mapped_column(TSVECTOR)
    email: Mapped[str] = mapped_column(CITEXT)
    __table_args__ = (
        Index("notes_email_seek", "tenant_id", "email"),
        Index("notes_mood_seek", "tenant_id", "mood"),
        Index(
            "notes_words_seek",
            *("tenant_id", "note", "tags", "doc", "body"),
            postgresql_using="gin",
            postgresql_ops={"note": "gin_trgm_ops", "doc": "jsonb_path_ops"},
        ),
    )


class Few(Base):
    """32 hash partitions."""

    __tablename__ = "parts_32"
    __table_args__ = {"postgresql_partition_by": "HASH (tenant_id)"}  # noqa: RUF012  # SQLAlchemy's form
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str] = mapped_column(Text)


class Many(Base):
    """256 hash partitions."""

    __tablename__ = "parts_256"
    __table_args__ = {"postgresql_partition_by": "HASH (tenant_id)"}  # noqa: RUF012  # SQLAlchemy's form
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str] = mapped_column(Text)


@dataclass(frozen=True)
class Trap:
    """One trap: the ORM's condition, the same in SQL, and its parameter."""

    table: type[Any]
    condition: Any
    sql: str
    value: Any


TRAPS = {
    "LIKE": Trap(Note, Note.note.like("%abc12%"), "note LIKE %(value)s", "%abc12%"),
    "ILIKE": Trap(Note, Note.note.ilike("%ABC12%"), "note ILIKE %(value)s", "%ABC12%"),
    "full text": Trap(
        Note,
        Note.body.bool_op("@@")(func.to_tsquery("simple", "w17")),
        "body @@ to_tsquery('simple', %(value)s)",
        "w17",
    ),
    "jsonb": Trap(Note, Note.doc.contains({"k": 17}), "doc @> %(value)s::jsonb", '{"k": 17}'),
    "array overlaps": Trap(Note, Note.tags.overlap([1017]), "tags && %(value)s::int[]", [1017]),
    "array contains": Trap(Note, Note.tags.contains([1017, 17]), "tags @> %(value)s::int[]", [1017, 17]),
    "enum": Trap(Note, Note.mood == Mood.rare, "mood = %(value)s", "rare"),
    "citext": Trap(Note, Note.email == "USER17@example.com", "email = %(value)s", "USER17@example.com"),
    "32 partitions": Trap(Few, Few.id == 1002, "id = %(value)s", 1002),
    "256 partitions": Trap(Many, Many.id == 1002, "id = %(value)s", 1002),
}
SMALL_TRAPS = {
    "LIKE": Trap(Note, Note.note.like("%abc1%"), "note LIKE %(value)s", "%abc1%"),
    "full text": Trap(
        Note,
        Note.body.bool_op("@@")(func.to_tsquery("simple", "w33")),
        "body @@ to_tsquery('simple', %(value)s)",
        "w33",
    ),
    "citext": Trap(Note, Note.email == "USER33@example.com", "email = %(value)s", "USER33@example.com"),
}
SETTINGS = {"prepared": (True, "auto"), "not prepared": (False, "auto"), "generic plan": (True, "force_generic_plan")}


def prepare(house: BenchHouse) -> tuple[dict[int, Tenant], str]:
    """The tenants that are asked, and the database without policies."""
    texts = sqlfile.parse(HERE.joinpath("traps.sql").read_text())

    async def create() -> dict[int, Tenant]:
        async with house.control() as control:
            made = {key: await tenant.create(control, f"tenant-{key}", key=key) for key in (BIG, SMALL)}
            await perimeter.apply(control)
        return made

    with psycopg.connect(house.server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE bare")
        conn.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    with psycopg.connect(house.server.dsn("bare"), autocommit=True) as conn:
        conn.execute(HERE.joinpath("traps", "0001_tables.sql").read_bytes())
        conn.execute("GRANT USAGE ON SCHEMA public TO plain; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    for database in ("tenantry", "bare"):
        with psycopg.connect(house.server.dsn(database), autocommit=True) as conn:
            for text in ("columns", "rows", "indexes"):
                for statement in texts[text].split(";\n"):
                    conn.execute(statement.encode())
    return asyncio.run(create()), merge_dsn(house.server.dsn("bare"), user="plain", password="plain")


def sent(engine: Engine, router: Router, asked: Tenant, trap: Trap) -> tuple[str, Any]:
    """What the ORM sends for a trap: the text and the parameters."""
    seen: list[tuple[str, Any]] = []

    def see(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", see)
    with router.tenant_scope(asked.slug), Session(engine) as session:
        session.execute(select(trap.table.id, trap.table.note).where(trap.condition)).all()
    event.remove(engine, "before_cursor_execute", see)
    return seen[-1]


def asking(conn: psycopg.Connection, query: str, parameters: Any, prepare: bool) -> Callable[[], object]:
    """A side: run the statement and fetch what it finds."""
    return lambda: sorted(conn.execute(query, parameters, prepare=prepare).fetchall())


def compare(made: Report, house: BenchHouse, name: str, trap: Trap, asked: Tenant, bare: psycopg.Connection) -> None:
    """All settings of one trap."""
    with Router(house.settings) as router:
        engine = create_engine(router)
        query, parameters = sent(engine, router, asked, trap)
        engine.dispose()
        given = {"value": trap.value}
        table = trap.table.__tablename__
        explicit = f"SELECT id, note FROM {table} WHERE tenant_id = {asked.key} AND {trap.sql}"
        alone = f"SELECT id, note FROM {table} WHERE {trap.sql}"
        with router.transaction(asked) as walled:
            for conn in (walled, bare):
                conn.execute("SET LOCAL statement_timeout = 0")
            for setting, (prepared, mode) in SETTINGS.items():
                for conn in (walled, bare):
                    conn.execute(f"SET LOCAL plan_cache_mode = {mode}")
                ours = asking(walled, query, parameters, prepared)
                other = asking(bare, explicit, given, prepared)
                slow = asking(walled, alone, given, prepared)
                what = f"{name}, {setting}"
                made.compare(what, ours, other, calls=calls(other), goal=GOAL)
                if made.ratios[-1].median > GOAL:
                    show(what, walled, query, parameters)
                    show(what, bare, explicit, given)
                made.compare(f"{what}, policies alone", slow, other, calls=calls(slow), pairs=5)


def calls(side: Callable[[], object]) -> int:
    """How many calls fill the time of one side."""
    for _ in range(6):
        side()
    begin = time.perf_counter()
    side()
    return max(2, min(2000, round(SECONDS / (time.perf_counter() - begin))))


def show(what: str, conn: psycopg.Connection, query: str, parameters: Any) -> None:
    """A plan, for whoever watches."""
    plan = conn.execute(f"EXPLAIN (ANALYZE, COSTS OFF) {query}", parameters).fetchall()
    note("\n".join([f"-- {what}: {query}", *(line for (line,) in plan)]))


def measure(made: Report, house: BenchHouse) -> None:
    """All traps for a tenant that has much, and search for one that has little."""
    tenants, bare_dsn = prepare(house)
    with psycopg.connect(bare_dsn) as bare:
        for name, trap in TRAPS.items():
            compare(made, house, name, trap, tenants[BIG], bare)
        for name, trap in SMALL_TRAPS.items():
            compare(made, house, f"{name}, a small tenant", trap, tenants[SMALL], bare)
    worst = max(ratio.median for ratio in made.ratios if ratio.goal is not None)
    made.count("worst ratio", round(worst, 3), GOAL)


if __name__ == "__main__":
    with report("traps", Binaries.find().text) as result, bench_house(template=HERE / "traps") as made_house:
        measure(result, made_house)
