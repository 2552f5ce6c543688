"""The navigation of the documentation is its tree: a hook of MkDocs, so that a new page needs no list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECTIONS: Mapping[str, str] = {
    "tutorial": "Tutorial",
    "howto": "How-to guides",
    "reference": "Reference",
    "explanation": "Explanation",
    "lints": "Lints",
    "decisions": "Decisions",
}

Entry = str | dict[str, Any]


def on_config(config: Any) -> Any:
    """Called by MkDocs before it builds."""
    config["nav"] = nav(Path(config["docs_dir"]))
    return config


def nav(docs: Path) -> list[Entry]:
    """Pages at the top, then the sections in their order; in each, the index first and the rest by name."""
    known = [{title: _pages(docs, docs / folder)} for folder, title in SECTIONS.items() if (docs / folder).is_dir()]
    return [*_files(docs, docs), *known]


def _pages(docs: Path, folder: Path) -> list[Entry]:
    folders = sorted(inner for inner in folder.iterdir() if inner.is_dir() and any(inner.rglob("*.md")))
    return [*_files(docs, folder), *({inner.name.capitalize(): _pages(docs, inner)} for inner in folders)]


def _files(docs: Path, folder: Path) -> list[Entry]:
    found = sorted(folder.glob("*.md"), key=lambda file: (file.name != "index.md", file.name))
    return [file.relative_to(docs).as_posix() for file in found]
