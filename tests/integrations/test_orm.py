"""The ORM: new rows get the tenant column, statements name the tenant, a session belongs to one tenant at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, delete, event, func, insert, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, aliased, joinedload, selectinload, sessionmaker, subqueryload

from tenantry import AsyncRouter, Router, Tenant
from tenantry.errors import CrossedTenants, NoTenant
from tenantry.integrations.sqlalchemy import create_engine
from tests.fixtures.house import House
from tests.integrations.shop import Country, Customer, Order

Sent = list[tuple[str, Any]]
LOADERS = [selectinload, joinedload, subqueryload, None]


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def sent(engine: Engine) -> Sent:
    """What goes to the database: statements with their parameters."""
    return watched(engine)


def watched(engine: Engine) -> Sent:
    log: Sent = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        log.append((" ".join(statement.split()), parameters))

    event.listen(engine, "before_cursor_execute", note)
    return log


@pytest.fixture
def tenant(sync_router: Router, mover: Tenant) -> Iterator[Tenant]:
    """A tenant without rows, and its scope."""
    with sync_router.tenant_scope(mover):
        yield mover


def fill(sessions: sessionmaker[Session], *notes: str) -> None:
    with sessions.begin() as session:
        session.add(Customer(email="a@example.com", orders=[Order(note=note) for note in notes]))


def test_new_rows_get_the_tenant_also_through_relationships(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        customer = Customer(email="a@example.com", orders=[Order(note="1"), Order(note="2")])
        session.add(customer)
        session.flush()
        assert {customer.tenant_id, *(order.tenant_id for order in customer.orders)} == {tenant.key}


def test_the_tenants_own_key_may_be_given(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        session.add(Order(tenant_id=tenant.key, note="mine"))


def test_a_row_for_another_tenant_is_refused(sessions: sessionmaker[Session], tenant: Tenant, sent: Sent) -> None:
    with sessions() as session:
        session.add(Order(tenant_id=int(tenant.key) + 1, note="yours"))
        with pytest.raises(CrossedTenants) as caught:
            session.flush()
    assert caught.value.where == "Order.tenant_id"
    assert not sent


def test_a_row_can_not_be_given_to_another_tenant(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    fill(sessions, "1")
    with sessions() as session:
        order = session.scalars(select(Order)).one()
        order.tenant_id += 1
        with pytest.raises(CrossedTenants):
            session.flush()


def test_objects_of_one_tenant_are_not_deleted_in_the_scope_of_another(
    sessions: sessionmaker[Session], tenant: Tenant, sync_router: Router
) -> None:
    fill(sessions, "1")
    with sessions() as session:
        order = session.scalars(select(Order)).one()
        session.expunge(order)
    with sync_router.tenant_scope("pooled-b"), sessions() as session:
        session.add(order)
        session.delete(order)
        with pytest.raises(CrossedTenants):
            session.flush()


@pytest.mark.parametrize("rows", [[{"note": "1"}, {"note": "2"}], {"note": "1"}])
def test_bulk_inserts_get_the_tenant(sessions: sessionmaker[Session], tenant: Tenant, sent: Sent, rows: Any) -> None:
    with sessions.begin() as session:
        session.execute(insert(Order), rows)
        sent_rows = sent[-1][1] if isinstance(rows, list) else [sent[-1][1]]
        assert {row["tenant_id"] for row in sent_rows} == {tenant.key}
        returned = session.scalars(insert(Order).returning(Order), [{"note": "3"}]).all()
        assert [(order.tenant_id, order.note) for order in returned] == [(tenant.key, "3")]
        assert set(session.scalars(select(Order.tenant_id))) == {tenant.key}


@pytest.mark.filterwarnings(f"ignore::{SAWarning.__module__}.{SAWarning.__name__}")
def test_other_inserts_get_the_tenant_from_the_database(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        session.execute(insert(Order).values(note="1"))
        session.execute(insert(Order).values([{"note": "2"}, {"note": "3"}]))
        session.execute(postgresql.insert(Customer).values(email="a@example.com").on_conflict_do_nothing())
        session.bulk_insert_mappings(Order, [{"note": "4"}])
        session.bulk_save_objects([Order(note="5")])
        assert list(session.scalars(select(Order.tenant_id))) == [tenant.key] * 5


def assert_named(sent: Sent, tenant: Tenant, *tables: str) -> None:
    statement, parameters = sent[-1]
    for table in tables:
        assert f"{table}.tenant_id = %(tenantry_tenant)s" in statement, statement
    assert parameters["tenantry_tenant"] == tenant.key


def test_statements_name_the_tenant(sessions: sessionmaker[Session], tenant: Tenant, sent: Sent) -> None:
    fill(sessions, "1", "2")
    other = aliased(Order)
    with sessions.begin() as session:
        assert len(session.scalars(select(Order)).all()) == 2
        assert_named(sent, tenant, "orders")
        assert session.scalar(select(func.count(Order.id)).where(Order.note == "1")) == 1
        assert_named(sent, tenant, "orders")
        assert session.execute(select(Customer.email, Order.note).join(Customer.orders)).all()
        assert_named(sent, tenant, "customers", "orders")
        assert session.execute(select(Order.id, other.id).join(other, Order.id < other.id)).all()
        assert_named(sent, tenant, "orders", "orders_1")
        assert session.scalars(select(Customer).where(select(Order).where(Order.note == "1").exists())).all()
        assert_named(sent, tenant, "customers", "orders")
        session.execute(update(Order).where(Order.note == "1").values(note="one"))
        assert_named(sent, tenant, "orders")
        session.execute(delete(Order).where(Order.note == "2"))
        assert_named(sent, tenant, "orders")
        assert session.scalars(select(Order.note)).all() == ["one"]


@pytest.mark.parametrize("loader", LOADERS)
def test_relationships_are_loaded_with_the_tenant_named(
    sessions: sessionmaker[Session], tenant: Tenant, sent: Sent, loader: Any
) -> None:
    fill(sessions, "1", "2")
    with sessions() as session:
        options = [loader(Customer.orders)] if loader else []
        customer = session.scalars(select(Customer).options(*options)).unique().one()
        assert [order.note for order in customer.orders] == ["1", "2"]
    assert sent[-1][1]["tenantry_tenant"] == tenant.key


def test_get_finds_rows_of_the_tenant_only(
    sessions: sessionmaker[Session], tenant: Tenant, sync_router: Router
) -> None:
    fill(sessions, "1")
    with sessions() as session:
        order = session.scalars(select(Order)).one()
        key = order.tenant_id, order.id
        assert session.get(Order, key) is order
    with sync_router.tenant_scope("pooled-b"), sessions() as session:
        assert session.get(Order, key) is None


def test_shared_tables_and_core_statements_are_left_as_they_are(
    sessions: sessionmaker[Session], tenant: Tenant, sent: Sent
) -> None:
    with sessions() as session:
        session.scalars(select(Country)).all()
        session.execute(select(Order.__table__)).all()
        session.execute(sa.text("SELECT * FROM orders")).all()
    assert all("tenantry_tenant" not in statement for statement, _ in sent)


def test_the_predicate_can_be_left_out(sync_router: Router, tenant: Tenant) -> None:
    engine = create_engine(sync_router, predicate=False)
    sent = watched(engine)
    with Session(engine) as session:
        session.add(Order(note="1"))
        session.flush()
        assert session.scalars(select(Order.tenant_id)).all() == [tenant.key]
    assert "WHERE" not in sent[-1][0]
    engine.dispose()


def test_cached_statements_do_not_keep_a_tenant(
    house: House, sessions: sessionmaker[Session], engine: Engine, sync_router: Router, sent: Sent
) -> None:
    cached = []
    for slug in (*house.tenants, *house.tenants):
        with sync_router.tenant_scope(slug) as tenant, sessions() as session:
            session.scalars(select(Customer).options(selectinload(Customer.orders))).all()
            session.execute(update(Order).where(Order.note == "nothing").values(note="x"))
            for _, parameters in sent:
                assert parameters["tenantry_tenant"] == tenant.key
            sent.clear()
        cached.append(len(engine._compiled_cache or ()))
    assert len(set(cached)) == 1


def test_a_session_with_an_open_transaction_is_refused_in_another_scope(
    sessions: sessionmaker[Session], tenant: Tenant, sync_router: Router
) -> None:
    fill(sessions, "1")
    with sessions() as session:
        order = session.scalars(select(Order)).one()
        with sync_router.tenant_scope("pooled-b"):
            for use in (
                lambda: session.scalars(select(Order)).all(),
                lambda: session.get(Order, (tenant.key, order.id + 1)),
                lambda: session.refresh(order),
                lambda: order.customer,
            ):
                with pytest.raises(CrossedTenants):
                    use()
        assert session.scalars(select(Order)).all() == [order]


def test_a_session_that_holds_objects_is_refused_in_another_scope_after_its_commit(
    sessions: sessionmaker[Session], tenant: Tenant, sync_router: Router
) -> None:
    """It would refresh them with rows of the other tenant that have the same ids."""
    fill(sessions, "1")
    with sessions() as session:
        order = session.scalars(select(Order)).one()
        session.commit()
        with sync_router.tenant_scope("pooled-b"), pytest.raises(CrossedTenants):
            session.refresh(order)
        session.rollback()
        assert order.note == "1"


def test_a_session_that_was_closed_serves_another_tenant(
    sessions: sessionmaker[Session], tenant: Tenant, sync_router: Router
) -> None:
    fill(sessions, "1")
    session = sessions()
    assert session.scalars(select(Order)).all()
    session.close()
    with sync_router.tenant_scope("pooled-b") as other:
        assert {each.tenant_id for each in session.scalars(select(Order))} <= {other.key}
        session.close()


def test_a_session_outside_of_a_scope_is_refused(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        with pytest.raises(NoTenant):
            session.scalars(select(Order)).all()
        session.add(Order(note="nobody's"))
        with pytest.raises(NoTenant):
            session.flush()


def test_sessions_of_other_engines_are_left_alone(house: House, tenant: Tenant) -> None:
    """Such as an operator's, over a plain engine."""
    assert tenant.placement
    dsn = house.servers[0].dsn(tenant.placement.database, tcp=True)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    sent = watched(engine)
    with Session(engine) as session:
        session.add(Order(tenant_id=int(tenant.key) + 1, note="x"))
        session.flush()
        session.scalars(select(Order)).all()
    assert "WHERE" not in sent[-1][0]
    engine.dispose()


@pytest.mark.anyio
async def test_async_sessions_do_the_same(router: AsyncRouter, async_engine: AsyncEngine, mover: Tenant) -> None:
    async with router.tenant_scope(mover):
        async with AsyncSession(async_engine) as session, session.begin():
            session.add(Customer(email="a@example.com", orders=[Order(note="1")]))
            await session.execute(insert(Order), [{"note": "2"}])
        async with AsyncSession(async_engine) as session:
            orders = (await session.scalars(select(Order).options(selectinload(Order.customer)))).all()
            assert {order.tenant_id for order in orders} == {mover.key}
            async with router.tenant_scope("pooled-b"):
                with pytest.raises(CrossedTenants):
                    await session.refresh(orders[0])
