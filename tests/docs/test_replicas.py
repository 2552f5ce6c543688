"""The page on replicas: its commands run, and its code does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tenantry import Router
from tenantry.cli.app import run
from tenantry.settings import Settings
from tests.replicas.conftest import notes, replicated_house

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "replicas.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ tenantry (.*)$", PAGE, re.MULTILINE)
READ, WRITE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicated_house() as house:
        monkeypatch.setenv("TENANTRY_CATALOG", house.control_settings.catalog_dsn)
        monkeypatch.setenv("TENANTRY_CONTROL", house.control_settings.control_dsn)
        monkeypatch.setenv("TENANTRY_TEMPLATE", str(house.control_settings.template))
        monkeypatch.setenv("TENANTRY_SHARED_TABLES", '["countries"]')
        assert run(["replica", "remove", "main", "r1"]) == 0
        assert run(["tenant", "create", "acme", "--plan", "business"]) == 0
        add, *others, remove = COMMANDS
        address = f"host=127.0.0.1 port={house.standby.port}"
        for command in (add.replace("host=db2.example.com port=5432", address), *others):
            assert run(shlex.split(command)) == 0
        house.catch_up()
        with Router(house.settings) as router, Router(house.settings) as elsewhere:
            for each in (router, elsewhere):
                notes(each, "acme")
            names: dict[str, Any] = {"router": router, "session": {}}
            exec(READ, names)
            first, second = WRITE.split("# later, in another process\n")
            with house.paused():
                exec(first, names)
                names["router"] = elsewhere
                exec(second + '    assert conn.execute("SELECT count(*) FROM orders").fetchone() == (1,)\n', names)
        assert run(shlex.split(remove)) == 0


def test_its_setting_is_a_setting_and_has_its_default() -> None:
    assert "`replica_wait`" in PAGE
    assert Settings.model_fields["replica_wait"].default == 0
