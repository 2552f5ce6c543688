"""The tenant column in the ORM: new rows get it, statements name it, and a session belongs to one tenant at a time.

The wall needs none of this: its policies guard every row, and the column's default is the bound tenant. The predicate
is for the planner, which prunes partitions and uses indexes by it where it can't by a policy alone. New rows get their
column here, because the ORM wants to know a primary key before the database tells it.

The listeners are on the class ``Session`` and do nothing for sessions of other engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Connection, Result, bindparam, event
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    registry,
)
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.interfaces import CriteriaOption
from sqlalchemy.orm.util import LoaderCriteriaOption
from sqlalchemy.sql.visitors import InternalTraversal

from tenantry.context import current_tenant
from tenantry.errors import CrossedTenants
from tenantry.integrations.sqlalchemy.pool import RoutedPool
from tenantry.model import TenantKey

PARAMETER = "tenantry_tenant"
"""The name of the parameter in the predicate."""

LITERAL = "tenantry_tenant_literal"
"""The same for partitioned tables, where the key itself stands in the statement: for a parameter PostgreSQL would plan
the statement anew each time, since it takes a plan for any tenant to read all partitions."""

_OWNER = "tenantry.owner"

_predicates: WeakKeyDictionary[registry, TenantPredicate] = WeakKeyDictionary()
_attributes: WeakKeyDictionary[Mapper[Any], tuple[str, str | None]] = WeakKeyDictionary()


class TenantPredicate(CriteriaOption):
    """Adds ``tenant column = current tenant`` to each use of a mapped class that has the column.

    The tenant is not part of a statement, nor of its key in the cache: it is the value of a parameter, asked for at
    each execution.
    """

    __slots__ = ("_column", "_criteria", "_registry")
    _cache_key_traversal = [("_column", InternalTraversal.dp_string)]  # noqa: RUF012  # SQLAlchemy's form
    propagate_to_loaders = False  # the load of a relationship is a statement of its own, and gets its own

    def __init__(self, mappers: registry, column: str) -> None:
        self._registry = mappers
        self._column = column
        self._criteria: WeakKeyDictionary[Mapper[Any], _Criterion | None] = WeakKeyDictionary()

    def process_compile_state(self, compile_state: Any) -> None:
        """SQLAlchemy's hook, called when a statement is not in its cache."""
        self.get_global_criteria(compile_state.global_attributes)

    def process_compile_state_replaced_entities(self, compile_state: Any, mapper_entities: Any) -> None:
        """The same for ``with_only_columns()``."""
        self.get_global_criteria(compile_state.global_attributes)

    def get_global_criteria(self, attributes: dict[Any, Any]) -> None:
        """The same for UPDATE and DELETE."""
        if attributes.setdefault((PARAMETER, self._registry), self) is not self:
            return
        for mapper in self._registry.mappers:
            if mapper not in self._criteria:
                self._criteria[mapper] = _criterion(mapper, self._column)
            criterion = self._criteria[mapper]
            if criterion is not None:
                criterion.get_global_criteria(attributes)


def tenant_attribute(mapper: Mapper[Any], column: str) -> str | None:
    """The name of the attribute that a mapped class has for the tenant column; None if it has none."""
    known = _attributes.get(mapper)
    if known is None or known[0] != column:
        names = (name for name, each in mapper.columns.items() if getattr(each, "name", None) == column)
        known = _attributes[mapper] = column, next(names, None)
    return known[1]


class _Criterion(LoaderCriteriaOption):
    """SQLAlchemy's criterion for a class, made anew for each alias of the class."""

    __slots__ = ("_attribute", "_value")

    def __init__(self, mapper: Mapper[Any], attribute: str) -> None:
        kind = mapper.columns[attribute].type
        self._attribute = attribute
        parted = _is_partitioned(mapper)
        self._value = bindparam(
            LITERAL if parted else PARAMETER,
            callable_=lambda: _as_mapped(kind, current_tenant().key),
            type_=kind,
            literal_execute=parted,
        )
        super().__init__(mapper, getattr(mapper.class_, attribute) == self._value, include_aliases=True)

    def _resolve_where_criteria(self, ext_info: Any) -> ColumnElement[bool]:
        where = getattr(ext_info.entity, self._attribute) == self._value
        return LoaderCriteriaOption(ext_info.entity, where)._resolve_where_criteria(ext_info)


def _criterion(mapper: Mapper[Any], column: str) -> _Criterion | None:
    attribute = tenant_attribute(mapper, column)
    inherited = mapper.inherits is not None and tenant_attribute(mapper.inherits, column) is not None
    return None if attribute is None or inherited else _Criterion(mapper, attribute)


def _is_partitioned(mapper: Mapper[Any]) -> bool:
    options: Any = getattr(mapper.local_table, "dialect_options", None)
    return options is not None and options["postgresql"].get("partition_by") is not None


def _as_mapped(kind: Any, key: TenantKey) -> TenantKey:
    """A key as the application's type of the column has it: some keep UUIDs as text."""
    return str(key) if getattr(kind, "as_uuid", None) is False else key


def _pool_of(session: Session, **arguments: Any) -> RoutedPool | None:
    pool = session.get_bind(**arguments).engine.pool
    return pool if isinstance(pool, RoutedPool) else None


@event.listens_for(Session, "do_orm_execute")
def _name_tenant(state: ORMExecuteState) -> Result[Any] | None:
    mapper = state.bind_mapper
    if mapper is None or state.is_column_load:
        return None
    pool = _pool_of(state.session, **state.bind_arguments)
    if pool is None:
        return None
    if state.is_insert:
        return _insert(state, mapper, pool.house().tenant_column)
    if pool.predicate and (state.is_select or state.is_update or state.is_delete):
        predicate = _predicates.get(mapper.registry)
        if predicate is None:
            predicate = TenantPredicate(mapper.registry, pool.house().tenant_column)
            _predicates[mapper.registry] = predicate
        state.statement = state.statement.options(predicate)
    return None


def _insert(state: ORMExecuteState, mapper: Mapper[Any], column: str) -> Result[Any] | None:
    """Rows given as parameters get the column here; rows in ``values()`` get it from the database."""
    attribute = tenant_attribute(mapper, column)
    parameters = state.parameters
    if attribute is None or not parameters:
        return None
    key = _as_mapped(mapper.columns[attribute].type, current_tenant().key)
    if isinstance(parameters, Mapping):
        return None if attribute in parameters else state.invoke_statement(params={attribute: key})
    if any(attribute in row for row in parameters):
        return None
    return state.invoke_statement(params=[{attribute: key}] * len(parameters))


@event.listens_for(Session, "before_flush")
def _fill_in(session: Session, context: Any, instances: Any) -> None:
    for instance in session.new:
        state = instance_state(instance)
        attribute = _attribute_of(session, state)
        if attribute is not None:
            expected = _expected(state, attribute)
            if state.dict.get(attribute) is None:
                setattr(instance, attribute, expected)
            _check(state, attribute, expected)
    for instance in [*session.dirty, *session.deleted]:
        state = instance_state(instance)
        attribute = _attribute_of(session, state)
        if attribute is not None and attribute in state.dict:
            _check(state, attribute, _expected(state, attribute))


def _attribute_of(session: Session, state: InstanceState[Any]) -> str | None:
    mapper = state.mapper
    pool = _pool_of(session, mapper=mapper)
    return None if pool is None else tenant_attribute(mapper, pool.house().tenant_column)


def _expected(state: InstanceState[Any], attribute: str) -> TenantKey:
    return _as_mapped(state.mapper.columns[attribute].type, current_tenant().key)


def _check(state: InstanceState[Any], attribute: str, expected: TenantKey) -> None:
    if state.dict[attribute] != expected:
        raise CrossedTenants(
            f"a {state.class_.__name__} of another tenant was flushed in the scope of {current_tenant().slug!r}",
            where=f"{state.class_.__name__}.{attribute}",
            hint="leave the column alone: it is filled in; work for another tenant in a scope and a session of its own",
        )


@event.listens_for(Session, "after_begin")
def _belong(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """What a session has loaded for one tenant must not be refreshed with another tenant's rows of the same id."""
    if not isinstance(connection.engine.pool, RoutedPool):
        return
    tenant = current_tenant()
    if session.info.get(_OWNER, tenant.id) != tenant.id and len(session.identity_map):
        raise CrossedTenants("a session that holds objects of one tenant was used in the scope of another")
    session.info[_OWNER] = tenant.id
