"""Homes in reserve: a process takes some into its hands before it needs them, so that a tenant is one statement.

Taking one in means two durable writes: the catalog notes whose hands it is in and until when, and then the database
lets its key in, though there is no tenant of that key yet and so nobody who could enter. Giving it to a tenant is a
write of the catalog alone. What a process holds when it dies is cleared away by a worker when the time is over.

The database is told first. So a catalog that was restored from an older copy finds out about those whom it has
forgotten before it gives their homes away, and each key in this process's hands is given once, whatever the catalog
says later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tenantry.catalog.store import Conn, fetch
from tenantry.errors import TenantryError
from tenantry.model import Isolation, KeyType, Placement, TenantKey, encode_key, parse_key
from tenantry.placements.estate import Estate
from tenantry.placements.residents import ask, register
from tenantry.placements.space import Space

log = logging.getLogger("tenantry.placements")

LEASE_SECONDS = 300.0
"""How long homes are in a process's hands."""

_SPARE_SECONDS = 30.0  # the clocks of servers differ
_MOST = 128
_CALM_SECONDS = 10.0
_DRAWS = 10
_EPOCH = 1
_CODE_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What kind of home is wanted. ``shard``: None: any that is not dedicated."""

    isolation: Isolation
    plan: str
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """A home in this process's hands: the key of the tenant that will live there, and its placement."""

    key: TenantKey
    placement: Placement
    version: str | None
    until: float

    @property
    def code(self) -> str:
        """The key in the alphabet of tokens."""
        return encode_key(self.key)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was taken into reserve, and how many could not be, because somebody lives there."""

    homes: Sequence[Reserved] = ()
    refused: int = 0


@dataclass
class _Shelf:
    """The homes of one kind. The more of them were wanted lately, the more are taken at once."""

    homes: deque[Reserved] = field(default_factory=deque)
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)
    size: int = 0
    drawn_at: float = 0.0

    def next_size(self, now: float) -> int:
        self.size = 1 if now - self.drawn_at > _CALM_SECONDS else min(self.size * 2, _MOST)
        self.drawn_at = now
        return self.size


class Reserve:
    """The homes in this process's hands."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._shelves: dict[Wish, _Shelf] = defaultdict(_Shelf)
        self._levels: dict[str, Isolation] = {}

    @property
    def holder(self) -> str:
        """How this process calls itself to the catalog."""
        return self._estate.name

    async def level(self, plan: str) -> Isolation | None:
        """The isolation of a plan, as it was when it was last read: giving checks it. None: there is no such plan."""
        if plan not in self._levels:
            rows = await self._estate.store.fetch("plan_levels")
            self._levels = {row["name"]: Isolation(row["isolation"]) for row in rows}
        return self._levels.get(plan)

    async def take(self, wish: Wish) -> Reserved | None:
        """A home of this kind; None: none is ready.

        Raises:
            ServerUnreachable: the catalog does not answer.
        """
        shelf = self._shelves[wish]
        if home := _fresh(shelf):
            return home
        async with shelf.drawing:
            for _ in range(_DRAWS):
                if home := _fresh(shelf):  # somebody else may have drawn meanwhile
                    return home
                drawn = await self.draw(wish, shelf.next_size(time.monotonic()))
                shelf.homes += drawn.homes
                if not drawn.refused or wish.isolation is not Isolation.POOLED:
                    break  # the same would be refused again
        return _fresh(shelf)

    def put_back(self, wish: Wish, homes: Iterable[Reserved]) -> None:
        """Keep homes that were not given away after all."""
        self._shelves[wish].homes.extendleft(homes)

    async def forget(self, wish: Wish) -> None:
        """The catalog does not know homes of this kind as ours any more, or plans have changed: let all of them go."""
        self._levels = {}
        homes = list(self._shelves[wish].homes)
        self._shelves[wish].homes.clear()
        await self.let_go(homes)

    async def draw(self, wish: Wish, count: int) -> Drawn:
        """Take homes out of the warm pool, or room in shared tables, into our hands: at most so many.

        Raises:
            ServerUnreachable: the catalog does not answer.
        """
        if (await self._estate.house()).key_type is KeyType.TEXT:
            return Drawn()  # the key is the slug, and nobody knows that yet
        version = None if wish.isolation is Isolation.POOLED else self._estate.template.version()
        now = time.monotonic()
        async with self._estate.store.transaction() as conn:
            rows = await _hold(conn, wish, await self._parameters(wish, count, version))
            found = [
                Space.of(row) for row in await fetch(conn, "spaces_by_id", (list({row["space"] for row in rows}),))
            ]
        if not rows:
            return Drawn()
        homes = await self._homes(rows, found, version, now + LEASE_SECONDS - _SPARE_SECONDS)
        try:
            return await self._let_in(wish, homes, rows)
        except (TenantryError, psycopg.Error) as error:
            log.warning("homes on %s can't be taken into reserve: %s", sorted({s.shard for s in found}), error)
            return Drawn()  # whether they were let in is not known: a worker clears them away

    async def _parameters(self, wish: Wish, count: int, version: str | None) -> dict[str, Any]:
        return {
            "plan": wish.plan,
            "shard": wish.shard,
            "count": count,
            "version": version,
            "kind": (await self._estate.house()).key_type,
            "me": self.holder,
            "lease": LEASE_SECONDS,
        }

    async def _homes(
        self, rows: Sequence[Mapping[str, Any]], spaces: Sequence[Space], version: str | None, until: float
    ) -> list[Reserved]:
        key_type = (await self._estate.house()).key_type
        places = {
            space.id: Placement(space.shard, space.database, space.schema, space.isolation, _EPOCH) for space in spaces
        }
        homes = [Reserved(parse_key(row["key"], key_type), places[row["space"]], version, until) for row in rows]
        return sorted(homes, key=lambda home: home.code.rjust(_CODE_LENGTH))

    async def _let_in(self, wish: Wish, homes: Sequence[Reserved], rows: Sequence[Mapping[str, Any]]) -> Drawn:
        others = {row["key"] for row in rows if row["plan"] != wish.plan}
        await self._change_plans(wish.plan, [home for home in homes if str(home.key) in others])
        state = "moved" if wish.isolation is Isolation.DATABASE else "open"
        query = "reserve" if wish.isolation is Isolation.POOLED else "reserve_own"
        until = min(row["until"] for row in rows)
        let_in: set[str] = set()
        for shard, group in _by_shard(homes).items():
            values = {"plan": wish.plan, "until": until, "state": state, **_columns(group)}
            place = await register(self._estate, shard)
            let_in |= {code for (code,) in await ask(self._estate, place, query, values, plans=True)}
        if refused := [home for home in homes if home.code not in let_in]:
            what = "somebody lives there whom the catalog does not know, or the clocks are wrong: see 'tenantry doctor'"
            log.error("not taken into reserve, %s: %s", what, ", ".join(home.code for home in refused))
            await self._let_go(refused)
        return Drawn([home for home in homes if home.code in let_in], len(refused))

    async def _change_plans(self, plan: str, homes: Sequence[Reserved]) -> None:
        """Databases were made with a resident, and that has a plan."""
        for home in homes:
            place = (home.placement.shard, home.placement.database)
            await ask(self._estate, place, "change_plan", {"plan": plan, "code": home.code}, plans=True)
        if homes:
            keys = [str(home.key) for home in homes]
            await self._estate.store.fetch("reserve_plan", (plan, keys, self.holder))

    async def let_go(self, homes: Sequence[Reserved]) -> None:
        """Give homes back: the databases forget them first, then others may have them. If that fails, a worker clears
        them away later."""
        try:
            for shard, group in _by_shard(homes).items():
                codes = {"codes": [home.code for home in group]}
                await ask(self._estate, await register(self._estate, shard), "dismiss", codes)
            await self._let_go(homes)
        except (TenantryError, psycopg.Error) as error:
            log.warning("homes in reserve are left to a worker: %s", error)

    async def _let_go(self, homes: Sequence[Reserved]) -> None:
        if homes:
            parameters = {"keys": [str(home.key) for home in homes], "me": self.holder}
            await self._estate.store.fetch("let_go", parameters)

    async def close(self) -> None:
        """Let go of everything."""
        homes = [home for shelf in self._shelves.values() for home in shelf.homes]
        self._shelves.clear()
        await self.let_go(homes)


def _fresh(shelf: _Shelf) -> Reserved | None:
    """What has been on the shelf for too long is a worker's to clear away."""
    while shelf.homes:
        home = shelf.homes.popleft()
        if home.until > time.monotonic():
            return home
    return None


async def _hold(conn: Conn, wish: Wish, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    if wish.isolation is Isolation.SCHEMA:
        return await fetch(conn, "hold_schemas", parameters)
    if wish.isolation is Isolation.DATABASE:
        return await fetch(conn, "hold_databases", parameters)
    found = [row["id"] for row in await fetch(conn, "open_pooled", {"shard": wish.shard})]
    if len(found) > 1:  # counting is slow where there are many tenants
        found = [row["id"] for row in await fetch(conn, "emptiest_pooled", (found,))]
    return await fetch(conn, "hold_pooled", {**parameters, "space": found[0]}) if found else []


def _by_shard(homes: Iterable[Reserved]) -> dict[str, list[Reserved]]:
    groups: dict[str, list[Reserved]] = defaultdict(list)
    for home in homes:
        groups[home.placement.shard].append(home)
    return groups


def _columns(homes: Sequence[Reserved]) -> dict[str, list[Any]]:
    own = [home.placement.isolation is Isolation.DATABASE for home in homes]
    schemas = [
        home.placement.database if is_own else home.placement.schema for home, is_own in zip(homes, own, strict=True)
    ]
    return {"codes": [home.code for home in homes], "keys": [home.key for home in homes], "schemas": schemas}
