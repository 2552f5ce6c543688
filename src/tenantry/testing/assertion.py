"""``assert_no_leak``: what the tenants of a test can see of each other, and what the application shows of one to
another."""

from __future__ import annotations

import contextvars
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from tenantry.context import current_scope
from tenantry.errors import InvalidInput, TenantryError
from tenantry.model import Mode, Tenant, shown
from tenantry.perimeter.names import quoted
from tenantry.routing.router import Router
from tenantry.testing.facts import Facts
from tenantry.testing.fill import Filler, Home, Unfilled
from tenantry.testing.house import HouseUnderTest, TwoTenants
from tenantry.testing.inspect import identifier, read
from tenantry.testing.look import Look
from tenantry.testing.report import Leak, Report, Unchecked, counted
from tenantry.testing.secrets import Secrets, texts
from tenantry.testing.sight import Sight

_SHOWN = 3


class AssertNoLeak:
    """The fixture. A call fills the tables of both tenants and looks::

        assert_no_leak()
        with assert_no_leak(acme) as leak:
            leak.in_(client.get("/orders"))

    Args:
        house: of the tests.
        tenants: between whom to look.
        router: of this object's own.
    """

    def __init__(self, house: HouseUnderTest, tenants: TwoTenants, router: Router) -> None:
        self.house = house
        self.tenants = tenants
        self.secrets = Secrets()
        self._router = router

    @classmethod
    @contextmanager
    def open(cls, house: HouseUnderTest, tenants: TwoTenants) -> Iterator[Self]:
        """For the length of a test."""
        with Router(house.settings) as router:
            yield cls(house, tenants, router)

    def __call__(self, acting: Tenant | None = None, *, allow: Sequence[str] = (), fill: bool = True) -> Guarded:
        """Look now, and if the result is used as a block, once more when that ends.

        Args:
            acting: for whom the application works inside of the block; then the other's rows must not change, and
                nothing of the other may be logged.
            allow: tables, views and functions that need not be looked at: without them it is a failure if one can't be.
            fill: give each tenant a row in each table first; else the test's own rows are all there is.

        Raises:
            AssertionError: something leaks, or could not be looked at.
            InvalidInput: the acting tenant is none of the two.
        """
        __tracebackhide__ = True
        if acting is not None and acting.id not in {each.id for each in self.tenants}:
            names = " and ".join(each.slug for each in self.tenants)
            raise InvalidInput(f"{shown(acting)} is none of the two tenants", hint=f"they are {names}")
        unfilled = contextvars.Context().run(self._prepare, fill)
        report = self.look(unfilled)
        self.refuse(report, allow)
        return Guarded(self, acting, tuple(allow), unfilled, report)

    def refuse(self, report: Report, allow: Sequence[str]) -> None:
        """Fail if a report is not good."""
        __tracebackhide__ = True
        if report.leaks or report.without(allow):
            raise AssertionError(report.text(self._between(), allow))

    def other(self, tenant: Tenant) -> Tenant:
        """The one that a tenant must not see.

        Raises:
            InvalidInput: it is none of the two.
        """
        acme, globex = self.tenants
        if tenant.id not in (acme.id, globex.id):
            raise InvalidInput(f"{tenant.slug!r} is none of the two tenants", hint=f"use {acme.slug} or {globex.slug}")
        return globex if tenant.id == acme.id else acme

    def homes(self) -> list[Home]:
        """Where the two live, and what can be reached there now."""
        schemas: dict[str, list[str]] = {}
        for tenant in self.tenants:
            schemas.setdefault(_database(tenant), []).append(_schema(tenant))
        query = "SELECT schema FROM tenantry_catalog.spaces WHERE database = %s"
        facts: dict[str, Facts] = {}
        for database, own in schemas.items():
            rows = self.house.root(self.house.server.catalog).execute(query, (database,)).fetchall()
            homes = [name for (name,) in rows]
            facts[database] = read(self.house.root(database), self.house.house.tenant_column, own, homes)
        return [Home(each, self.house.root(_database(each)), facts[_database(each)]) for each in self.tenants]

    def _prepare(self, fill: bool) -> Unfilled:
        unfilled: Unfilled = {}
        for home in self.homes():
            filler = Filler(home, self.house.house.tenant_column, self.secrets)
            if fill:
                unfilled.update(filler.fill(self._router))
            filler.take()
        return unfilled

    def look(self, unfilled: Unfilled) -> Report:
        """Look in both directions, and as nobody.

        Args:
            unfilled: for each table that took no row, why.
        """
        return contextvars.Context().run(self._look, unfilled)

    def _look(self, unfilled: Unfilled) -> Report:
        report = Report()
        homes = self.homes()
        for viewer, other in (homes, homes[::-1]):
            with self._router.transaction(viewer.tenant) as conn:
                settings = self.house.control_settings
                column = self.house.house.tenant_column
                Look(Sight(viewer, other, conn, column, settings.shared_tables, self.secrets, report)).all()
            self._as_nobody(viewer, report)
            self._in_the_others_database(viewer, other, report)
        self._note_emptiness(homes, unfilled, report)
        for relation in homes[0].facts.relations:
            kind = "table" if relation.is_table else "view"
            report.looked_at[kind] += 1
        report.looked_at["function"] += len(homes[0].facts.functions)
        report.unchecked = list(dict.fromkeys(report.unchecked))
        self._explain(homes, report)
        return report

    def _as_nobody(self, home: Home, report: Report) -> None:
        route = self._router.route(home.tenant, Mode.READ_WRITE, self._router.view.fleet())
        with psycopg.connect(route.target.dsn) as conn:
            for relation in home.facts.relations:
                if not relation.has_tenant or relation.kind == "m":
                    continue
                report.attempts += 1
                try:
                    with conn.transaction():
                        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(identifier(relation))).fetchone()
                except psycopg.errors.InsufficientPrivilege:
                    continue
                except psycopg.Error as error:
                    why = str(error).strip().partition("\n")[0]
                    report.unchecked.append(Unchecked(relation.name, f"it can't be read without a tenant: {why}"))
                    continue
                if row is not None and row[0]:
                    report.leaks.append(
                        Leak(relation.name, f"bound to no tenant, SELECT reads {counted(row[0], 'row')}")
                    )

    def _in_the_others_database(self, viewer: Home, other: Home, report: Report) -> None:
        """Bind there with a good token of the viewer's."""
        if viewer.database == other.database:
            return
        fleet = self._router.view.fleet()
        target = self._router.target(other.tenant, fleet)
        mint = self._router.mint(viewer.tenant, target, Mode.READ_WRITE, fleet)
        report.attempts += 1
        try:
            with psycopg.connect(target.dsn) as conn:
                conn.execute("SELECT tenantry.bind_v1(%s)", (mint(conn.info.backend_pid),))
        except psycopg.Error:
            return
        what = f"{viewer.tenant.slug} can be bound in the database of {other.tenant.slug}"
        report.leaks.append(Leak(other.database, what, "it is among the residents there", "DELETE it from them"))

    def _note_emptiness(self, homes: Sequence[Home], unfilled: Unfilled, report: Report) -> None:
        for home in homes:
            for table in home.tables():
                query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} = {})").format(
                    identifier(table),
                    sql.Identifier(self.house.house.tenant_column),
                    sql.Literal(home.tenant.key),
                )
                row = home.root.execute(query).fetchone()
                if row is not None and not row[0]:
                    why = unfilled.get((home.tenant.slug, table.name)) or f"{home.tenant.slug} has no row there"
                    report.unchecked.append(Unchecked(table.name, why))

    def _explain(self, homes: Sequence[Home], report: Report) -> None:
        """Let the perimeter say what is wrong with a place that leaks."""
        if not report.leaks:
            return
        reasons: dict[str, dict[str, str]] = defaultdict(dict)
        for home in homes:
            schemas = sorted({each.schema for each in homes if each.database == home.database})
            try:
                plan = self.house.plan(home.database, schemas)
            except (TenantryError, psycopg.Error):  # it says why; that it can't does not change what was found
                continue
            places = {quoted(each.schema, each.name): each.name for each in home.facts.relations}
            for finding in plan.findings:
                reasons[places.get(finding.object, finding.object)][finding.what] = finding.fix
            for change in plan.changes:
                if " must " not in change.why:  # a right that is missing lets nobody in
                    closes = "'tenantry perimeter apply' closes it"
                    reasons[places.get(change.object, change.object)][change.why] = closes
        for number, leak in enumerate(report.leaks):
            known = reasons.get(leak.place) or reasons.get(leak.place.rpartition(".")[2]) or {}
            why, fix = "; ".join(known), "; ".join(dict.fromkeys(known.values()))
            report.leaks[number] = Leak(leak.place, leak.what, leak.why or why, leak.fix or fix)

    def _between(self) -> str:
        acme, globex = self.tenants
        levels = [each.placement.isolation.value for each in self.tenants if each.placement is not None]
        return f"between {acme.slug} ({levels[0]}) and {globex.slug} ({levels[1]})"


class Guarded:
    """What a call of ``assert_no_leak`` returns: its report, and a block around the application's code.

    Attributes:
        report: of the look before the block.
    """

    def __init__(
        self,
        parent: AssertNoLeak,
        acting: Tenant | None,
        allow: tuple[str, ...],
        unfilled: Unfilled,
        report: Report,
    ) -> None:
        self.report = report
        self._parent = parent
        self._acting = acting
        self._allow = allow
        self._unfilled = unfilled
        self._before: dict[str, tuple[int, str]] = {}
        self._log = _Listener()

    def __enter__(self) -> Self:
        if self._acting is not None:
            self._before = self._state(self._parent.other(self._acting))
        self._log.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._log.stop()
        if kind is not None:
            return
        report = self._parent.look(self._unfilled)
        if self._acting is not None:
            self._compare(self._acting, report)
        self._parent.refuse(report, self._allow)

    def in_(self, *values: object, tenant: Tenant | None = None, empty: bool = False) -> None:
        """Assert that nothing of the other tenant stands in what the application gave.

        Args:
            values: texts, bytes, JSON, responses of test clients, objects of an ORM, exceptions, lists of all that.
            tenant: whom it was given to; None: the acting one, or that of the current scope.
            empty: whether it is meant that nothing of this tenant stands in it either; else that is a failure too,
                because a look at an error page finds no leak.

        Raises:
            AssertionError: something of the other does, or nothing of this one.
            InvalidInput: the tenant is not known, or none of the two.
        """
        __tracebackhide__ = True
        scope = current_scope()
        tenant = tenant or self._acting or (scope.tenant if scope is not None else None)
        if tenant is None:
            raise InvalidInput(
                "nobody said whom this was given to", hint="with assert_no_leak(acme) as leak, or in_(..., tenant=acme)"
            )
        other = self._parent.other(tenant)
        given = list(texts(values))
        if found := self._parent.secrets.found_in(given, other.slug):
            listed = ", ".join(map(str, found[:_SHOWN])) + (
                f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            )
            raise AssertionError(
                f"what the application gave {tenant.slug} holds {listed}\n"
                f"  do: look for a cache without the tenant in its key, for a connection that is not of the router,"
                f" for a global or a default argument that keeps what {other.slug} asked for\n"
                f"  it was: {shown(' '.join(given), 300)}"
            )
        if not empty and not self._parent.secrets.found_in(given, tenant.slug):
            raise AssertionError(
                f"what the application gave {tenant.slug} holds nothing of {tenant.slug} either:"
                f" was it the right page?\n"
                f"  do: ask for something that shows rows, or say that it is meant: in_(..., empty=True)\n"
                f"  it was: {shown(' '.join(given), 300)}"
            )

    def _compare(self, acting: Tenant, report: Report) -> None:
        other = self._parent.other(acting)
        for table, (count, _) in (after := self._state(other)).items():
            before, _ = self._before.get(table, (0, ""))
            if self._before.get(table) != after[table]:
                how = (
                    f"{counted(before, 'row')} before, {count:,} after"
                    if before != count
                    else "other values than before"
                )
                what = f"while the application worked for {acting.slug}, rows of {other.slug} changed: {how}"
                fix = "look for code that works with another connection than the router's"
                report.leaks.append(Leak(table, what, None, fix))
        if found := self._parent.secrets.found_in(self._log.lines, other.slug):
            what = f"while the application worked for {acting.slug}, it logged {', '.join(map(str, found[:_SHOWN]))}"
            report.leaks.append(Leak("the log", what))

    def _state(self, tenant: Tenant) -> dict[str, tuple[int, str]]:
        """How many rows a tenant has in each table, and a checksum over them."""
        home = next(each for each in self._parent.homes() if each.tenant.id == tenant.id)
        found = {}
        for table in home.tables():
            query = sql.SQL(
                "SELECT count(*), coalesce(md5(string_agg(r::text, '' ORDER BY r::text)), '') FROM {} r WHERE {} = {}"
            ).format(identifier(table), sql.Identifier(self._parent.house.house.tenant_column), sql.Literal(tenant.key))
            count, checksum = home.root.execute(query).fetchone() or (0, "")
            found[table.name] = (count, checksum)
        return found


class _Listener(logging.Handler):
    """Remembers what is logged, by anybody."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.lines.extend(texts(record.exc_info[1]))

    def start(self) -> None:
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        logging.getLogger().removeHandler(self)


def _database(tenant: Tenant) -> str:
    assert tenant.placement is not None
    return tenant.placement.database


def _schema(tenant: Tenant) -> str:
    assert tenant.placement is not None
    return tenant.placement.schema
