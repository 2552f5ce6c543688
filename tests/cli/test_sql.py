"""``tenantry sql`` without a terminal."""

from __future__ import annotations

import csv
import io
import os
import subprocess

import psycopg
import pytest

from tests.cli.conftest import COMMAND, Run
from tests.fixtures.house import House

pytestmark = pytest.mark.usefixtures("at")

SLUGS = ("pooled-a", "schema-a", "database-a")


@pytest.mark.parametrize("slug", SLUGS)
def test_a_tenant_sees_and_writes_its_own_rows(run: Run, at: House, slug: str) -> None:
    note = f"for {slug}"
    assert run("sql", slug, "-c", f"INSERT INTO orders (note) VALUES ('{note}')").out == "INSERT 0 1\n"
    answer = run("sql", slug, "-c", "SELECT tenant_id, note FROM orders")
    assert answer.out.splitlines() == ["tenant_id  note", f"{at.tenants[slug].key!s:<9}  {note}", "(1 row)"]
    others = run("sql", "pooled-b", "--csv", "-c", "SELECT count(*) FROM orders")
    assert others.out == "count\n0\n"


def test_it_is_the_application_s_role_inside_the_wall(run: Run) -> None:
    assert run("sql", "pooled-a", "--csv", "-c", "SELECT current_user").out == "current_user\ntenantry_app\n"
    answer = run("sql", "pooled-a", "-c", "SET ROLE tenantry_owner")
    assert (answer.code, answer.err.startswith("error[42501]: ")) == (1, True)


def test_values_are_what_json_has_for_them(run: Run) -> None:
    query = """SELECT 1::int8 AS i, 1.5::float8 AS f, 'NaN'::float8 AS n, 2.50::numeric AS d, true AS b, NULL AS z,
                      '{"a": [1, null]}'::jsonb AS j, 'x' AS t, '2026-01-02'::date AS day, 1 AS same, 2 AS same"""
    [result] = run("sql", "pooled-a", "--json", "-c", query).json["results"]
    assert result["status"] == "SELECT 1"
    assert result["rows"] == [
        {
            "i": 1,
            "f": 1.5,
            "n": "NaN",
            "d": "2.50",
            "b": True,
            "z": None,
            "j": {"a": [1, None]},
            "t": "x",
            "day": "2026-01-02",
            "same": 1,
            "same_2": 2,
        }
    ]


def test_rows_are_csv_that_is_read_back_as_it_was(run: Run) -> None:
    strange = 'a,b "c"\nd\te\'f;Ünï'
    answer = run("sql", "pooled-a", "--csv", stdin=f"SELECT $q${strange}$q$ AS a, NULL AS b, '' AS c")
    assert list(csv.reader(io.StringIO(answer.out, newline=""))) == [["a", "b", "c"], [strange, "", ""]]


def test_several_statements_and_several_commands_all_answer(run: Run) -> None:
    answer = run("sql", "pooled-a", "-c", "SELECT 1 AS a; SELECT 2 AS b", "-c", "SELECT 3 AS c")
    assert answer.out.split() == ["a", "1", "(1", "row)", "b", "2", "(1", "row)", "c", "3", "(1", "row)"]


def test_standard_input_is_one_transaction(run: Run) -> None:
    before = run("sql", "schema-a", "--csv", "-c", "SELECT count(*) FROM orders").out
    answer = run("sql", "schema-a", stdin="INSERT INTO orders (note) VALUES ('half');\nSELECT 1/0;")
    assert (answer.code, answer.err.splitlines()[0]) == (1, "error[22012]: division by zero")
    assert run("sql", "schema-a", "--csv", "-c", "SELECT count(*) FROM orders").out == before


def test_an_error_of_the_server_shows_its_place(run: Run) -> None:
    answer = run("sql", "pooled-a", stdin="SELECT 1;\nSELECT  nothing FROM orders")
    assert answer.code == 1
    assert answer.err.splitlines() == [
        'error[42703]: column "nothing" does not exist',
        "  where:  line 2, column 9",
        "          SELECT  nothing FROM orders",
        "                  ^",
    ]


def test_the_server_s_hint_is_the_next_step(run: Run) -> None:
    answer = run("sql", "pooled-a", "--json", "-c", "SELECT no_such_function(1)")
    assert answer.error["code"] == "42883"
    assert answer.error["hint"]


def test_notices_are_said_on_standard_error(run: Run) -> None:
    answer = run("sql", "pooled-a", "-c", "DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert (answer.out, answer.err) == ("DO\n", "notice: hello\n")


@pytest.mark.parametrize("slug", SLUGS)
def test_read_only_refuses_writes(run: Run, slug: str) -> None:
    answer = run("sql", slug, "--read-only", "-c", "INSERT INTO orders (note) VALUES ('no')")
    assert (answer.code, answer.err.splitlines()[0]) == (
        1,
        "error[25006]: cannot execute INSERT in a read-only transaction",
    )
    assert run("sql", slug, "--read-only", "-c", "SELECT 1").code == 0


@pytest.mark.parametrize("text", ["COMMIT; SELECT * FROM orders", "ROLLBACK; SELECT * FROM orders"])
def test_ending_the_transaction_ends_the_binding(run: Run, text: str) -> None:
    answer = run("sql", "pooled-a", "-c", text)
    assert answer.code == 1
    assert "error[" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("text", ["", "   ", "-- nothing", ";"])
def test_nothing_is_answered_with_nothing(run: Run, text: str) -> None:
    answer = run("sql", "pooled-a", stdin=text)
    assert (answer.code, answer.out.strip(), answer.err) == (0, "", "")


def test_copy_is_refused_in_our_form(run: Run) -> None:
    answer = run("sql", "pooled-a", "-c", "COPY orders TO STDOUT")
    assert (answer.code, answer.err.startswith("error[driver]: COPY cannot be used")) == (1, True)


def test_bytes_that_are_no_text_are_the_server_s_to_refuse(at: House) -> None:
    done = subprocess.run([*COMMAND, "sql", "pooled-a", "-c", b"SELECT '\xff'"], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error[22021]: invalid byte sequence")


def test_what_stands_in_a_cell_does_not_steer_the_terminal(run: Run) -> None:
    answer = run("sql", "pooled-a", "-c", "SELECT E'\\x1b[2J\\nline' AS a")
    assert answer.out.splitlines()[1] == "\\x1b[2J\\nline"


def test_wide_characters_keep_the_columns_straight(run: Run) -> None:
    lines = run(
        "sql", "pooled-a", "-c", "SELECT '京都' AS a, 1 AS b UNION ALL SELECT 'x', 2 ORDER BY b"
    ).out.splitlines()
    assert lines[:3] == ["a     b", "京都  1", "x     2"]


def test_an_unknown_tenant_is_not_found(run: Run) -> None:
    answer = run("sql", "nobody-here", "-c", "SELECT 1")
    assert answer.code == 3
    assert answer.err.startswith("error[tenant-not-found]: there is no tenant with the slug 'nobody-here'\n")


def test_an_operator_reads_all_tenants_with_a_reason_on_record(run: Run, at: House) -> None:
    for slug in ("pooled-a", "pooled-b"):
        run("sql", slug, "-c", "INSERT INTO orders (note) VALUES ('seen by operators')")
    everybody = ("sql", "--all-tenants", "--shard", "main", "--reason", "ticket 4711: count the orders")
    query = "SELECT count(DISTINCT tenant_id) FROM orders WHERE note = 'seen by operators'"
    assert run(*everybody, "--csv", "-c", query).out == "count\n2\n"
    refused = run(*everybody, "-c", "DELETE FROM orders")
    assert (refused.code, "read-only transaction" in refused.err) == (1, True)
    assert run(*everybody, "--write", "-c", "UPDATE orders SET note = 'x' WHERE note = 'y'").out == "UPDATE 0\n"
    with psycopg.connect(at.control_settings.control_dsn) as conn:
        log = conn.execute(
            "SELECT action, detail->>'role' FROM tenantry_catalog.audit_log WHERE reason LIKE 'ticket 47%%' ORDER BY id"
        ).fetchall()
    begun = [role for action, role in log if action == "all tenants begin"]
    assert begun == ["tenantry_operator", "tenantry_operator", "tenantry_admin"]
    assert len(log) == 2 * len(begun)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which tenant?"),
        (("--all-tenants",), "needs to know where and why"),
        (("--all-tenants", "--shard", "main"), "needs to know where and why"),
        (("--all-tenants", "--shard", "main", "--reason", "why not", "pooled-a"), "needs to know where and why"),
        (("--all-tenants", "--shard", "main", "--reason", "short"), "'short' is not a reason"),
        (("--all-tenants", "--shard", "mars", "--reason", "looking for mars"), "there is no shard 'mars'"),
        (("pooled-a", "--reason", "I want to"), "--reason is for --all-tenants"),
        (("pooled-a", "--write"), "--write is for --all-tenants"),
        (("pooled-a", "--json", "--csv"), "rows are printed in one form"),
    ],
)
def test_options_that_don_t_go_together_say_which_do(run: Run, arguments: tuple[str, ...], words: str) -> None:
    answer = run("sql", *arguments, "-c", "SELECT 1")
    assert answer.code in (2, 3)
    assert words in answer.err
    assert "next:" in answer.err or "hint" in answer.err


def test_an_application_s_machine_needs_no_operator_s_login(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTRY_CONTROL")
    assert run("sql", "pooled-a", "-c", "SELECT 1").code == 0
    refused = run("tenant", "list")
    assert (refused.code, "setting 'control' is missing" in refused.err) == (2, True)
    assert os.environ.get("TENANTRY_CONTROL") is None
