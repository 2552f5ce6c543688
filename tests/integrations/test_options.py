"""What an engine takes, and what is missing when a library is not installed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tenantry import AsyncRouter, Router, Settings
from tenantry.errors import InvalidInput
from tenantry.integrations.sqlalchemy import create_async_engine, create_engine
from tenantry.integrations.sqlalchemy.engine import _ROUTER_DECIDES

SETTINGS = Settings(catalog="dbname=nowhere")


@pytest.mark.parametrize("option", _ROUTER_DECIDES)
def test_what_the_router_decides_is_refused_with_a_hint(option: str) -> None:
    options: dict[str, Any] = {option: 1}
    with pytest.raises(InvalidInput, match=f"'{option}'") as caught:
        create_engine(Router(SETTINGS), **options)
    assert caught.value.hint == _ROUTER_DECIDES[option]
    with pytest.raises(InvalidInput, match=f"'{option}'"):
        create_async_engine(AsyncRouter(SETTINGS), **options)


@pytest.mark.parametrize("router", [None, "acme", object(), AsyncRouter(SETTINGS)])
def test_an_engine_takes_a_router_of_its_kind(router: Any) -> None:
    with pytest.raises(InvalidInput, match="is no Router"):
        create_engine(router)


def test_an_async_engine_takes_an_async_router() -> None:
    with pytest.raises(InvalidInput, match="is no AsyncRouter"):
        create_async_engine(Router(SETTINGS))  # type: ignore[arg-type]


def test_an_engine_in_autocommit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="AUTOCOMMIT"):
        create_engine(Router(SETTINGS), isolation_level="autocommit")


def test_an_option_that_sqlalchemy_does_not_know_is_refused_by_sqlalchemy() -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        create_engine(Router(SETTINGS), no_such_option=True)


def test_options_of_sqlalchemy_are_taken() -> None:
    engine = create_engine(Router(SETTINGS), echo=False, pool_recycle=60, isolation_level="SERIALIZABLE")
    assert engine.pool._recycle == 60
    assert "0 of 50" in engine.pool.status()


@pytest.mark.parametrize(
    ("module", "blocked", "extra"), [("sqlalchemy", "sqlalchemy", "sqlalchemy"), ("fastapi", "fastapi", "fastapi")]
)
def test_a_library_that_is_not_there_is_named_with_the_command_that_installs_it(
    module: str, blocked: str, extra: str
) -> None:
    code = f"""
import sys
sys.modules[{blocked!r}] = None
from tenantry.errors import MissingDependency
try:
    import tenantry.integrations.{module}
except MissingDependency as error:
    assert error.hint == "pip install 'tenantry[{extra}]'", error.hint
else:
    raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_middleware_needs_no_framework() -> None:
    code = """
import sys
for name in ("starlette", "fastapi", "sqlalchemy"):
    sys.modules[name] = None
import tenantry.integrations.asgi
"""
    subprocess.run([sys.executable, "-c", code], check=True)
