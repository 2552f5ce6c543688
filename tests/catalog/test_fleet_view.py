"""What a view knows of the fleet, and what it says about what it does not know."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tenantry.catalog.fleet_view import ActiveKey, FleetView, Login
from tenantry.errors import NotFound, PlanNotFound, ShardNotFound
from tenantry.model import House, Plan, Shard

EMPTY = FleetView(House(), MappingProxyType({}), MappingProxyType({}))
FULL = FleetView(
    House(),
    {"free": Plan("free")},
    {"main": Shard("main", "host=db")},
    {"main": Login("tenantry_app", "hunter2")},
    ActiveKey("k1", b"\x01secret" * 8),
)


def test_what_is_known_is_found_by_name() -> None:
    assert FULL.plan("free").name == "free"
    assert FULL.shard("main").dsn == "host=db"
    assert FULL.signing_key().kid == "k1"


@pytest.mark.parametrize("name", ["gold", "", "free'; --", "ﬀ", "x" * 100_000])
def test_what_is_unknown_is_named_with_what_to_do(name: str) -> None:
    with pytest.raises(PlanNotFound) as plan:
        FULL.plan(name)
    assert plan.value.hint == "list the plans with 'tenantry plan list'"
    with pytest.raises(ShardNotFound) as shard:
        FULL.shard(name)
    assert shard.value.hint == "list the shards with 'tenantry shard list'"
    for error in (plan.value, shard.value):
        assert len(str(error)) < 200
        assert str(error).isascii()


def test_without_a_signing_key_it_is_said_how_to_make_one() -> None:
    with pytest.raises(NotFound, match="no active signing key") as caught:
        EMPTY.signing_key()
    assert "tenantry key rotate" in str(caught.value.hint)


def test_neither_keys_nor_passwords_are_in_what_it_shows_of_itself() -> None:
    for shown in (repr(FULL), str(FULL), f"{FULL!r}"):
        assert "hunter2" not in shown
        assert "secret" not in shown
