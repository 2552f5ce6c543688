from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class Campaign(Base):
    __tablename__ = "campaign"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
"""


def test_the_code_of_the_readme_has_the_types_that_it_needs(tmp_path: Path) -> None:
    if not (ROOT / "src/tenantry/integrations/sqlalchemy").exists():
        pytest.skip("the integrations are not built yet")
    program = tmp_path / "readme_application.py"
    program.write_text("\n".join([BLOCKS[0], MODELS, *BLOCKS[1:]]))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_code_above_the_fold_is_about_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 12
