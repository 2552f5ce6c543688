"""The page of attacks is what the tests say, and the tests are what the catalogue asks for."""

from __future__ import annotations

import pytest

from tests.attacks.not_tried import CATALOGUE, NOT_TRIED
from tools.attacks_page import Case, main, sections

CASES = [case for section in sections() for case in section.cases]


def test_the_page_is_what_the_tests_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_has_fallen_behind_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.attacks.not_tried.NOT_TRIED", {})
    assert main(["--check"]) == 1
    assert "python -m tools.attacks_page" in capsys.readouterr().err


def test_every_case_of_the_catalogue_is_tried_or_says_why_not() -> None:
    tried = {case.case for case in CASES}
    assert CATALOGUE - tried == set(NOT_TRIED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.test)
def test_a_case_is_complete(case: Case) -> None:
    assert case.test.startswith(f"test_{case.case.lower()}_")
    assert case.name
    assert case.tried
    assert case.state in ("refused", "residual")
    assert bool(case.reason) == (case.state == "residual")
    assert case.case in CATALOGUE or case.case >= "I201"
