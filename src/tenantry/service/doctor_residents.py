"""What the doctor looks at in the databases of a shard: whether the catalog knows those who live there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tenantry.errors import TenantryError
from tenantry.model import KeyType, Shard, encode_key, parse_key
from tenantry.service.check import Check, counted, failed, ok
from tenantry.service.control import Control

_SHOWN = 10
_STATES = {"active": "open", "suspended": "suspended", "deleting": "suspended"}
_RESIDENTS = "SELECT code, tenant::text AS key, epoch, state, schema, plan FROM tenantry.residents ORDER BY code"

Row = Mapping[str, Any]


@dataclass
class Differences:
    """What the catalog and the databases do not agree on, in words; ``lines`` names them one by one."""

    unknown: int = 0
    missing: int = 0
    epochs: int = 0
    states: int = 0
    lines: list[str] = field(default_factory=list)

    def words(self) -> str:
        """The numbers that are not zero."""
        found = (
            (self.unknown, "unknown to the catalog"),
            (self.missing, "missing"),
            (self.epochs, "at another epoch"),
            (self.states, "in another state"),
        )
        return ", ".join(f"{n:,} {'is' if n == 1 else 'are'} {what}" for n, what in found if n)


async def check_residents(control: Control, shard: Shard, name: str) -> Iterable[Check]:
    """Compare the residents of all databases of a shard with the catalog."""
    expected: dict[str, dict[str, Row]] = defaultdict(dict)
    key_type = (await control.estate.house()).key_type
    for row in await control.store.fetch("shard_tenants", {"shard": shard.name}):
        expected[row["database"]][_code(row["key"], key_type)] = row
    databases = {row["database"] for row in await control.store.fetch("databases") if row["shard"] == shard.name}
    found, total, unseen = Differences(), 0, 0
    homes = {code: database for database, codes in expected.items() for code in codes}
    for database in sorted(databases):
        try:
            async with control.estate.root(shard.name, database) as conn:
                rows = await (await conn.execute(_RESIDENTS)).fetchall()
        except (TenantryError, psycopg.Error):  # the look at its perimeter says why
            unseen += 1
            continue
        there = [dict(zip(("code", "key", "epoch", "state", "schema", "plan"), row, strict=True)) for row in rows]
        # A shard's pooled database knows who lives in the others.
        there = [row for row in there if row["state"] != "moved" or homes.get(row["code"]) != row["schema"]]
        total += len(there)
        compare(database, expected[database], there, found)
    if not found.lines:
        but = f"; {counted(unseen, 'database')} could not be looked at" if unseen else ""
        return [ok(name, f"{total:,}, as the catalog has them{but}")]
    lines = found.lines[:_SHOWN] + ([f"and {len(found.lines) - _SHOWN:,} more"] if len(found.lines) > _SHOWN else [])
    step = "was the catalog restored from an older copy? docs/explanation/faults.md says what to do"
    return [failed(name, found.words(), step, "\n".join(lines))]


def compare(database: str, expected: Mapping[str, Row], there: Sequence[Row], found: Differences) -> None:
    """Note what the catalog expects in a database and what is there. Tenants with an open operation are let be."""
    for row in there:
        where = f"resident {row['code']} (key {row['key']}) of {database}/{row['schema']}"
        known = expected.get(row["code"])
        if known is None:
            found.unknown += 1
            found.lines.append(f"{where}: unknown; {row['state']}, epoch {row['epoch']}, plan {row['plan']}")
        elif known["busy"]:
            continue
        elif known["epoch"] != row["epoch"]:
            found.epochs += 1
            found.lines.append(f"{where}: epoch {row['epoch']}, in the catalog {known['epoch']}")
        elif _STATES.get(known["state"]) != row["state"]:
            found.states += 1
            found.lines.append(f"{where}: {row['state']}, in the catalog {known['state']}")
    codes = {row["code"] for row in there}
    for code, known in expected.items():
        if code not in codes and not known["busy"]:
            found.missing += 1
            found.lines.append(f"tenant {known['slug']}: no resident of {database}")


def _code(key: str, key_type: KeyType) -> str:
    return encode_key(parse_key(key, key_type))
