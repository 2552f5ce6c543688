"""The doctor: looks at everything, changes nothing, and says what to do about what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

from tenantry.catalog import rows
from tenantry.errors import TenantryError
from tenantry.model import Shard
from tenantry.placements.space import Space
from tenantry.postgres import migrate, sqlfile
from tenantry.postgres.connect import connect, shown_dsn
from tenantry.postgres.versions import shown_version
from tenantry.service.check import Check, Status, attempt, counted, failed, failure, ok, skipped, warning
from tenantry.service.control import Control
from tenantry.service.doctor_shards import check_shard, check_version
from tenantry.service.house import behind, missing_homes
from tenantry.settings import Settings, load

__all__ = ["Check", "Status", "examine", "examine_shard"]

_SQL = sqlfile.load("tenantry.service", "doctor.sql")

_AT_ONCE = 4
_EXPIRY_WARNING = timedelta(days=14)
_OVERDUE = timedelta(minutes=5)
_SHOWN = 10

_OF_THE_CATALOG = (
    "catalog version",
    "catalog log",
    "catalog migrations",
    "signing key",
    "operations",
    "warm pools",
    "template",
)


async def examine(settings: Settings | None = None) -> list[Check]:
    """Look at everything that this process can reach.

    Args:
        settings: None: ``tenantry.toml`` and the environment.

    Returns:
        All checks, in the order in which one stands on another; what could not be looked at is there as skipped.
    """
    try:
        settings = settings or load()
    except TenantryError as error:
        rest = skipped("the settings can't be read", "catalog login", "catalog", *_OF_THE_CATALOG, "shards")
        return [failure("settings", error), *rest]
    found = [ok("settings", f"the catalog is {shown_dsn(settings.catalog_dsn)}")]
    found += await attempt("catalog login", _library(settings))
    if settings.control is None:
        because = "this process has no setting 'control': run the doctor where operators work"
        return found + skipped(because, "catalog", *_OF_THE_CATALOG, "shards")
    async with AsyncExitStack() as stack:
        try:
            control = await stack.enter_async_context(Control(settings))
        except TenantryError as error:
            because = "the catalog can't be reached"
            return [*found, failure("catalog", error), *skipped(because, *_OF_THE_CATALOG, "shards")]
        return found + await _operators(control)


async def examine_shard(control: Control, name: str) -> list[Check]:
    """Look at one shard.

    Raises:
        ShardNotFound: there is none of this name.
    """
    return await check_shard(control, await control.store.shard(name))


async def _library(settings: Settings) -> Iterable[Check]:
    """The login that applications have to the catalog."""
    name = "catalog login"
    conn = await connect(settings.catalog_dsn, seconds=settings.connect_seconds)
    try:
        row = await (await conn.execute(_SQL["login"])).fetchone()
        writable = await (await conn.execute(_SQL["writable"])).fetchall()
    finally:
        await conn.close()
    assert row is not None
    if row[1] or writable:
        what = f"the setting 'catalog' logs in as {row[0]}, who may change the catalog"
        return [warning(name, what, "give applications the DSN of tenantry_reader that 'tenantry init' wrote")]
    return [ok(name, f"{row[0]} reads, and may not write")]


async def _operators(control: Control) -> list[Check]:
    found = await attempt("catalog", _catalog(control))
    if any(check.status is Status.FAILED for check in found):
        rest = _OF_THE_CATALOG[3:]
        return found + skipped("the catalog is not up to date", *rest, "shards")
    for name, look in (
        ("signing key", _signing_key),
        ("operations", _operations),
        ("warm pools", _warm_pools),
        ("template", _template),
    ):
        found += await attempt(name, look(control, name))
    return found + await attempt("shards", _shards(control))


async def _catalog(control: Control) -> Iterable[Check]:
    async with control.store.connection() as conn:
        number = conn.info.server_version
        there = await (await conn.execute("SELECT to_regclass('tenantry_catalog.tenantry_migrations') AS t")).fetchone()
        assert there is not None
        applied = await (await conn.execute(_SQL["migrations"])).fetchall() if there["t"] else []
        logged = (await (await conn.execute(_SQL["logged"])).fetchall())[0]["logged"]
    where = shown_dsn(control.store.dsn)
    found = [ok("catalog", f"PostgreSQL {shown_version(number)} at {where}"), *check_version("catalog version", number)]
    return [*found, judge_logging("catalog log", logged), judge_migrations("catalog migrations", applied)]


def judge_logging(name: str, logged: bool) -> Check:
    """What it means that this login can't keep what it writes out of the server's log."""
    if not logged:
        return ok(name, "what operators write is not logged by its value")
    what = "the server may log the parameters of statements, and this login can't change that: keys and passwords"
    return warning(name, what, "set log_parameter_max_length = 0 there, or GRANT SET ON PARAMETER to this login")


def judge_migrations(name: str, applied: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the catalog's tables are those of this version."""
    known = {each.number: each for each in migrate.read(files("tenantry.catalog").joinpath("migrations"))}
    foreign = [row["number"] for row in applied if row["number"] not in known]
    if foreign:
        what = f"the catalog is at migration {max(foreign)}, this version knows {max(known)}"
        return failed(name, what, "run the version that migrated it, or a later one")
    changed = [row["number"] for row in applied if known[row["number"]].checksum != row["checksum"]]
    if changed:
        what = f"migration {changed[0]:04} differs from the one that was applied"
        return failed(name, what, "run the version that migrated it; a released migration is never changed")
    missing = [each for number, each in known.items() if number not in {row["number"] for row in applied}]
    if missing:
        what = "there is no catalog" if not applied else f"{len(missing)} are missing, from {missing[0].number:04} on"
        return failed(name, what, "run 'tenantry init': it makes the catalog, or brings it up to date")
    return ok(name, f"all {len(known)} are applied")


async def _signing_key(control: Control, name: str) -> Iterable[Check]:
    now = (await control.store.fetch("now"))[0]["now"]
    active = [row for row in await control.store.fetch("keys") if row["state"] == "active"]
    if not active:
        return [failed(name, "there is no active key: nobody can sign a token", "make one: 'tenantry key rotate'")]
    return [judge_key(name, active[0], now)]


def judge_key(name: str, key: Mapping[str, Any], now: datetime) -> Check:
    """Whether the active key will do for a while."""
    left: timedelta = key["not_after"] - now
    age = (now - key["created_at"]).days
    step = "run 'tenantry key rotate'; no request fails meanwhile"
    if left <= timedelta(0):
        return failed(name, f"{key['kid']} has expired: no database accepts its tokens", step)
    what = f"{key['kid']} is {age} days old and expires in {left.days} days"
    return warning(name, what, step) if left < _EXPIRY_WARNING else ok(name, what)


async def _operations(control: Control, name: str) -> Iterable[Check]:
    now = (await control.store.fetch("now"))[0]["now"]
    unfinished = await control.engine.unfinished()
    stalled = [row for row in unfinished if row["stalled"]]
    failing = [row for row in unfinished if not row["stalled"] and row["error"]]
    overdue = [row for row in unfinished if row["resume_at"] and row["resume_at"] + _OVERDUE < now]
    found = []
    if stalled:
        what = f"{len(stalled)} have lost their worker"
        found.append(failed(name, what, "finish or undo them: 'tenantry worker --once'", _listed(stalled)))
    if failing:
        what = f"{len(failing)} have failed and are tried again"
        found.append(warning(name, what, "mend what their errors name; a worker goes on with them", _listed(failing)))
    if overdue:
        what = f"{len(overdue)} wait longer than they should: no worker runs"
        found.append(warning(name, what, "keep 'tenantry worker' running as a service", _listed(overdue)))
    return found or [ok(name, f"{len(unfinished)} open, none of them stalled")]


def _listed(operations: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in operations[:_SHOWN]:
        error = f": {row['error'].get('message')}" if row["error"] else ""
        lines.append(f"operation {row['id']} ({row['kind']}, step {row['step'] or 'none'}){error}")
    return "\n".join(lines + ([f"and {len(operations) - _SHOWN:,} more"] if len(operations) > _SHOWN else []))


async def _warm_pools(control: Control, name: str) -> Iterable[Check]:
    found = []
    missing = {place: count for place, count in (await missing_homes(control)).items() if count}
    if missing:
        what = ", ".join(f"{count} of {level} on {shard}" for (shard, level), count in missing.items())
        found.append(warning(name, f"missing: {what}", "run 'tenantry refill', or keep 'tenantry worker' running"))
    if overdue := (await control.store.fetch("overdue", (_OVERDUE,)))[0]["overdue"]:
        what = f"{counted(overdue, 'home')} still in reserve for processes that have gone: no worker runs"
        found.append(warning(name, what, "keep 'tenantry worker' running as a service"))
    return found or [ok(name, "full")]


async def _template(control: Control, name: str) -> Iterable[Check]:
    if control.settings.template is None:
        return skipped("this process has no setting 'template'", name)
    spaces = await behind(control)
    version, total = control.estate.template.version(), len(await control.store.fetch("spaces"))
    if spaces:
        what = f"{len(spaces):,} of {total:,} spaces are not at version {version}"
        return [warning(name, what, "run 'tenantry migrate'", _places(spaces))]
    return [ok(name, f"all {total:,} spaces are at version {version}")]


def _places(spaces: Sequence[Space]) -> str:
    lines = [f"{space.shard}/{space.database}/{space.schema}: {space.template}" for space in spaces[:_SHOWN]]
    return "\n".join(lines + ([f"and {len(spaces) - _SHOWN:,} more"] if len(spaces) > _SHOWN else []))


async def _shards(control: Control) -> Iterable[Check]:
    shards = [rows.shard(row) for row in await control.store.fetch("shards")]
    if not shards:
        return [warning("shards", "there is none: tenants have nowhere to live", "tenantry shard add NAME DSN")]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def look(shard: Shard) -> list[Check]:
        async with gate:
            return await check_shard(control, shard)

    return [check for found in await asyncio.gather(*map(look, shards)) for check in found]
