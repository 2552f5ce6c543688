from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.postgres.server import LocalServer


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can walk into, unlike ``tmp_path`` of root."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def directory(open_folder: Path) -> Iterator[Path]:
    """Where a server may keep its data; what is left of it is stopped and removed after the test."""
    kept = open_folder / "kept"
    yield kept
    if (kept / "server").is_dir():
        LocalServer(kept).remove()
