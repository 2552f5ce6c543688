"""SQLAlchemy 2: one engine for all databases of a house.

    engine = create_async_engine(AsyncRouter())
    Session = async_sessionmaker(engine)

Each transaction begins where the tenant of the current scope lives, bound to it. See ``docs/howto/sqlalchemy.md``.
"""

from __future__ import annotations

from tenantry.errors import MissingDependency

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401
except ImportError:
    raise MissingDependency("sqlalchemy", "sqlalchemy") from None

from tenantry.integrations.sqlalchemy.engine import create_async_engine, create_engine

__all__ = ["create_engine", "create_async_engine"]
