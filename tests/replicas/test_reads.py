"""Where reads go, and that they see what was written."""

from __future__ import annotations

from tenantry import Router
from tests.replicas.conftest import Replicated, is_standby, notes, write


def test_a_read_goes_to_the_replica_if_the_plan_says_so(replicated: Replicated, router: Router) -> None:
    assert is_standby(router, "reader")
    assert is_standby(router, "other")
    assert not is_standby(router, "homebody")
    with router.tenant_scope("reader"), router.transaction() as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)


def test_a_read_sees_what_its_tenant_has_just_written(replicated: Replicated, router: Router) -> None:
    before = notes(router, "reader")
    with replicated.paused():
        write(router, "reader", "new")
        assert notes(router, "reader") == [*before, "new"]
        assert is_standby(router, "other")
    replicated.catch_up()
    assert notes(router, "reader") == [*before, "new"]
