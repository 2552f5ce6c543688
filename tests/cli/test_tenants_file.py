"""``tenantry tenant create --from-file``: all or nothing by its lines, and repeatable."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.errors import TenantryError
from tenantry.service.onboard import COLUMNS, onboard
from tests.cli.conftest import Run, Start, finish
from tests.fixtures.house import House

pytestmark = pytest.mark.usefixtures("at")


@pytest.fixture
def prefix() -> str:
    return f"f-{uuid.uuid4().hex[:8]}"


def slugs(run: Run, prefix: str) -> list[str]:
    return [each["slug"] for each in run("tenant", "list", "--json").lines if each["slug"].startswith(prefix)]


def test_a_file_with_every_column_is_taken_at_its_word(run: Run, prefix: str) -> None:
    text = (
        "shard,slug,name,key,plan,isolation\r\n"
        f'main,{prefix}-a,"Acme, Inc.",81001,business,pooled\r\n'
        f",{prefix}-b,Ünïcode 株式会社,,,\r\n"
        "\r\n"
        f'main,{prefix}-c,"he said ""hi""",81002,free,schema\r\n'
    )
    answer = run("tenant", "create", "--from-file", "-", "--json", stdin=text.encode("utf-8-sig"))
    assert (answer.code, answer.json) == (0, {"created": 3, "skipped": 0})
    a, b, c = (run("tenant", "show", f"{prefix}-{each}", "--json").json for each in "abc")
    assert (a["name"], a["key"], a["plan"], a["placement"]["isolation"]) == ("Acme, Inc.", 81001, "business", "pooled")
    assert (b["name"], b["plan"], b["placement"]["isolation"]) == ("Ünïcode 株式会社", "free", "pooled")
    assert (c["name"], c["key"], c["placement"]["isolation"]) == ('he said "hi"', 81002, "schema")


def test_options_are_the_defaults_of_empty_cells(run: Run, own_folder: Path, prefix: str) -> None:
    (own_folder / "t.csv").write_text(f"slug,plan\n{prefix}-a,\n{prefix}-b,free\n")
    run("tenant", "create", "--from-file", "t.csv", "--plan", "business", "--isolation", "pooled", "--shard", "main")
    plans = [run("tenant", "show", f"{prefix}-{each}", "--json").json["plan"] for each in "ab"]
    assert plans == ["business", "free"]


def test_thousands_are_created_in_one_go_and_again_passes_over_them(run: Run, own_folder: Path, prefix: str) -> None:
    (own_folder / "t.csv").write_text("slug\n" + "".join(f"{prefix}-{number}\n" for number in range(3000)))
    assert run("tenant", "create", "--from-file", "t.csv").out == "created 3,000 tenants\n"
    again = run("tenant", "create", "--from-file", "t.csv", "--skip-existing")
    assert again.out == "created 0 tenants, passed over 3,000 that were there\n"
    assert len(slugs(run, prefix)) == 3000


def test_one_wrong_line_of_thousands_is_named_and_nothing_is_created(run: Run, own_folder: Path, prefix: str) -> None:
    rows = [f"{prefix}-{number},free" for number in range(3500)]
    rows[3015] = f"{prefix}-Wrong,free"  # the header is line 1
    (own_folder / "t.csv").write_text("slug,plan\n" + "\n".join(rows))
    answer = run("tenant", "create", "--from-file", "t.csv")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"error[invalid-slug]: '{prefix}-Wrong' is not a slug",
        "  where:  t.csv:3017",
        "  next:   use 1 to 63 characters of a-z, 0-9 and '-', not starting or ending with '-'; nothing was created",
    ]
    assert slugs(run, prefix) == []


def test_all_wrong_lines_are_listed_up_to_ten(run: Run, prefix: str) -> None:
    rows = "".join(f"{prefix}-{number},gold\n" for number in range(12))
    answer = run("tenant", "create", "--from-file", "-", stdin=f"slug,plan\n{rows}")
    assert answer.code == 3
    assert answer.err.startswith("error[plan-not-found]: 12 lines are wrong\n")
    assert "  where:  standard input:2: there is no plan 'gold'\n" in answer.err
    assert "          standard input:11: there is no plan 'gold'\n          and 2 more\n" in answer.err


LINES = {
    "a taken slug": ("pooled-a,,,", 4, "slug-taken", "the slug 'pooled-a' is taken"),
    "a taken key": ("{p}-a,{key},,", 4, "key-taken", "is taken"),
    "a wrong key": ("{p}-a,seven,,", 2, "invalid-key", "tenant key 'seven' is not a bigint"),
    "an unknown shard": ("{p}-a,,,mars", 3, "shard-not-found", "there is no shard 'mars'"),
    "an unknown isolation": ("{p}-a,,padded,", 2, "invalid-input", "'padded' is not an isolation"),
    "no slug": (",7,,", 2, "invalid-slug", "'' is not a slug"),
    "too many cells": ("{p}-a,,,,,", 2, "invalid-input", "6 cells where the header has 4"),
    "a slug twice": ("{p}-a,,,\n{p}-a,,,", 4, "conflict", "stands on line 2 already"),
    "a key twice": ("{p}-a,90001,,\n{p}-b,90001,,", 4, "conflict", "the key '90001' stands on line 2 already"),
    "an open quote": ('{p}-a,"', 2, "invalid-input", "not CSV"),
}


@pytest.mark.parametrize(("lines", "code", "error", "words"), LINES.values(), ids=LINES)
def test_a_wrong_line_says_what_and_which(
    run: Run, at: House, prefix: str, lines: str, code: int, error: str, words: str
) -> None:
    text = f"slug,key,isolation,shard\n{lines.format(p=prefix, key=at.tenants['pooled-a'].key)}\n{prefix}-good,,,"
    answer = run("tenant", "create", "--from-file", "-", "--json", stdin=text)
    assert (answer.code, answer.error["code"]) == (code, error)
    assert words in answer.error["message"]
    assert answer.error["where"].startswith("standard input:")
    assert slugs(run, prefix) == []


FILES = {
    "empty": (b"", "1", "has no column 'slug'"),
    "no header": (b"acme,free\n", "1", "has the unknown column 'acme'"),
    "another separator": (b"slug;plan\nacme;free\n", "1", "has the unknown column 'slug;plan'"),
    "a column twice": (b"slug,plan,plan\n", "1", "names a column twice"),
    "not UTF-8": (b"slug,name\nok,ok\nx,\xff\xfe\n", "3", "not UTF-8"),
    "NUL": (b"slug,name\nacme,a\0b\n", "2", ""),
    "a huge cell": (b"slug,name\nacme," + b"a" * 200_000 + b"\n", "2", "field larger than field limit"),
}


@pytest.mark.parametrize(("content", "line", "words"), FILES.values(), ids=FILES)
def test_a_file_that_is_none_is_refused_with_its_line(run: Run, content: bytes, line: str, words: str) -> None:
    answer = run("tenant", "create", "--from-file", "-", "--json", stdin=content)
    assert answer.code == 2
    assert answer.error["where"] == f"standard input:{line}"
    assert words in answer.error["message"]


def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    answer = run("tenant", "create", "--from-file", "missing.csv")
    assert answer.err.splitlines()[:2] == ["error[file]: no such file or directory", "  where:  missing.csv"]
    assert answer.code == 2


def test_a_closed_shard_is_seen_before_anything_is_created(run: Run, prefix: str) -> None:
    run("shard", "close", "main")
    try:
        answer = run("tenant", "create", "--from-file", "-", "--json", stdin=f"slug,shard\n{prefix}-a,main\n")
    finally:
        run("shard", "open", "main")
    assert (answer.code, answer.error["code"], answer.error["where"]) == (5, "no-capacity", "standard input:2")


def test_numbers_that_the_file_gives_are_not_drawn_for_other_lines(run: Run, prefix: str) -> None:
    first = run("tenant", "create", f"{prefix}-first", "--json").json["key"]
    rows = [f"{prefix}-{n},{'' if n < 700 else first + n - 600}" for n in range(1400)]
    answer = run("tenant", "create", "--from-file", "-", stdin="slug,key\n" + "\n".join(rows))
    assert (answer.code, answer.out) == (0, "created 1,400 tenants\n")


def test_a_slug_that_is_there_with_another_key_is_not_passed_over(run: Run, at: House) -> None:
    key = at.tenants["pooled-a"].key
    same = run("tenant", "create", "--from-file", "-", "--skip-existing", stdin=f"slug,key\npooled-a,{key}\n")
    other = run("tenant", "create", "--from-file", "-", "--skip-existing", stdin="slug,key\npooled-a,99999\n")
    assert (same.code, same.out) == (0, "created 0 tenants, passed over 1 that were there\n")
    assert (other.code, "error[slug-taken]" in other.err) == (4, True)


def test_a_run_that_fails_in_the_middle_says_how_far_it_came(run: Run, prefix: str, start: Start) -> None:
    """Both batches are fine by themselves, and a process that nobody knew of takes a slug of the second."""
    rows = "".join(f"{prefix}-{n},schema\n" for n in range(25))
    process = start("tenant", "create", "--from-file", "/dev/stdin", stdin=-1, stderr=-1)
    assert process.stdin is not None
    process.stdin.write("slug,isolation\n" + rows)
    process.stdin.close()
    process.stdin = None
    while f"{prefix}-0" not in slugs(run, prefix):
        assert process.poll() is None, "the file was done before its first tenant was seen"
    taken = run("tenant", "create", f"{prefix}-24")
    answer = finish(process)
    assert (taken.code, answer.code) in ((0, 4), (4, 0))
    if answer.code == 4:
        assert "20 of 25 tenants were created; go on with --skip-existing" in answer.err
    again = run("tenant", "create", "--from-file", "-", "--skip-existing", stdin="slug,isolation\n" + rows)
    assert (again.code, len(slugs(run, prefix))) == (0, 25)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the house stays the same, on purpose
@given(st.text(max_size=200) | st.lists(st.sampled_from([*COLUMNS, ",", "\n", '"', "a", "7", " ", "\r"])).map("".join))
def test_whatever_a_file_holds_is_answered_with_an_error_of_ours(at: House, text: str) -> None:
    """Slugs of one house are taken by nobody here: a file that happens to be good creates a tenant or two."""

    async def create() -> None:
        async with at.control() as control:
            with suppress(TenantryError):
                await onboard(control, text.encode("utf-8", "surrogatepass"))

    asyncio.run(create())
