from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cli.sql_text import begins, ends, is_complete, pointed

COMPLETE = [
    "SELECT 1;",
    "SELECT 1 ;  -- done",
    "SELECT ';';",
    "SELECT 'it''s';",
    r"SELECT E'\';';",
    'SELECT 1 AS ";";',
    "DO $$ BEGIN NULL; END $$;",
    "SELECT $a$ $b$ ; $a$;",
    "/* ; /* nested ; */ ; */ SELECT 1;",
    "SELECT 1; /* after */",
    "SELECT 1;;",
]
INCOMPLETE = [
    "",
    "  \n",
    "-- only a comment;",
    "SELECT 1",
    "SELECT ';",
    "SELECT 'it''s;",
    r"SELECT E'\';",
    'SELECT 1 AS ";',
    "DO $$ BEGIN NULL;",
    "DO $a$ BEGIN NULL; END $$;",
    "/* ; /* nested */ SELECT 1;",
    "SELECT 1; SELECT 2",
    "SELECT 1 -- ;",
]


@pytest.mark.parametrize("text", COMPLETE)
def test_a_semicolon_outside_of_quotes_and_comments_ends_a_statement(text: str) -> None:
    assert is_complete(text)
    assert is_complete(f"{text}\n")


@pytest.mark.parametrize("text", INCOMPLETE)
def test_one_inside_of_them_does_not(text: str) -> None:
    assert not is_complete(text)


PIECES = st.lists(st.sampled_from(["a", "e'", "'", '"', "$$", "$x$", ";", "--", "\n", "/*", "*/", "\\", " "])).map(
    "".join
)


@given(PIECES)
def test_no_text_is_too_strange_to_be_judged_and_white_space_behind_it_changes_nothing(text: str) -> None:
    assert is_complete(text) == is_complete(text + "\n")


@given(PIECES)
def test_what_is_quoted_is_never_the_end(text: str) -> None:
    quoted = text.replace("'", "''")
    assert not is_complete(f"SELECT '{quoted}' ")
    assert is_complete(f"SELECT '{quoted}' ;")


@pytest.mark.parametrize("text", ["begin;", "BEGIN WORK;", " begin transaction ;\n", "START TRANSACTION"])
def test_a_plain_begin_is_known(text: str) -> None:
    assert begins(text)


@pytest.mark.parametrize(
    "text", ["begin isolation level serializable;", "beginning;", "select 'begin;';", "begin; select 1;"]
)
def test_anything_else_is_left_to_the_server(text: str) -> None:
    assert not begins(text)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("commit;", "commit"),
        ("END WORK", "commit"),
        ("rollback ;", "rollback"),
        ("ABORT;", "rollback"),
        ("rollback to savepoint a;", None),
        ("commit and chain;", None),
        ("endless;", None),
    ],
)
def test_the_end_of_a_transaction_is_known(text: str, how: str | None) -> None:
    assert ends(text) == how


def test_a_position_is_a_line_a_column_and_a_mark() -> None:
    text = "SELECT 1,\n  nothing FROM x"
    assert pointed(text, text.index("nothing") + 1) == "line 2, column 3\n  nothing FROM x\n  ^"


def test_a_long_line_is_cut_around_the_place() -> None:
    shown = pointed("x" * 500 + "!" + "y" * 500, 501).splitlines()
    assert shown[0] == "line 1, column 501"
    assert len(shown[1]) == 120
    assert shown[1][shown[2].index("^")] == "!"


@given(st.text(min_size=1), st.data())
def test_the_mark_is_always_below_the_character(text: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(1, len(text)))
    _, source, mark = pointed(text, position).split("\n")
    character = text[position - 1]
    if character.isprintable():
        assert source[mark.index("^")] == character
