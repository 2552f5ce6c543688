"""The page about testing is followed to the letter: its files make a suite that passes."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tenantry.testing import plugin

pytest_plugins = ["pytester"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "test-your-application.md"
EXAMPLE = Path(__file__).parent / "example"


def test_the_page_is_true(pytester: pytest.Pytester) -> None:
    shutil.copytree(EXAMPLE / "migrations", pytester.path / "migrations")
    shutil.copy(EXAMPLE / "shop.py", pytester.path)
    files = re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```$', PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(files) == 5
    for name, text in files:
        pytester.path.joinpath(name).write_text(text)
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:asyncio", "-p", "no:cacheprovider", timeout=100)
    result.assert_outcomes(passed=3)


def test_every_setting_and_fixture_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    settings = [*plugin._INI, "tenantry_shared_tables", "tenantry_environment"]
    fixtures = [name for name, value in vars(plugin).items() if type(value).__name__ == "FixtureFunctionDefinition"]
    public = [name for name in fixtures if not name.startswith("_")]
    assert len(public) == 7
    assert [name for name in (*settings, *public) if f"`{name}`" not in text] == []
