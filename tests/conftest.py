"""What every test can use. Fixtures live in ``tests/fixtures``, one file per subject."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.servers",
    "tests.fixtures.walls",
    "tests.fixtures.house",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.workers",
]

# Started in the background, a shell's children ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A property that talks to a database takes as long as it takes; CI must fail for a reason that anybody can repeat.
settings.register_profile("tenantry", deadline=None, max_examples=50, derandomize="CI" in os.environ)
settings.load_profile("tenantry")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio: psycopg knows no other loop."""
    return "asyncio"
