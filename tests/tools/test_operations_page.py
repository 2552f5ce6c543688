from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tenantry.operations.kinds import KINDS
from tenantry.operations.steps import Kind
from tools import operations_page


def test_the_page_of_operations_is_what_the_steps_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["operations_page", "--check"])
    assert operations_page.main() == 0


def test_a_page_that_is_behind_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operations_page, "PAGE", tmp_path / "operations.md")
    monkeypatch.setattr(sys, "argv", ["operations_page", "--check"])
    assert operations_page.main() == 1
    assert "run 'python -m tools.operations_page'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["operations_page"])
    assert operations_page.main() == 0
    monkeypatch.setattr(sys, "argv", ["operations_page", "--check"])
    assert operations_page.main() == 0


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_each_operation_says_what_it_does_and_names_its_steps(kind: Kind) -> None:
    text = operations_page.page()
    section = text.partition(f"### `{kind.name}`")[2].partition("### ")[0]
    assert len(section.split("|")[0].strip()) > 10
    for step in kind.steps:
        assert f"| `{step.name}` |" in section
