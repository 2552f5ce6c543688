"""Names as they stand in SQL: what PostgreSQL reads is what was meant."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.perimeter.names import grantee, holder, quoted, revoke
from tenantry.postgres.server import LocalServer


@pytest.mark.parametrize("fixture", ["server", "server15"])
def test_every_word_that_needs_quotes_gets_them(request: pytest.FixtureRequest, fixture: str) -> None:
    server: LocalServer = request.getfixturevalue(fixture)
    with psycopg.connect(server.dsn()) as conn:
        words = conn.execute("SELECT word, quote_ident(word) FROM pg_get_keywords()").fetchall()
        assert len(words) > 400
        for word, needed in words:
            assert quoted(word) == needed or quoted(word) == f'"{word}"'
            conn.execute(f"SELECT 1 AS x, {quoted('t')}.{quoted(word)} FROM (SELECT 2) AS t ({quoted(word)})")


@given(
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"], max_codepoint=0x2FF), min_size=1, max_size=30
    )
)
def test_any_name_comes_back_as_it_went_in(server: LocalServer, name: str) -> None:
    with psycopg.connect(server.dsn()) as conn:
        row = conn.execute(f"SELECT 1 AS {quoted(name)}")
        assert row.description is not None
        assert row.description[0].name == name.encode()[:63].decode(errors="ignore")


def test_names_are_joined_by_dots_and_each_is_quoted_for_itself() -> None:
    assert quoted("app", "orders") == "app.orders"
    assert quoted("App", "order", 'a"b') == '"App"."order"."a""b"'
    assert quoted("1a") == '"1a"'
    assert quoted("") == '""'


def test_everybody_is_no_role() -> None:
    assert grantee("public") == "PUBLIC"
    assert grantee("Public") == '"Public"'


def test_what_is_revoked_is_what_was_granted() -> None:
    assert revoke("bob SELECT", "t") == "REVOKE SELECT ON t FROM bob;"
    assert revoke("public USAGE", "s", "SEQUENCE") == "REVOKE USAGE ON SEQUENCE s FROM PUBLIC;"
    assert revoke("bob column SELECT", "t", wanted=True) == "REVOKE SELECT ON t FROM bob;\nGRANT SELECT ON t TO bob;"
    assert revoke("bob option SELECT", "t") == "REVOKE GRANT OPTION FOR SELECT ON t FROM bob CASCADE;"
    assert holder("two words column UPDATE") == "two words"
