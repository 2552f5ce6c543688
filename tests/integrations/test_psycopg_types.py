"""Types that the application has made, with psycopg: each schema has its own, under the same name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tenantry import Router
from tenantry.integrations.sqlalchemy import create_engine
from tests.fixtures.house import House
from tests.integrations.test_asyncpg_types import SLUGS
from tests.integrations.test_asyncpg_types import moody as moody  # a fixture

ADD = "INSERT INTO orders (mood, moods, word) VALUES (%s, %s, %s) RETURNING mood, word"


@pytest.fixture
def own_router(moody: House) -> Iterator[Router]:
    with Router(moody.settings.model_copy(update={"pool_size": 1})) as opened:
        yield opened


def test_what_psycopg_has_prepared_in_one_schema_is_not_executed_in_another(own_router: Router) -> None:
    for _ in range(8):
        for slug in SLUGS:
            with own_router.tenant_scope(slug), own_router.transaction() as conn:
                row = conn.execute(ADD, ("sad", ["glad"], slug)).fetchone()
                assert row == ("sad", slug)
                conn.execute("SELECT count(*) FROM orders WHERE mood = %s", ("sad",), prepare=True)
                conn.execute("DELETE FROM orders")


def test_an_engine_s_prepared_statements_stay_in_their_schema_too(own_router: Router) -> None:
    engine = create_engine(own_router)
    add = text("INSERT INTO orders (mood, word) VALUES (:mood, :word) RETURNING word")
    for _ in range(8):
        for slug in SLUGS:
            with own_router.tenant_scope(slug), engine.begin() as conn:
                assert conn.scalar(add, {"mood": "glad", "word": slug}) == slug
                conn.execute(text("DELETE FROM orders"))
    engine.dispose()
