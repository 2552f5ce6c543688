from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def client(tenantry_settings: object) -> Iterator[TestClient]:
    with TestClient(import_module("shop").app) as client:
        yield client
