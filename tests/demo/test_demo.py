"""The demo as people start it: in a process of its own, with servers of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import data
from demo.show import FULL_DATA

ROOT = Path(__file__).resolve().parents[2]
FULL = Path(os.environ.get("TENANTRY_DEMO_DATA") or FULL_DATA)
STEPS = "data address servers catalog shards warm onboard load perimeter serve attack visit change clear".split()


Run = tuple[int, dict[str, Any], str, Path]
"""The exit code, the JSON document, what people saw, and the folder of temporary files."""


def start(scratch: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the demo; all its temporary files go to a folder of the test's."""
    scratch.mkdir(exist_ok=True)
    scratch.chmod(0o755)
    unset = {"TENANTRY_DEMO_DATA"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**inherited, "TMPDIR": str(scratch), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder with a space in its path."""
    return tmp_path / "a scratch folder"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two demos that ran at the same time: with the sample, and with the full data where it is there.

    Settings of another house in the environment and in the working directory must not matter.
    """
    folder = tmp_path_factory.mktemp("two")
    full = str(FULL) if FULL.is_dir() else "sample"
    other = {"TENANTRY_CATALOG": "host=nowhere.invalid", "tenantry_pooler": "true", "TENANTRY_POOL_SIZE": "1"}
    started = [
        start(folder / "with space", "--check", "--data", "sample", **other),
        start(folder / "plain", "--check", "--data", full),
    ]
    done = []
    for process, scratch in zip(started, ("with space", "plain"), strict=True):
        out, err = process.communicate(timeout=100)
        done.append((process.returncode, json.loads(out), err, folder / scratch))
    return done


def test_every_step_holds(two: list[Run]) -> None:
    for code, document, err, _ in two:
        assert code == 0, err
        assert document["ok"] is True
        assert [step["name"] for step in document["steps"]] == STEPS
        assert all(step["ok"] is True and step["seconds"] >= 0 for step in document["steps"])


def test_companies_live_at_all_levels_on_two_servers(two: list[Run]) -> None:
    for _, document, _, _ in two:
        tenants = facts(document, "load")["tenants"]
        assert sorted(each["level"] for each in tenants) == ["database", "dedicated", *["pooled"] * 5, "schema"]
        assert {each["shard"] for each in tenants if each["level"] == "dedicated"} == {"second"}
        assert {each["shard"] for each in tenants if each["level"] != "dedicated"} == {"main"}
        assert len({(each["shard"], each["database"], each["schema"]) for each in tenants}) == 4


def test_all_rows_of_the_data_have_arrived(two: list[Run]) -> None:
    for _, document, _, _ in two:
        assert facts(document, "load")["rows"] == facts(document, "data")["rows"]
    if FULL.is_dir():
        found = {each["slug"]: each["rows"] for each in facts(two[1][1], "load")["tenants"]}
        assert found == {company.slug: company.counts for company in data.read(FULL, "full").companies}


def test_attacks_were_tried_from_every_level_and_saw_nothing(two: list[Run]) -> None:
    for _, document, _, _ in two:
        found = facts(document, "attack")
        assert found["loot"]["companies"] == 5
        assert found["loot"]["campaigns"] > 20
        assert found["foreign_rows"] == 0
        assert len(found["attacks"]) >= 20
        assert all(attack["held"] and attack["outcomes"] for attack in found["attacks"])
        levels = {outcome["level"] for attack in found["attacks"] for outcome in attack["outcomes"]}
        assert levels == {"pooled", "schema", "database", "dedicated"}


def test_people_can_read_along_without_a_terminal(two: list[Run]) -> None:
    for _, document, err, _ in two:
        assert "\x1b" not in err
        assert max(len(line.rstrip()) for line in err.splitlines()) <= 120
        for title in ("Start two servers", "Onboard the companies", "Attack the walls", "Remove everything"):
            assert f"✓ {title}" in err
        for attack in facts(document, "attack")["attacks"]:
            assert f"✓ {attack['title']}" in err
            assert attack["outcomes"][0]["sent"][:50] in err


def test_nothing_is_left_behind(two: list[Run]) -> None:
    for _, document, _, scratch in two:
        assert list(scratch.iterdir()) == []
        for port in facts(document, "servers")["ports"].values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("arguments", "environment", "step", "message", "hint"),
    [
        (["--data", "/nowhere"], {}, "data", "companies.csv can't be read", "name a folder with companies.csv"),
        ([], {"TENANTRY_DEMO_DATA": "/nowhere"}, "data", "companies.csv can't be read", "name a folder"),
        (["--port", "PORT"], {}, "address", "can't be had", "name another with --port"),
        (["--keep", "FILE/x"], {}, "servers", "the folder can't be made", "name another one with --keep"),
        ([], {"TENANTRY_PG_BIN": "/nowhere"}, "servers", "TENANTRY_PG_BIN", "name the folder that holds the programs"),
    ],
)
def test_a_step_that_fails_says_what_where_and_what_next(
    scratch: Path, arguments: list[str], environment: dict[str, str], step: str, message: str, hint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = scratch.parent / "file"
        file.touch()
        names = {"PORT": str(taken.getsockname()[1]), "FILE/x": f"{file}/x"}
        chosen = [names.get(argument, argument) for argument in arguments]
        if "--data" not in chosen and not environment.get("TENANTRY_DEMO_DATA"):
            chosen += ["--data", "sample"]
        process = start(scratch, "--check", *chosen, **environment)
        out, err = process.communicate(timeout=60)
    document = json.loads(out)
    assert (process.returncode, document["ok"]) == (1, False)
    failed = [each for each in document["steps"] if not each["ok"]]
    assert [each["name"] for each in failed] == [step]
    assert message in failed[0]["error"]["message"]
    assert hint in failed[0]["error"]["hint"]
    assert failed[0]["error"]["where"]
    assert "Traceback" not in err
    assert all(f"    {word:<6}" in err for word in ("what", "where", "next"))
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--port", "x"], ["--keep", ""], ["--what"], ["extra"]])
def test_a_wrong_command_line_is_refused_before_anything_starts(scratch: Path, arguments: list[str]) -> None:
    process = start(scratch, *arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "error: " in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "number", "code"),
    [
        ("✓ Reserve an address", signal.SIGINT, 130),
        ("✓ Make the catalog", signal.SIGTERM, 130),
        ("Ctrl-C ends it.", signal.SIGINT, 0),
        ("Ctrl-C ends it.", signal.SIGTERM, 0),
    ],
)
def test_an_interrupt_ends_it_cleanly_at_any_moment(
    scratch: Path, after: str, number: signal.Signals, code: int
) -> None:
    process = start(scratch, "--data", "sample")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(after):
            os.killpg(process.pid, number)
            break
    rest, err = process.communicate(timeout=60)
    assert process.returncode == code, "".join(seen) + rest + err
    assert err == ""
    assert list(scratch.iterdir()) == []
    if code == 0:
        assert "✓ Remove everything" in rest
        assert sum("http://" in line and ".localhost:" in line for line in seen) >= 8


@pytest.mark.slow
def test_what_is_kept_is_used_again(scratch: Path) -> None:
    keep = scratch / "kept"
    counts, told = [], ""
    for _ in range(2):
        process = start(scratch, "--check", "--data", "sample", "--keep", str(keep))
        out, told = process.communicate(timeout=100)
        assert process.returncode == 0, told
        counts.append([each["rows"]["campaigns"] for each in facts(json.loads(out), "load")["tenants"]])
    assert counts[1] == [number + 1 for number in counts[0]]
    assert "was there already" in told
    assert [file.name for file in scratch.iterdir()] == ["kept"]
    assert stat.S_IMODE((keep / "tenantry.toml").stat().st_mode) == 0o600


def facts(document: dict[str, Any], name: str) -> dict[str, Any]:
    """What a step says."""
    found: dict[str, Any] = next(step for step in document["steps"] if step["name"] == name)
    return found
