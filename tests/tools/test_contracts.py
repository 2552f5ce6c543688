from __future__ import annotations

from pathlib import Path

import grimp
import pytest

from tools import contracts
from tools.contracts import PureContract, pure_modules, says_pure


def chains(graph: grimp.ImportGraph) -> list[tuple[str, ...]]:
    contract = PureContract("pure", {"root_packages": ["a"]}, {"forbidden_modules": ["time", "socket"]})
    found: list[tuple[str, ...]] = contract.check(graph, verbose=False).metadata["chains"]
    return found


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> grimp.ImportGraph:
    monkeypatch.setattr(contracts, "pure_modules", lambda: {"a.pure"})
    made = grimp.ImportGraph()
    for module in ("a", "a.pure", "a.other", "a.shell", "time"):
        made.add_module(module)
    made.add_import(importer="a.shell", imported="time")
    made.add_import(importer="a.pure", imported="a.other")
    return made


def test_the_word_counts_only_at_the_end_of_the_first_line() -> None:
    assert says_pure('"""Rows to data. Pure.\n\nMore.\n"""')
    assert not says_pure('"""Rows to data.\n\nPure.\n"""')
    assert not says_pure("x = 1")


def test_modules_and_packages_are_named_as_they_are_imported(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/__init__.py", "a/c.py"):
        (tmp_path / name).write_text('"""Pure."""')
    assert pure_modules(tmp_path) == {"a.b", "a.c"}


def test_a_pure_module_may_import_what_does_no_io(graph: grimp.ImportGraph) -> None:
    assert chains(graph) == []


def test_a_pure_module_may_not_reach_io_through_another(graph: grimp.ImportGraph) -> None:
    graph.add_import(importer="a.other", imported="a.shell")
    assert chains(graph) == [("a.pure", "a.other", "a.shell", "time")]
