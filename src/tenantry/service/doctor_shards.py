"""What the doctor looks at on one shard: the server, the application's login, the wall of every database."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection

from tenantry.model import BindingMode, Shard
from tenantry.perimeter.apply import PerimeterPlan, plan_perimeter
from tenantry.postgres import sqlfile
from tenantry.postgres.connect import connect, shown_dsn
from tenantry.postgres.versions import minor_warning, shown_version
from tenantry.service.check import Check, attempt, counted, failed, failure, ok, skipped, warning
from tenantry.service.control import Control
from tenantry.service.doctor_replicas import check_replicas
from tenantry.service.doctor_residents import check_residents
from tenantry.service.shard import can_seal
from tenantry.settings import Settings

_SQL = sqlfile.load("tenantry.service", "doctor.sql")

_SCHEMAS = 200
_SHOWN = 10
_WARN_SKEW = 0.25
"""A clock may be wrong by this part of a token's life before it is worth a warning."""

Conn = AsyncConnection[Any]


async def check_shard(control: Control, shard: Shard) -> list[Check]:
    """Everything about one shard."""
    name = f"shard {shard.name}"
    try:
        async with control.estate.root(shard.name) as conn:
            found = [await _reachable(conn, name), *check_version(f"{name} version", conn.info.server_version)]
            found += await attempt(f"{name} binding", _binding(conn, f"{name} binding", shard.binding))
            found += await attempt(f"{name} settings", _settings(conn, f"{name} settings", control.settings))
            found += await attempt(f"{name} clock", _clock(conn, f"{name} clock", control.settings.token_seconds))
    except Exception as error:
        parts = ("version", "binding", "settings", "clock", "replicas", "login", "residents", "perimeter")
        return [failure(name, error), *skipped("the shard could not be looked at", *(f"{name} {p}" for p in parts))]
    found += await attempt(f"{name} login", _login(control, shard, f"{name} login"))
    found += await attempt(f"{name} replicas", check_replicas(control, shard))
    found += await attempt(f"{name} residents", check_residents(control, shard, f"{name} residents"))
    return found + await attempt(f"{name} perimeter", _perimeters(control, shard))


async def _reachable(conn: Conn, name: str) -> Check:
    return ok(name, f"PostgreSQL {shown_version(conn.info.server_version)} at {shown_dsn(conn.info.dsn)}")


def check_version(name: str, number: int) -> list[Check]:
    """Whether a server's minor version has known holes."""
    text = minor_warning(number)
    if text is None:
        return [ok(name, f"{shown_version(number)} has no known holes")]
    what, _, fix = text.partition(": ")
    return [warning(name, what, fix)]


async def _binding(conn: Conn, name: str, mode: BindingMode) -> Iterable[Check]:
    if mode is BindingMode.SEALED:
        return [ok(name, "sealed: only the binder can bind a transaction, and it verifies once")]
    if await can_seal(conn):
        what = "signed, although this server would allow sealed: each statement verifies the token again"
        return [warning(name, what, "new tenants are better off on a shard that is added with --binding sealed")]
    return [ok(name, "signed: each statement verifies the token; this login can't make the grant that sealed needs")]


async def _settings(conn: Conn, name: str, settings: Settings) -> Iterable[Check]:
    rows = await (await conn.execute(_SQL["settings"])).fetchall()
    found = list(judge_settings(name, dict(rows), settings))
    return found or [ok(name, "fit for tenants")]


def judge_settings(name: str, server: Mapping[str, str], settings: Settings) -> Iterable[Check]:
    """What a server's settings mean for tenants."""
    if server["max_prepared_transactions"] != "0":
        what = "max_prepared_transactions > 0: SQL of a tenant can leave transactions behind that hold their locks"
        yield warning(name, what, "set max_prepared_transactions = 0 and restart the server")
    for each in ("log_parameter_max_length", "log_parameter_max_length_on_error"):
        if server[each] != "0":
            yield warning(name, f"{each} is not 0: tokens can get into the server's log", f"set {each} = 0 and reload")
    if server["wal_level"] != "logical":
        what = f"wal_level is {server['wal_level']}: tenants can't be moved away or backed up while they work"
        yield warning(name, what, "set wal_level = logical and restart the server")
    free = int(server["max_connections"]) - int(server["superuser_reserved_connections"])
    if settings.pool_budget > free:
        what = f"one process may open {settings.pool_budget} connections, the server allows {free}"
        yield warning(name, what, "raise max_connections, or lower the setting pool_budget")


async def _clock(conn: Conn, name: str, token_seconds: int) -> Iterable[Check]:
    before = time.time()
    row = await (await conn.execute(_SQL["clock"])).fetchone()
    after = time.time()
    assert row is not None
    return [judge_clock(name, row[0] - (before + after) / 2, token_seconds)]


def judge_clock(name: str, ahead: float, token_seconds: int) -> Check:
    """What it means that a server's clock is ahead of this machine's by so many seconds."""
    what = f"{abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} this machine"
    step = "let both machines take their time from the network (NTP)"
    if ahead >= token_seconds:
        return failed(name, f"{what}: every token has expired before it arrives", step)
    if abs(ahead) >= token_seconds * _WARN_SKEW:
        return warning(name, f"{what}; tokens live for {token_seconds} s", step)
    return ok(name, what)


async def _login(control: Control, shard: Shard, name: str) -> Iterable[Check]:
    """The application's role, as an application uses it."""
    space = (await control.store.fetch("pooled_space", (shard.name,)))[0]
    dsn = await control.estate.application_dsn(shard.name, space["database"])
    conn = await connect(dsn, seconds=control.settings.connect_seconds)
    try:
        row = await (await conn.execute(_SQL["login"])).fetchone()
        announced = conn.info.backend_pid
    finally:
        await conn.close()
    assert row is not None
    role, superuser, bypassrls, pid, standby = row
    if superuser or bypassrls:
        what = f"{role} {'is a superuser' if superuser else 'bypasses row security'}: there is no wall for it"
        return [failed(name, what, "close it now: 'tenantry perimeter apply'")]
    if standby:
        what = f"applications reach a standby at {shard.dsn}: it takes no writes"
        return [failed(name, what, "add target_session_attrs=read-write to the address, or name the primary")]
    # A pooler answers with a process id that it has made up.
    return judge_pooler(name, role, between=pid != announced, expected=control.settings.pooler)


def judge_pooler(name: str, role: str, *, between: bool, expected: bool) -> list[Check]:
    """Whether applications know that a pooler stands before their shard."""
    if between and not expected:
        what = f"{role} logs in through a pooler, and the setting 'pooler' is off: each binding would be refused"
        return [warning(name, what, "set pooler = true for all applications, as docs/howto/pgbouncer.md says")]
    way = "logs in through a pooler" if between else "logs in"
    return [ok(name, f"{role} {way}, and may do no more than it must")]


async def _perimeters(control: Control, shard: Shard) -> list[Check]:
    databases: dict[str, list[str]] = {}
    for row in await control.store.fetch("spaces"):
        if row["shard"] == shard.name and row["state"] != "template":
            databases.setdefault(row["database"], []).append(row["schema"])
    found: list[Check] = []
    for database, schemas in databases.items():
        name = f"perimeter {shard.name}/{database}"
        found += await attempt(name, _database(control, shard, database, schemas, name))
    if not found:
        total = sum(map(len, databases.values()))
        return [
            ok(
                f"shard {shard.name} perimeter",
                f"closed: {counted(len(databases), 'database')}, {counted(total, 'schema')}",
            )
        ]
    return found


async def _database(
    control: Control, shard: Shard, database: str, schemas: Sequence[str], name: str
) -> Iterable[Check]:
    """What is wrong with one database: nothing, most of the time."""
    house = await control.estate.house()
    found: list[Check] = []
    async with control.estate.root(shard.name, database) as conn:
        for start in range(0, len(schemas), _SCHEMAS):
            some = schemas[start : start + _SCHEMAS]
            plan = await plan_perimeter(conn, house, shard.binding, some, control.estate.shared, server=start == 0)
            if not plan.closed:
                found.append(_open(name, shard.name, plan))
        keys = {kid for (kid,) in await (await conn.execute(_SQL["keys"])).fetchall()}
    for row in await control.store.fetch("keys"):
        if row["state"] == "active" and row["kid"] not in keys:
            what = f"the database does not know the active signing key {row['kid']}: it refuses every transaction"
            fix = f"tenantry perimeter apply --shard {shard.name} --database {database}"
            found.append(failed(name, what, f"tell it with '{fix}'"))
    return found


def _open(name: str, shard: str, plan: PerimeterPlan) -> Check:
    lines = [f"{change.object}: {change.why}" for change in plan.changes]
    lines += [f"{finding.object}: {finding.what}" for finding in plan.findings]
    where = "\n".join(lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []))
    options = f"--shard {shard} --database {plan.database}"
    if not plan.changes and all(finding.severity != "high" for finding in plan.findings):
        return warning(name, counted(len(lines), "finding"), f"see 'tenantry perimeter check {options}'", where)
    step = f"'tenantry perimeter apply {options}'" if plan.changes else f"'tenantry perimeter check {options}' says how"
    return failed(name, f"the wall is open in {counted(len(lines), 'place')}", f"close it: {step}", where)
