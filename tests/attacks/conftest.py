"""Attacks on the wall: each test carries the number of its case, and whether it is refused."""

from __future__ import annotations

import pytest

from tests.attacks.attacker import Attacker
from tests.fixtures.walls import Wall


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "attack(case, name, state='refused', reason=None): a case of docs/reference/attacks.md; state is refused or"
        " residual, and what is residual has a reason",
    )


@pytest.fixture
def attacker(wall: Wall) -> Attacker:
    """Bound to tenant A."""
    return Attacker(wall, wall.bound())


@pytest.fixture
def stranger(wall: Wall) -> Attacker:
    """Bound to nobody."""
    return Attacker(wall, wall.unbound())
