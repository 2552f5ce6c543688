"""The pages about resolvers: their code runs, and nothing public is left out."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from tenantry import resolve
from tenantry.resolve.keys import ALGORITHMS

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = (DOCS / "reference" / "resolvers.md").read_text("utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["howto/resolve-tenants.md", "reference/resolvers.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(page: str) -> None:
    blocks = BLOCK.findall((DOCS / page).read_text("utf-8"))
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_reference_names_everything_public() -> None:
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", BLOCK.sub("", REFERENCE)))))
    assert [name for name in [*resolve.__all__, *ALGORITHMS] if name not in code] == []


def test_the_reference_has_a_row_for_every_resolver() -> None:
    rows = re.findall(r"^\| `(\w+)\(.*\| .*\|$", REFERENCE, re.MULTILINE)
    assert rows == list(resolve.RESOLVERS)


def test_the_reference_has_a_row_for_every_option_of_a_token() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", REFERENCE.partition("## Tokens")[2].partition("##")[0], re.MULTILINE)
    assert rows == list(signature(resolve.JwtClaim).parameters)
