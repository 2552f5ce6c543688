"""A tenant that writes all the time, and remembers what it was told has been written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tenantry import Router, TenantryError
from tenantry.model import Tenant
from tests.fixtures.house import House

_number = itertools.count(1)


class Ledger:
    """A tenant's book: each entry is a customer with one order, which is worth one.

    Args:
        threads: how many write at once.
        tolerant: whether requests may fail, as they do while a server is away.

    Attributes:
        acknowledged: the entries whose transaction was committed, as the application was told.
        unknown: those whose transaction failed: it may have been committed all the same.
        failures: what was raised and should not have been.
    """

    def __init__(self, town: House, tenant: Tenant, *, threads: int = 2, tolerant: bool = False) -> None:
        self.town = town
        self.tenant = tenant
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.failures: list[Exception] = []
        self._threads = threads
        self._tolerant = tolerant
        self._grown = threading.Condition()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends."""
        over = threading.Event()
        with Router(self.town.settings) as router:
            threads = [threading.Thread(target=self._write, args=(router, over)) for _ in range(self._threads)]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.join()

    def grow(self, entries: int = 20, seconds: float = 30) -> None:
        """Wait until so many entries more have been acknowledged."""
        with self._grown:
            wanted = len(self.acknowledged) + entries
            grown = self._grown.wait_for(lambda: len(self.acknowledged) >= wanted or self.failures, seconds)
        assert not self.failures, self.failures[0]
        assert grown, "the tenant stands still"

    def _write(self, router: Router, over: threading.Event) -> None:
        while not over.is_set():
            note = f"entry {next(_number)}"
            try:
                with router.tenant_scope(self.tenant.slug), router.transaction() as conn:
                    row = conn.execute("INSERT INTO customers (email) VALUES (%s) RETURNING id", (note,)).fetchone()
                    assert row is not None
                    conn.execute("INSERT INTO orders (customer_id, note) VALUES (%s, %s)", (row[0], note))
                    conn.execute("UPDATE orders SET amount = amount + 1 WHERE note = %s", (note,))
            except Exception as error:  # whatever it is, the test must hear of it
                if self._tolerant and isinstance(error, (TenantryError, psycopg.Error)):
                    self.unknown.append(note)
                    over.wait(0.05)
                    continue
                with self._grown:
                    self.failures.append(error)
                    self._grown.notify_all()
                return
            with self._grown:
                self.acknowledged.append(note)
                self._grown.notify_all()

    def check(self) -> None:
        """Each acknowledged entry is there once and whole, and nothing else is."""
        assert not self.failures, self.failures[0]
        with Router(self.town.settings) as router, router.tenant_scope(self.tenant.slug), router.transaction() as conn:
            orders = conn.execute("SELECT note, amount FROM orders").fetchall()
            customers = conn.execute("SELECT email FROM customers").fetchall()
        notes = [note for note, _ in orders]
        assert len(notes) == len(set(notes)), "entries are doubled"
        assert set(self.acknowledged) <= set(notes), "entries are lost"
        assert set(notes) <= {*self.acknowledged, *self.unknown}, "entries have come from nowhere"
        assert {amount for _, amount in orders} <= {1}
        assert sorted(email for (email,) in customers) == sorted(notes)
