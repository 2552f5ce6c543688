from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.postgres.statements import Statement, marks, split
from tests.fixtures.servers import Database

TEXTS = {
    "": [],
    " ;; ; ": [],
    "-- nothing; at all\n/* ; */": [],
    "SELECT 1": ["SELECT 1"],
    "SELECT 1; SELECT 2;": ["SELECT 1", "SELECT 2"],
    "SELECT ';'; SELECT 'it''s;'": ["SELECT ';'", "SELECT 'it''s;'"],
    r"SELECT E'\';'; SELECT 1": [r"SELECT E'\';'", "SELECT 1"],
    r"SELECT date '\'; SELECT 1": [r"SELECT date '\'", "SELECT 1"],
    r"SELECT date'\'; SELECT 1": [r"SELECT date'\'", "SELECT 1"],
    'SELECT 1 AS "a;b"; SELECT 2': ['SELECT 1 AS "a;b"', "SELECT 2"],
    "DO $$ BEGIN NULL; END $$; SELECT 1": ["DO $$ BEGIN NULL; END $$", "SELECT 1"],
    "SELECT $a$ $b$ ; $$ $a$; SELECT 1": ["SELECT $a$ $b$ ; $$ $a$", "SELECT 1"],
    "SELECT 1 AS a$b$c; SELECT 2 AS d$b$c;": ["SELECT 1 AS a$b$c", "SELECT 2 AS d$b$c"],
    "/* a */ SELECT /* b; */ 1 /* c */; -- d": ["SELECT /* b; */ 1"],
    "CREATE FUNCTION one() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END; SELECT 1": [
        "CREATE FUNCTION one() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
        "SELECT 1",
    ],
    "SELECT 'never ends; SELECT 1": ["SELECT 'never ends; SELECT 1"],
}


@pytest.mark.parametrize(("text", "statements"), TEXTS.items())
def test_a_statement_ends_with_a_semicolon_outside_of_quotes_comments_and_bodies(
    text: str, statements: list[str]
) -> None:
    assert [statement.text for statement in split(text)] == statements


def test_a_statement_knows_where_it_stands() -> None:
    text = "-- one\nSELECT 1;\n\n/*\n*/ SELECT\n2;SELECT 3"
    assert split(text) == [Statement("SELECT 1", 7, 2), Statement("SELECT\n2", 24, 5), Statement("SELECT 3", 33, 6)]
    assert all(text[each.start :].startswith(each.text) for each in split(text))


PIECES = st.lists(
    st.sampled_from(["a", "e'", "'", '"', "$$", "$x$", "$", ";", "--", "\n", "/*", "*/", "\\", " ", "begin", "atomic"])
).map("".join)


@given(PIECES)
def test_marks_come_in_order_and_do_not_overlap(text: str) -> None:
    position = 0
    for mark in marks(text):
        assert mark.start >= position
        assert text[mark.start :].startswith(mark.text)
        position = len(text) if mark.end is None else mark.end
        assert position > mark.start


@given(PIECES)
def test_statements_are_parts_of_the_text_in_order(text: str) -> None:
    position = 0
    for statement in split(text):
        position = text.index(statement.text, position) + len(statement.text)


@pytest.mark.parametrize("text", [text for text in TEXTS if "never" not in text and "date" not in text])
def test_the_server_sees_as_many_statements(database: Database, text: str) -> None:
    with database.connect() as conn:
        cursor = conn.execute(text)
        count = 0 if cursor.statusmessage in (None, "") else 1
        while cursor.nextset():
            count += 1
    assert count == len(split(text))
