from __future__ import annotations

from pathlib import Path

from tools.docs_nav import SECTIONS, nav

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_index_comes_first_and_empty_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("a.md", "index.md", "howto/b.md", "howto/index.md", "howto/deep/c.md", "howto/assets/x.svg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert nav(tmp_path) == [
        "index.md",
        "a.md",
        {"How-to guides": ["howto/index.md", "howto/b.md", {"Deep": ["howto/deep/c.md"]}]},
    ]


def test_every_folder_of_the_documentation_has_a_section_and_an_index() -> None:
    folders = {file.relative_to(DOCS).parts[0] for file in DOCS.glob("*/**/*.md")}
    assert folders == set(SECTIONS)
    assert [name for name in SECTIONS if not (DOCS / name / "index.md").is_file()] == []
