"""A million tenants in the catalog: the view holds what was asked for, and no more than it may."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tenantry.catalog.store import SCHEMA
from tenantry.catalog.view import CatalogView
from tenantry.errors import TenantNotFound
from tests.catalog.conftest import LISTENING, Catalog, Events

TENANTS = 1_000_000
BYTES_PER_TENANT = 3000
"""A tenant under two names, with everything that it is made of; it is about half of that."""


@pytest.fixture(scope="module")
def million(catalog: Catalog) -> Catalog:
    """Keys 1 to a million, slugs ``t1`` to ``t1000000``; put there without triggers and references, for speed."""
    options = f"-c search_path={SCHEMA} -c session_replication_role=replica -c synchronous_commit=off"
    with catalog.database.connect(options=options) as conn:
        conn.execute(
            "INSERT INTO tenants (id, key, slug, name, plan, state) SELECT lpad(to_hex(n), 32, '0')::uuid, n::text,"
            " 't' || n, 'Tenant ' || n, 'free', 'active' FROM generate_series(1, %s) n",
            (TENANTS,),
        )
        conn.execute("INSERT INTO placements (tenant, space, epoch) SELECT t.id, s.id, 1 FROM tenants t, spaces s")
        conn.execute("ANALYZE tenants, placements, spaces")
    return catalog


def test_memory_is_bounded_by_the_size_of_the_cache_however_many_are_asked_for(million: Catalog) -> None:
    size, asked = 500, 3000
    view = CatalogView(million.dsn, cache_size=size)
    events = Events(view)
    view.open()
    events.wait_for(LISTENING)
    view.fleet()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert len(view.cache) == 0
        for n in range(asked):
            assert view.find("slug", f"t{n * 331 + 1}").key == n * 331 + 1
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(view.cache) == size
    assert after - before < size * BYTES_PER_TENANT
    assert peak - before < 2 * size * BYTES_PER_TENANT
    view.close()


def test_a_flood_of_unknown_slugs_takes_no_more_memory_either(million: Catalog) -> None:
    size = 200
    view = CatalogView(million.dsn, cache_size=size)
    events = Events(view)
    view.open()
    events.wait_for(LISTENING)  # from then on nothing is forgotten
    known = view.find("slug", "t1")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(1500):
            with pytest.raises(TenantNotFound):
                view.find("slug", f"nobody-{n}")
        gc.collect()  # the errors that were caught hold their frames in circles
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < size * BYTES_PER_TENANT
    assert view.peek(known.id) == known  # what does not exist pushes nobody out
    view.close()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM library_tenants WHERE slug = 't500000' AND state <> 'deleted'",
        "SELECT * FROM library_tenants WHERE key = '500000'",
        "SELECT * FROM library_tenants WHERE id = lpad(to_hex(500000), 32, '0')::uuid",
    ],
    ids=["slug", "key", "id"],
)
def test_one_tenant_is_found_by_an_index(million: Catalog, query: str) -> None:
    plan = "\n".join(line for (line,) in million.run(f"EXPLAIN {query}"))
    assert "Seq Scan on tenants" not in plan
    assert "Seq Scan on placements" not in plan
