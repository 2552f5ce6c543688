"""The demo from beginning to end, step by step."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from httpx2 import AsyncClient

from demo import attacks, data, look, sample, stage
from demo.app import DOMAIN, create_app
from demo.attacks import Attack, Attacker
from demo.front import Front
from demo.report import NotHeld, Report, Step
from demo.serve import ADDRESS, bind, serving
from demo.stage import LEVELS, MAIN, Resident, Stage
from demo.visit import change_all, visit_all
from demo.vulnerable import PATH, create_vulnerable_app
from tenantry import AsyncRouter
from tenantry.errors import PerimeterBroken
from tenantry.service import perimeter
from tenantry.service.access import all_tenants
from tenantry.service.control import Control

ROOT = Path(__file__).resolve().parents[1]
FULL_DATA = ROOT.parent / "shared" / "data" / "ads"
SAMPLE = "sample"


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        check: do all of it, change something too, and end.
        port: to serve on; None: one that is free.
        data: a folder, or ``sample``; None: the full data if it is there.
        keep: where to keep everything; None: nothing is kept.
    """

    check: bool = False
    port: int | None = None
    data: str | None = None
    keep: Path | None = None


def run(options: Options, report: Report) -> None:
    """Do everything, and remove what was made.

    Raises:
        StepFailed: a step did not hold.
        KeyboardInterrupt: somebody has interrupted it before it was served.
    """
    with report.step("data", "Read the companies") as step:
        dataset = read_data(options.data)
        step.note = f"{len(dataset.companies)} companies, {dataset.size:,} rows: {dataset.source}"
        step.facts.update(companies=len(dataset.companies), rows=dataset.size, source=dataset.source)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with report.step("address", "Reserve an address") as step:
        sock = bind(options.port)
        step.note = f"http://{DOMAIN}:{sock.getsockname()[1]}/"
        step.facts.update(url=step.note)
    with sock:
        Show(report, dataset, sock, keep=options.keep, check=options.check).run()


def read_data(choice: str | None) -> data.Dataset:
    """The companies: those of a folder, the full data set if it is there, or else the demo's own sample.

    Raises:
        InvalidInput: the folder does not hold such data.
    """
    named = choice or os.environ.get("TENANTRY_DEMO_DATA") or None
    if named is None and (FULL_DATA / "companies.csv").is_file():
        named = str(FULL_DATA)
    if named is not None and named != SAMPLE:
        return data.read(Path(named), named)
    with tempfile.TemporaryDirectory(prefix="tenantry-demo-") as folder:
        sample.write(Path(folder))
        return data.read(Path(folder), "the sample that comes with the demo")


class Show:
    """All that needs servers.

    Args:
        report: is told each step.
        dataset: the companies.
        sock: to serve on.
        keep: a folder to keep everything in; None: nothing is kept.
        check: change something too, and end instead of waiting.
    """

    def __init__(
        self, report: Report, dataset: data.Dataset, sock: socket.socket, *, keep: Path | None, check: bool
    ) -> None:
        self._report = report
        self._dataset = dataset
        self._sock = sock
        self._check = check
        self._stage = Stage(keep)
        self._secret = secrets.token_hex(32)

    def run(self) -> None:
        """Do everything, and remove what was made."""
        try:
            with self._report.step("servers", "Start two servers") as step:
                self._stage.start()
                ports = {name: server.port for name, server in self._stage.servers.items()}
                version = self._stage.servers[MAIN].binaries.text
                named = ", ".join(f"{name} on port {port}" for name, port in ports.items())
                step.note = f"PostgreSQL {version}; {named}"
                step.facts.update(postgres=version, ports=ports)
            asyncio.run(self._play())
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what ends now ends soon, and has to end whole
            self._clear()

    def _clear(self) -> None:
        kept = self._stage.is_kept
        with self._report.step("clear", "Stop the servers" if kept else "Remove everything") as step:
            self._stage.close()
            step.note = f"kept in {self._stage.folder}" if kept else "no process and no file is left"
            if left := self._stage.leftovers():
                raise NotHeld("something is left", where=", ".join(map(str, left)))

    async def _play(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with self._report.step("catalog", "Make the catalog") as step:
            settings, step.note = await stage.found(self._stage)
        async with AsyncExitStack() as stack:
            control = await stack.enter_async_context(Control(settings, actor="demo"))
            residents = await self._move_in(control)
            router = await stack.enter_async_context(stage.router_of(settings))
            await self._load(router, residents)
            await self._inspect(control)
            await self._serve(control, router, residents)

    async def _move_in(self, control: Control) -> list[Resident]:
        with self._report.step("shards", "Take the servers in as shards") as step:
            new = await stage.add_shards(control, self._stage.servers)
            step.note = f"new: {', '.join(new)}" if new else "were there already"
        with self._report.step("warm", "Build homes ahead") as step:
            step.note = "one schema and one database, which a tenant then only has to take"
            step.facts.update(built=await stage.warm_up(control))
        with self._report.step("onboard", "Onboard the companies") as step:
            residents = await stage.onboard(control, self._dataset)
            levels = {name: sum(each.level == name for each in residents) for name in LEVELS}
            step.note = ", ".join(f"{number} {name}" for name, number in levels.items() if number)
            step.facts.update(tenants=len(residents), levels=levels)
        return residents

    async def _load(self, router: AsyncRouter, residents: Sequence[Resident]) -> None:
        with self._report.step("load", "Load each company's rows") as step:
            await stage.load_rows(router, residents)
            rows = sum(sum(resident.counts.values()) for resident in residents)
            is_new = any(resident.loaded for resident in residents)
            how = "by bulk INSERT, each company in a transaction of its own" if is_new else "were there already"
            step.note = f"{rows:,} rows {how}"
            step.facts.update(rows=rows, tenants=[resident.as_dict() for resident in residents])
            step.shows.append(look.homes(residents))

    async def _inspect(self, control: Control) -> None:
        with self._report.step("perimeter", "Inspect the walls") as step:
            sections = await perimeter.plan(control)
            for section in sections:
                for finding in (*section.plan.changes, *section.plan.findings):
                    raise PerimeterBroken(str(finding), where=f"{section.shard}/{section.database}")
            schemas, databases = sum(len(section.schemas) for section in sections), len(sections)
            step.note = f"{schemas} schemas in {databases} databases: nothing to mend"
            step.facts.update(databases=databases, schemas=schemas)

    async def _serve(self, control: Control, router: AsyncRouter, residents: Sequence[Resident]) -> None:
        async with AsyncExitStack() as stack:
            with self._report.step("serve", "Serve the application") as step:
                application = create_app(router, self._secret)
                front = Front(application, control, self._sock.getsockname()[1])
                port = await stack.enter_async_context(serving(front, self._sock))
                client = await stack.enter_async_context(_client(port))
                step.note = "one process for all companies and levels"
            with self._report.step("attack", "Attack the walls") as step:
                await self._attack(step, control, router, client, residents)
            with self._report.step("visit", "Visit every company") as step:
                number = await visit_all(client, residents)
                step.note = f"{number} requests: pages are whole, figures are those of the data"
                step.facts.update(requests=number)
            if self._check:
                await self._change(client, residents)
            else:
                interrupted = _interrupted()
                self._report.say(*look.farewell(residents, port, self._stage.config))
                await interrupted.wait()

    async def _change(self, client: AsyncClient, residents: Sequence[Resident]) -> None:
        with self._report.step("change", "Change something everywhere") as step:
            number = await change_all(client, residents)
            step.note = f"{number} requests: each company sees its own change and no other"
            step.facts.update(requests=number)

    async def _attack(
        self, step: Step, control: Control, router: AsyncRouter, client: AsyncClient, residents: Sequence[Resident]
    ) -> None:
        loot = await _there_for_the_taking(control)
        app = create_vulnerable_app(router, self._secret)
        async with serving(app, bind(0)) as port, _client(port) as vulnerable:
            attacker = Attacker(vulnerable, client, router, self._secret)
            found = await attacker.attack(list(attacks.scenes(residents)))
        tried = sum(len(attack.outcomes) for attack in found)
        foreign = sum(outcome.answer.foreign for attack in found for outcome in attack.outcomes)
        step.facts.update(attacks=[each.as_dict() for each in found], tried=tried, foreign_rows=foreign, loot=loot)
        levels = len({outcome.level for attack in found for outcome in attack.outcomes})
        step.note = f"{len(found)} attacks, {tried} attempts from {levels} levels: {foreign} rows of others seen"
        step.shows.append(look.battle(found, loot))
        _expect_held(found)


def _expect_held(found: Sequence[Attack]) -> None:
    lost = [attack.name for attack in found if not attack.held]
    if lost:
        raise NotHeld(f"attacks that were not refused as they must be: {', '.join(lost)}", where=PATH)


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=f"http://{ADDRESS}:{port}", timeout=30, trust_env=False) as client:
        yield client


async def _there_for_the_taking(control: Control) -> dict[str, int]:
    """What an operator sees, who may see all and is on record for it: else seeing nothing would prove nothing."""
    async with all_tenants(control, MAIN, reason="demo: what the attacks could find") as conn:
        query = "SELECT count(*), count(DISTINCT company_id) FROM public.campaigns"
        row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return {"campaigns": row[0], "companies": row[1]}


def _interrupted() -> asyncio.Event:
    """From now on, an interrupt is not an error but the end that was waited for."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    return interrupted
