from __future__ import annotations

import uuid

import pytest

from tests.cli.conftest import Answer, Run, Start, finish
from tests.fixtures.house import House

pytestmark = pytest.mark.usefixtures("at")


def fresh() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


def test_a_tenant_is_created_ready_to_work(run: Run) -> None:
    slug = fresh()
    answer = run("tenant", "create", slug, "--name", "Globex AG", "--key", "70001", "--plan", "business")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"created tenant {slug}: key 70001, plan business, schema at main/")
    assert run("sql", slug, "-c", "SELECT 1").code == 0


def test_a_tenant_is_shown_for_people_and_for_programs(run: Run, at: House) -> None:
    tenant = at.tenants["schema-a"]
    shown, data = run("tenant", "show", "schema-a"), run("tenant", "show", "schema-a", "--json").json
    assert tenant.placement is not None
    assert f"  placement  main/{tenant.placement.database}/{tenant.placement.schema} (schema, epoch 1)" in shown.out
    assert (data["key"], data["state"], data["placement"]["schema"]) == (tenant.key, "active", tenant.placement.schema)


def test_isolation_and_shard_override_the_plan(run: Run) -> None:
    made = run("tenant", "create", fresh(), "--isolation", "database", "--shard", "main", "--json").json
    assert (made["plan"], made["placement"]["isolation"]) == ("free", "database")


def test_a_list_is_one_document_a_line_and_narrows_by_what_is_asked(run: Run) -> None:
    slug = fresh()
    run("tenant", "create", slug, "--plan", "business")
    everybody = run("tenant", "list", "--json").lines
    assert {"pooled-a", "pooled-b", "schema-a", "database-a", slug} <= {tenant["slug"] for tenant in everybody}
    assert [tenant["slug"] for tenant in everybody] == sorted(tenant["slug"] for tenant in everybody)
    some = run("tenant", "list", "--isolation", "schema", "--shard", "main", "--plan", "business", "--json").lines
    assert slug in {tenant["slug"] for tenant in some}
    assert {(tenant["placement"]["isolation"], tenant["plan"]) for tenant in some} == {("schema", "business")}


def test_a_list_is_a_table_for_people(run: Run) -> None:
    head, *body = run("tenant", "list", "--isolation", "database").out.splitlines()
    assert head.split() == ["SLUG", "KEY", "NAME", "PLAN", "STATE", "ISOLATION", "PLACEMENT"]
    [row] = [line for line in body if line.startswith("database-a ")]
    assert row.index("active") == head.index("STATE")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--state", "happy", "provisioning, active"), ("--isolation", "padded", "pooled, schema or database")],
)
def test_a_filter_with_an_unknown_word_names_the_known_ones(run: Run, option: str, value: str, words: str) -> None:
    answer = run("tenant", "list", option, value)
    assert answer.code == 2
    assert words in answer.err


def test_suspend_and_resume_are_said_and_do_no_harm_twice(run: Run) -> None:
    slug = fresh()
    run("tenant", "create", slug)
    for _ in range(2):
        assert run("tenant", "suspend", slug, "--json").json["state"] == "suspended"
    refused = run("sql", slug, "-c", "SELECT 1")
    assert refused.code == 4
    assert refused.err.startswith(f"error[tenant-suspended]: the tenant '{slug}' is suspended\n")
    assert "next:   resume it with 'tenantry tenant resume" in refused.err
    for _ in range(2):
        assert run("tenant", "resume", slug, "--json").json["state"] == "active"
    assert run("sql", slug, "-c", "SELECT 1").code == 0


def test_a_script_deletes_with_the_slug_once_more(run: Run) -> None:
    slug = fresh()
    run("tenant", "create", slug)
    unconfirmed = run("tenant", "delete", slug)
    assert unconfirmed.code == 2
    assert f"next:   in a script, confirm with '--confirm {slug}'" in unconfirmed.err
    wrong = run("tenant", "delete", slug, "--confirm", "pooled-a")
    assert (wrong.code, "is not the slug of the tenant to delete" in wrong.err) == (2, True)
    assert run("tenant", "delete", slug, "--confirm", slug, "--grace", "0", "--json").json["state"] == "done"
    gone = run("tenant", "show", slug)
    assert (gone.code, gone.err.splitlines()[0]) == (
        3,
        f"error[tenant-not-found]: there is no tenant with the slug '{slug}'",
    )


def test_a_deleted_tenant_is_refused_and_comes_back_within_its_grace_period(run: Run) -> None:
    slug = fresh()
    run("tenant", "create", slug)
    assert run("tenant", "delete", slug, "--confirm", slug).out.startswith(f"shut tenant {slug}; a worker deletes it")
    refused = run("sql", slug, "-c", "SELECT 1")
    assert (refused.code, "error[tenant-deleted]" in refused.err) == (4, True)
    assert "'tenantry tenant resume" in refused.err
    assert run("tenant", "resume", slug, "--json").json["state"] == "active"


def test_a_negative_grace_period_is_refused(run: Run) -> None:
    answer = run("tenant", "delete", "pooled-a", "--confirm", "pooled-a", "--grace", "-1")
    assert (answer.code, "a grace period of -1 seconds" in answer.err) == (2, True)


@pytest.mark.parametrize("verb", ["show", "suspend", "resume"])
def test_an_unknown_tenant_is_not_found(run: Run, verb: str) -> None:
    answer = run("tenant", verb, "nobody-here", "--json")
    assert (answer.code, answer.out) == (3, "")
    assert answer.error["code"] == "tenant-not-found"
    assert answer.error["where"] == f"tenantry tenant {verb}"
    assert "tenantry tenant list" in answer.error["hint"]


SLUGS = {
    "sql": "x'; DROP TABLE tenants; --",
    "look-alike": "асme",  # its first two letters are Cyrillic
    "full width": "ａcme",
    "64 KB": "a" * 65_536,
    "empty": "",
    "upper case": "Acme",
    "path": "../../etc/passwd",
    "terminal": "\x1b]0;owned\x07acme",
    "punycode": "xn--acme-9ta",
    "not UTF-8": "acme\udcff",
}


@pytest.mark.parametrize("slug", SLUGS.values(), ids=SLUGS)
@pytest.mark.parametrize("verb", ["create", "show", "delete", "sql"])
def test_a_slug_that_is_none_is_refused_with_what_where_and_next(run: Run, verb: str, slug: str) -> None:
    commands = {
        "create": ("tenant", "create"),
        "show": ("tenant", "show"),
        "delete": ("tenant", "delete", "--confirm", slug),
        "sql": ("sql", "-c", "SELECT 1"),
    }
    answer = run(*commands[verb], "--", slug)
    what, *rest = answer.err.splitlines()
    assert answer.code == 2
    assert what.startswith("error[invalid-slug]: ")
    assert what.endswith(" is not a slug")
    assert [line.split()[0] for line in rest] == ["where:", "next:"]
    assert answer.err.isascii()
    assert "\x1b" not in answer.err
    assert len(answer.err) < 500


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (("--plan", "gold"), 3, "plan-not-found"),
        (("--shard", "mars"), 3, "shard-not-found"),
        (("--isolation", "padded"), 2, "invalid-input"),
        (("--key", "seven"), 2, "invalid-key"),
        (("--key", str(2**63)), 2, "invalid-key"),
        (("--name", ""), 2, "invalid-input"),
        (("--name", "A" * 201), 2, "invalid-input"),
        (("--name", "two\nlines"), 2, "invalid-input"),
    ],
)
def test_a_wrong_option_leaves_nothing_behind(run: Run, options: tuple[str, ...], code: int, error: str) -> None:
    slug = fresh()
    answer = run("tenant", "create", slug, *options, "--json")
    assert (answer.code, answer.error["code"]) == (code, error)
    assert run("tenant", "show", slug).code == 3


def test_a_taken_slug_and_a_taken_key_are_conflicts(run: Run, at: House) -> None:
    taken = run("tenant", "create", "pooled-a")
    assert (taken.code, taken.err.splitlines()[0]) == (4, "error[slug-taken]: the slug 'pooled-a' is taken")
    assert "next:   choose another slug" in taken.err
    key = str(at.tenants["pooled-a"].key)
    assert run("tenant", "create", fresh(), "--key", key, "--json").error["code"] == "key-taken"


def test_a_number_that_somebody_chose_is_passed_over_by_the_next_numbers(run: Run) -> None:
    last = run("tenant", "create", fresh(), "--json").json["key"]
    for ahead in (1, 2, 3):
        run("tenant", "create", fresh(), "--key", str(last + ahead))
    assert run("tenant", "create", fresh(), "--json").json["key"] > last + 3


def test_of_processes_that_create_the_same_slug_at_the_same_moment_one_succeeds(start: Start) -> None:
    slug = fresh()
    processes = [start("tenant", "create", slug, "--json") for _ in range(4)]
    answers: list[Answer] = [finish(process) for process in processes]
    assert sorted(answer.code for answer in answers) == [0, 4, 4, 4]
    for refused in (answer for answer in answers if answer.code == 4):
        assert refused.error["code"] == "slug-taken"
        assert slug in refused.error["message"]


@pytest.mark.parametrize("arguments", [(), ("acme", "--from-file", "x.csv"), ("--from-file", "x.csv", "--name", "X")])
def test_one_tenant_or_a_file_but_not_a_mixture(run: Run, arguments: tuple[str, ...]) -> None:
    answer = run("tenant", "create", *arguments)
    assert (answer.code, answer.err.startswith("error[invalid-input]: ")) == (2, True)
    assert "next:" in answer.err
