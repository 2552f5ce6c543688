"""Many schemas alike: what was done to close the wall around the first one is done for the others in one go.

Each batch is three transactions: the schemas, the application's tables, the wall around them. In the end all are
compared with the wall that they should have, as any others. Whatever goes wrong in a batch, its schemas are built one
by one, which may run again and says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tenantry.errors import TenantryError
from tenantry.perimeter.apply import apply_perimeter
from tenantry.perimeter.binder import ADMIN
from tenantry.perimeter.plan import Change
from tenantry.placements.estate import Conn, Estate
from tenantry.placements.pooled import create_schema
from tenantry.placements.space import Space
from tenantry.placements.template import apply_new
from tenantry.postgres.connect import merge_dsn

log = logging.getLogger("tenantry.placements")

_AT_ONCE = 2
_MOST = 25
_LOCKS = 500  # a transaction holds a lock for each relation
_LOOKED_AT = 200
_FACTS = 2000


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What was done for one schema: before the application's tables, and after. ``name`` stands for the others'."""

    name: str
    before: Sequence[str]
    after: Sequence[str]
    relations: int

    @classmethod
    def of(cls, name: str, before: Iterable[Change], after: Iterable[Change], relations: int) -> _Recipe:
        """Only what is about the schema itself."""
        first, last = ([change.sql for change in changes if name in change.sql] for changes in (before, after))
        return cls(name, first, last, relations)

    def written(self, parts: Sequence[str], schemas: Sequence[str]) -> str:
        """As one text for other schemas."""
        return "\n".join(part.rstrip(";").replace(self.name, schema) + ";" for schema in schemas for part in parts)


async def build_one(estate: Estate, space: Space) -> _Recipe:
    """Make a schema, the application's tables in it, and the wall. May run again."""
    async with estate.root(space.shard, space.database) as conn:
        await create_schema(conn, space.schema)
    before = await estate.wall(space.shard, space.database, [space.schema])
    after = await estate.bring_up(space)
    async with estate.root(space.shard, space.database) as conn:
        query = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s))"
        relations = (await (await conn.execute(query, (space.schema,))).fetchall())[0][0]
    return _Recipe.of(space.schema, before.changes, after.changes, max(1, relations))


async def build_many(estate: Estate, spaces: Iterable[Space]) -> None:
    """Make many schemas. May run again.

    Raises:
        As :func:`build_one`.
    """
    groups: dict[tuple[str, str], list[Space]] = defaultdict(list)
    for space in spaces:
        groups[space.shard, space.database].append(space)
    for first, *others in groups.values():
        version = estate.template.version()  # it may change while they are made: an old one noted does no harm
        recipe = await build_one(estate, first)
        made: list[Space] = []
        batches = deque(_chunks(others, min(_MOST, _LOCKS // recipe.relations)))
        works = (_work(estate, batches, recipe, made) for _ in range(_AT_ONCE))
        for end in await asyncio.gather(*works, return_exceptions=True):
            if end is not None:
                raise end
        for some in _chunks(made, min(_LOOKED_AT, _FACTS // recipe.relations)):
            await _note(estate, some, version)


def _chunks(spaces: Sequence[Space], size: int) -> list[Sequence[Space]]:
    size = max(1, size)
    return [spaces[start : start + size] for start in range(0, len(spaces), size)]


async def _work(estate: Estate, batches: deque[Sequence[Space]], recipe: _Recipe, made: list[Space]) -> None:
    try:
        while batches:
            spaces = batches.popleft()
            try:
                await _build_alike(estate, spaces, recipe)
                made += spaces
            except (TenantryError, psycopg.Error) as error:
                log.info("%s: %s; its neighbours are built one by one", spaces[0].name, error)
                for space in spaces:
                    await build_one(estate, space)
    except BaseException:
        batches.clear()
        raise


async def _build_alike(estate: Estate, spaces: Sequence[Space], recipe: _Recipe) -> None:
    shard, database, schemas = spaces[0].shard, spaces[0].database, [space.schema for space in spaces]
    made = [sql.SQL("CREATE SCHEMA {};\n").format(sql.Identifier(name)).as_string(None) for name in schemas]
    await estate.refuse_to_forget_tables()
    dsn = merge_dsn(await estate.login_dsn(shard, ADMIN, database), application_name=estate.name)
    async with estate.root(shard, database) as conn:
        await _run(conn, "".join(made) + recipe.written(recipe.before, schemas))
        await apply_new(estate.template, dsn, schemas)
        await _run(conn, recipe.written(recipe.after, schemas))


async def _note(estate: Estate, spaces: Sequence[Space], version: str) -> None:
    """They have the template's version, and the wall around them is closed: what is missing from it is closed now."""
    shard, database = spaces[0].shard, spaces[0].database
    house, mode = await estate.house(), (await estate.shard(shard)).binding
    async with estate.root(shard, database) as conn:
        await apply_perimeter(conn, house, mode, [space.schema for space in spaces], estate.shared, server=False)
    await estate.store.fetch("space_template", (version, [space.id for space in spaces]))


async def _run(conn: Conn, text: str) -> None:
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        await conn.execute(text.encode())
