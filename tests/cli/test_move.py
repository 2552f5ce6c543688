"""``tenantry move`` and ``tenantry op``: what they say and do."""

from __future__ import annotations

import uuid

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("at")


@pytest.fixture
def slug(run: Run) -> str:
    """A pooled tenant."""
    made = f"m-{uuid.uuid4().hex[:10]}"
    run("tenant", "create", made)
    return made


def test_a_tenant_moves_and_comes_back(run: Run, slug: str) -> None:
    moved = run("move", slug, "--to", "schema").out
    assert moved.startswith(f"moved {slug} to main/")
    assert "(schema); 'tenantry op undo " in moved
    number = moved.partition("op undo ")[2].partition("'")[0]
    (row,) = [each for each in run("op", "list", "--json").json if each["id"] == int(number)]
    assert (row["kind"], row["state"], row["step"]) == ("move", "waiting", "settle")
    assert f"{number} " in run("op", "list").out
    shown = run("op", "show", number).out
    assert shown.startswith(f"operation {number}\n")
    assert "  kind   move\n" in shown
    assert "  state  waiting\n" in shown
    assert run("op", "undo", number).out == f"operation {number} (move) is undone\n"
    assert run("tenant", "show", slug, "--json").json["placement"]["isolation"] == "pooled"
    assert run("op", "undo", number, "--json").error["code"] == "operation-open"


def test_a_move_for_programs(run: Run, slug: str) -> None:
    done = run("move", slug, "--to", "schema", "--grace", "0", "--json").json
    assert done["tenant"]["placement"]["isolation"] == "schema"
    assert done["operation"]["state"] == "done"
    assert run("op", "show", str(done["operation"]["id"]), "--json").json["state"] == "done"


def test_what_can_not_be(run: Run, slug: str) -> None:
    assert run("move", slug, "--json").error["code"] == "invalid-input"
    assert run("move", slug, "--to", "attic", "--json").error["code"] == "invalid-input"
    assert run("move", slug, "--shard", "mars", "--json").error["code"] == "shard-not-found"
    assert run("move", "nobody", "--to", "schema", "--json").error["code"] == "tenant-not-found"
    assert run("op", "show", "999999", "--json").error["code"] == "operation-not-found"
    assert run("op", "undo", "999999", "--json").error["code"] == "operation-not-found"
