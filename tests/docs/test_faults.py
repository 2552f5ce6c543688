"""The page on faults: its statement, which tells a restored catalog of a tenant that it has forgotten, works."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "faults.md"


def forgotten_tenant(slug: str, key: str, database: str) -> str:
    """The statement of the page, for a tenant."""
    block = re.search(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return block[1].replace("'late'", f"'{slug}'").replace("'4711'", f"'{key}'").replace("'tenantry'", f"'{database}'")
