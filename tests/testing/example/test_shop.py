from __future__ import annotations

from typing import Any

import pytest


def orders(client: Any, tenant: Any, path: str = "/orders") -> Any:
    return client.get(path, headers={"X-Tenant": tenant.slug})


@pytest.mark.parametrize("level", ["pooled", "schema", "database"])
def test_nothing_leaks(request: Any, level: str) -> None:
    request.node.add_marker(pytest.mark.tenantry(isolation=level))
    assert_no_leak = request.getfixturevalue("assert_no_leak")
    looked = assert_no_leak()
    assert looked.report.attempts > 50, looked.report
    assert looked.report.looked_at["table"] == (14 if level == "schema" else 7)


def test_the_application_shows_each_its_own(client: Any, assert_no_leak: Any, two_tenants: Any) -> None:
    for tenant in two_tenants:
        with assert_no_leak(tenant) as leak:
            leak.in_(orders(client, tenant), orders(client, tenant).json())
            leak.in_(orders(client, tenant, "/orders/count"), empty=True)
