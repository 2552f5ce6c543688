"""Rows of the catalog become the vocabulary, or an error that says which word is new."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.catalog import rows
from tenantry.errors import InvalidKey, ServerUnsuitable
from tenantry.model import BindingMode, House, Isolation, KeyType, Placement, Plan, Replica, Shard, ShardState, Tenant
from tenantry.model import TenantState as State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID(int=7)
HOUSE = {"key_type": "uuid", "tenant_column": "company_id", "app_schema": "public"}
PLAN = {
    "name": "free",
    "isolation": "pooled",
    "weight": 2,
    "limits": {"lock_timeout": "5s"},
    "features": {"reports": True},
    "warm": 1,
    "grace": 60,
    "replica_seconds": 5,
}
SHARD = {
    "name": "main",
    "dsn": "host=db",
    "state": "open",
    "binding": "sealed",
    "dedicated": False,
    "created_at": NOW,
}
REPLICA = {"shard": "main", "name": "r1", "dsn": "host=db2", "created_at": NOW}
PLACED = {"shard": "main", "database": "app", "schema": "public", "isolation": "pooled", "epoch": 3}
NOWHERE = dict.fromkeys(PLACED)
TENANT = {"id": ID, "key": "42", "slug": "acme", "name": "Acme", "plan": "free", "state": "active", "created_at": NOW}


def test_each_kind_of_row_is_read() -> None:
    assert rows.house(HOUSE) == House(KeyType.UUID, "company_id", "public")
    assert rows.plan(PLAN) == Plan("free", Isolation.POOLED, 2, {"lock_timeout": "5s"}, {"reports": True}, 1, 60, 5)
    assert rows.replica(REPLICA) == Replica("main", "r1", "host=db2", NOW)
    assert rows.shard(SHARD) == Shard("main", "host=db", ShardState.OPEN, BindingMode.SEALED, False, NOW)
    placement = Placement("main", "app", "public", Isolation.POOLED, 3)
    assert rows.tenant(TENANT | PLACED, KeyType.BIGINT) == Tenant(
        ID, 42, "acme", "Acme", "free", State.ACTIVE, placement, NOW
    )


def test_a_tenant_that_lives_nowhere_has_no_placement() -> None:
    assert rows.tenant(TENANT | NOWHERE, KeyType.BIGINT).placement is None


def test_what_was_read_can_not_be_changed_by_accident() -> None:
    plan = rows.plan(PLAN)
    for mapping in (plan.limits, plan.features):
        with pytest.raises(TypeError):
            mapping["x"] = "y"  # type: ignore[index]


@pytest.mark.parametrize(
    ("key", "key_type", "expected"),
    [
        ("-9223372036854775808", KeyType.BIGINT, -(2**63)),
        ("6f1c7a62-3e4b-4a52-9f6f-0d6c6c1f0a01", KeyType.UUID, UUID("6f1c7a62-3e4b-4a52-9f6f-0d6c6c1f0a01")),
        ("Ünï'; --", KeyType.TEXT, "Ünï'; --"),
    ],
)
def test_a_key_gets_the_type_of_the_house(key: str, key_type: KeyType, expected: object) -> None:
    assert rows.tenant(TENANT | NOWHERE | {"key": key}, key_type).key == expected


def test_a_key_of_another_type_than_the_houses_is_refused() -> None:
    with pytest.raises(InvalidKey):
        rows.tenant(TENANT | NOWHERE | {"key": "acme"}, KeyType.BIGINT)


READ: list[tuple[Callable[[dict[str, Any]], object], dict[str, Any], str]] = [
    (rows.house, HOUSE, "key_type"),
    (rows.plan, PLAN, "isolation"),
    (rows.shard, SHARD, "state"),
    (rows.shard, SHARD, "binding"),
    (rows.placement, PLACED, "isolation"),
    (lambda row: rows.tenant(row, KeyType.BIGINT), TENANT | NOWHERE, "state"),
]


@pytest.mark.parametrize(("read", "row", "column"), READ)
def test_a_word_of_a_later_version_is_named_with_what_to_do(
    read: Callable[[dict[str, Any]], object], row: dict[str, Any], column: str
) -> None:
    with pytest.raises(ServerUnsuitable, match=f"the catalog says {column} 'archived'") as caught:
        read(row | {column: "archived"})
    assert caught.value.hint is not None
    assert "update" in caught.value.hint


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_limits_become_pairs_in_an_order_that_does_not_vary(limits: dict[str, str]) -> None:
    flat = rows.limits(limits)
    assert flat[::2] == sorted(limits)
    assert dict(zip(flat[::2], flat[1::2], strict=True)) == limits
