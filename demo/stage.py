"""The stage: two servers, a catalog, two shards, plans, and the companies as tenants of all levels."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from demo.data import Company, Dataset
from demo.models import MODELS
from demo.queries import row_counts
from tenantry import AsyncRouter, Isolation, Settings, Tenant
from tenantry.errors import Conflict, InvalidInput, InvalidSettings
from tenantry.integrations.sqlalchemy import create_async_engine
from tenantry.model import TenantKey
from tenantry.postgres.server import THROWAWAY, LocalServer
from tenantry.service import house, plan, shard, tenant
from tenantry.service.control import Control
from tenantry.settings import load

CATALOG = "tenantry_catalog"
TEMPLATE = "sqlalchemy:demo.models:Base.metadata"
MAIN, SECOND = "main", "second"
COLUMN = "company_id"


class Stage:
    """Where everything of one run lives.

    Args:
        keep: a folder for it, kept afterwards and used again; None: temporary, and removed.
    """

    def __init__(self, keep: Path | None = None) -> None:
        self.is_kept = keep is not None
        self._folder = None if keep is None else keep.absolute()
        self._folders: list[Path] = []
        settings = None if keep is not None else THROWAWAY
        self.servers = {
            name: LocalServer(None if keep is None else keep.absolute() / name, settings=settings)
            for name in (MAIN, SECOND)
        }

    @property
    def folder(self) -> Path:
        """What everything is in; a temporary one is made when it is first asked for."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tenantry-demo-"))
        return self._folder

    @property
    def config(self) -> Path:
        """The settings file of the house; it holds passwords."""
        return self.folder / "tenantry.toml"

    def start(self) -> None:
        """Start the servers, side by side.

        Raises:
            InvalidInput: the folder can't be made.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = f"the folder can't be made: {error.strerror}"
            raise InvalidInput(reason, where=str(self.folder), hint="name another one with --keep") from None
        with ThreadPoolExecutor() as threads:
            starts = [threads.submit(server.start) for server in self.servers.values()]
            try:
                wait(starts)
            finally:  # an interrupt ends the first wait, and nothing may be stopped while it still starts
                wait(starts)
        for start in starts:
            start.result()
        self._folders = [server.directory for server in self.servers.values()]

    def close(self) -> None:
        """Stop the servers, and remove everything unless it is kept."""
        try:
            for server in self.servers.values():
                server.stop("fast" if self.is_kept else "immediate")
        finally:
            if not self.is_kept and self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def leftovers(self) -> list[Path]:
        """What is still there after :meth:`close`, and should not be."""
        return [] if self.is_kept else [path for path in (self._folder, *self._folders) if path and path.exists()]

    def settings(self) -> Settings:
        """The control plane's settings: from the file, or for a catalog that is still to be made."""
        forget_environment(self.config)
        if self.config.exists():
            return load()
        catalog = self.servers[MAIN].dsn(CATALOG, tcp=True)
        return Settings(catalog=catalog, control=catalog, template=TEMPLATE)

    def write_config(self, catalog: str, control: str) -> None:
        """Write the settings file, so that ``tenantry`` works on this house too."""
        lines = [f"catalog = '{catalog}'", f"control = '{control}'", f"template = '{TEMPLATE}'"]
        self.config.touch(mode=0o600)
        self.config.write_text("\n".join(lines) + "\n", "utf-8")


def forget_environment(config: Path) -> None:
    """The demo has a house of its own, whatever house the environment or the working directory speaks of."""
    ours = {f"TENANTRY_{name.upper()}" for name in Settings.model_fields}
    for name in [name for name in os.environ if name.upper() in ours]:
        del os.environ[name]
    os.environ["TENANTRY_CONFIG"] = str(config)


def application_settings(control: Settings) -> Settings:
    """What the application gets to know: how to read the catalog, and nothing else."""
    return Settings(catalog=control.catalog, control=None, template=None)


async def found(stage: Stage) -> tuple[Settings, str]:
    """Make the catalog, unless it is there; the settings of the control plane, and a note.

    Raises:
        InvalidSettings: there is a catalog, but its settings file is gone.
    """
    settings = stage.settings()
    await house.create_database(settings.control_dsn)
    async with Control(settings, actor="demo") as control:
        made = await house.init(control, tenant_column=COLUMN)
    if made.catalog_dsn is not None:
        stage.write_config(made.catalog_dsn, settings.control_dsn)
    elif not stage.config.exists():
        raise InvalidSettings(
            "the servers hold a catalog, but its settings file is gone",
            where=str(stage.config),
            hint="remove the folder, or name another one with --keep",
        )
    note = f"{len(made.migrations)} migrations, tenant column {COLUMN}" if made.migrations else "was there already"
    return stage.settings(), note


async def add_shards(control: Control, servers: dict[str, LocalServer]) -> list[str]:
    """Take the servers in, the second one for tenants that are sent there by name; the names of those that are new."""
    known = {each.name for each, _, _ in await shard.listing(control)}
    new = [name for name in servers if name not in known]
    for name in new:
        await shard.add(control, name, servers[name].dsn(tcp=True), dedicated=name == SECOND)
    return new


async def warm_up(control: Control) -> int:
    """Keep one schema and one database ready, so that a tenant that needs one only has to take it.

    Returns:
        How many homes had to be built.
    """
    for name in ("business", "enterprise"):
        await plan.change(control, name, warm=1)
    return await house.refill(control)


@dataclass
class Resident:
    """A company that has become a tenant.

    Attributes:
        created: seconds from the call to the working tenant; 0 if it was there already.
        loaded: seconds in which its rows were written; 0 if they were there.
    """

    company: Company
    tenant: Tenant
    created: float = 0.0
    loaded: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """See :func:`level_of`."""
        return level_of(self.tenant)

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        at = self.tenant.placement
        assert at is not None
        return {
            "slug": self.tenant.slug,
            "level": self.level,
            "plan": self.tenant.plan,
            "shard": at.shard,
            "database": at.database,
            "schema": at.schema,
            "onboarded_seconds": round(self.created, 4),
            "loaded_seconds": round(self.loaded, 4),
            "rows": self.counts,
        }


def level_of(resident: Tenant) -> str:
    """A tenant's isolation for people: a database on the second shard is called dedicated."""
    assert resident.placement is not None
    return "dedicated" if resident.placement.shard == SECOND else str(resident.placement.isolation)


def choose(companies: Sequence[Company]) -> list[tuple[Company, str, str | None]]:
    """Who gets which plan, and on which shard: the largest needs its own server, most are fine in shared tables."""
    by_size = sorted(companies, key=lambda company: (-sum(company.counts.values()), company.key))
    upper = {company.key: choice for company, choice in zip(by_size, _UPPER, strict=False)}
    return [(company, *upper.get(company.key, ("free", None))) for company in companies]


_UPPER = (("enterprise", SECOND), ("enterprise", MAIN), ("business", MAIN))


async def onboard(control: Control, dataset: Dataset) -> list[Resident]:
    """Create a tenant for each company that is none yet; those in shared tables all at once.

    Raises:
        Conflict: the house has other companies under these keys.
    """
    known = {each.key: each async for each in tenant.iterate(control)}
    _refuse_others(known, dataset)
    residents = {key: Resident(company, known[key]) for key, company in _by_key(dataset) if key in known}
    missing = [choice for choice in choose(dataset.companies) if choice[0].key not in known]
    pooled = [company for company, plan_, _ in missing if plan_ == "free"]
    began = time.perf_counter()
    news = [tenant.NewTenant(company.slug, company.name, company.key) for company in pooled]
    for company, made in zip(pooled, await tenant.create_many(control, news) if news else (), strict=True):
        residents[company.key] = Resident(company, made, (time.perf_counter() - began) / len(pooled))
    for company, plan_, where in missing:
        if plan_ != "free":
            began = time.perf_counter()
            made = await tenant.create(
                control, company.slug, name=company.name, key=company.key, plan=plan_, shard=where
            )
            residents[company.key] = Resident(company, made, time.perf_counter() - began)
    return [residents[key] for key, _ in _by_key(dataset)]


def _by_key(dataset: Dataset) -> list[tuple[int, Company]]:
    return [(company.key, company) for company in dataset.companies]


def _refuse_others(known: Mapping[TenantKey, Tenant], dataset: Dataset) -> None:
    for key, company in _by_key(dataset):
        there = known.get(key)
        if there is not None and there.slug != company.slug:
            raise Conflict(
                f"the house holds {there.slug!r} where the data has {company.slug!r}",
                hint="use the data that it was filled with, or name another folder with --keep",
            )


async def load_rows(router: AsyncRouter, residents: Sequence[Resident]) -> None:
    """Write each company's rows in its own name, in one transaction; nothing where there are rows.

    The rows don't say whose they are, and the code doesn't say where they go.
    """
    engine = create_async_engine(router)
    try:
        for resident in residents:
            async with router.tenant_scope(resident.tenant.slug):
                await _load(async_sessionmaker(engine), resident)
    finally:
        await engine.dispose()


async def _load(sessions: async_sessionmaker[AsyncSession], resident: Resident) -> None:
    began = time.perf_counter()
    async with sessions.begin() as session:
        if not any((await row_counts(session)).values()):
            for model in MODELS:
                if rows := resident.company.rows[model.__tablename__]:
                    await session.execute(insert(model), rows)
            resident.loaded = time.perf_counter() - began
        resident.counts = await row_counts(session)


@asynccontextmanager
async def router_of(settings: Settings) -> AsyncIterator[AsyncRouter]:
    """The application's router."""
    async with AsyncRouter(application_settings(settings)) as router:
        yield router


LEVELS = {
    "pooled": (Isolation.POOLED, "shared tables; its own rows"),
    "schema": (Isolation.SCHEMA, "shared database; its own tables"),
    "database": (Isolation.DATABASE, "shared server; its own database"),
    "dedicated": (Isolation.DATABASE, "its own server"),
}
"""The levels in their order, with what is shared and what is a tenant's own."""
