"""Rows of the catalog as the vocabulary's frozen data. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from tenantry.errors import ServerUnsuitable
from tenantry.model import (
    BindingMode,
    House,
    Isolation,
    KeyType,
    Placement,
    Plan,
    Replica,
    Shard,
    ShardState,
    Tenant,
    TenantState,
    parse_key,
    shown,
)

Word = TypeVar("Word", bound=StrEnum)


def house(row: Mapping[str, Any]) -> House:
    """The one row of ``house``."""
    return House(_word(KeyType, row, "key_type"), row["tenant_column"], row["app_schema"])


def plan(row: Mapping[str, Any]) -> Plan:
    """A row of ``plans``."""
    return Plan(
        name=row["name"],
        isolation=_word(Isolation, row, "isolation"),
        weight=row["weight"],
        limits=MappingProxyType(row["limits"]),
        features=MappingProxyType(row["features"]),
        warm=row["warm"],
        grace=row["grace"],
        replica_seconds=row["replica_seconds"],
    )


def shard(row: Mapping[str, Any]) -> Shard:
    """A row of ``shards``."""
    return Shard(
        name=row["name"],
        dsn=row["dsn"],
        state=_word(ShardState, row, "state"),
        binding=_word(BindingMode, row, "binding"),
        dedicated=row["dedicated"],
        created_at=row["created_at"],
    )


def replica(row: Mapping[str, Any]) -> Replica:
    """A row of ``replicas``."""
    return Replica(row["shard"], row["name"], row["dsn"], row["created_at"])


def tenant(row: Mapping[str, Any], key_type: KeyType) -> Tenant:
    """A row of ``library_tenants``."""
    return Tenant(
        id=row["id"],
        key=parse_key(row["key"], key_type),
        slug=row["slug"],
        name=row["name"],
        plan=row["plan"],
        state=_word(TenantState, row, "state"),
        placement=placement(row),
        created_at=row["created_at"],
    )


def placement(row: Mapping[str, Any]) -> Placement | None:
    """The placement in a row of ``library_tenants``; None while the tenant has none."""
    if row["epoch"] is None:
        return None
    isolation = _word(Isolation, row, "isolation")
    return Placement(row["shard"], row["database"], row["schema"], isolation, row["epoch"])


def limits(value: Mapping[str, str]) -> Sequence[str]:
    """A plan's limits as the flat array of names and values that databases store."""
    return [part for name in sorted(value) for part in (name, value[name])]


def _word(words: type[Word], row: Mapping[str, Any], column: str) -> Word:
    """One of the words that a column may hold: a later version may have brought new ones."""
    try:
        return words(row[column])
    except ValueError:
        raise ServerUnsuitable(
            f"the catalog says {column} {shown(row[column])}, which this version does not know",
            hint="update Tenantry in this process to the version that brought the catalog up to date",
        ) from None
