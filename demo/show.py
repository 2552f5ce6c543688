"""The demo from beginning to end."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from httpx2 import AsyncClient
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demo import attacks, data, sample, stage
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
    built = Stage(options.keep)
    try:
        with report.step("servers", "Start two servers") as step:
            built.start()
            ports = {name: server.port for name, server in built.servers.items()}
            version = next(iter(built.servers.values())).binaries.text
            step.note = f"PostgreSQL {version}; " + ", ".join(f"{name} on port {port}" for name, port in ports.items())
            step.facts.update(postgres=version, ports=ports)
        asyncio.run(_play(options, report, built, dataset))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what ends now ends soon, and has to end whole
        with report.step("clear", "Stop the servers" if built.is_kept else "Remove everything") as step:
            built.close()
            left = [str(folder) for folder in built.leftovers()]
            step.note = f"kept in {built.folder}" if built.is_kept else "no process and no file is left"
            if left:
                raise NotHeld("something is left", where=", ".join(left))


def read_data(choice: str | None) -> data.Dataset:
    """The companies: those of a folder, the full data set if it is there, or else the demo's own sample.

    Raises:
        InvalidInput: the folder does not hold such data.
    """
    named = choice or os.environ.get("TENANTRY_DEMO_DATA")
    if named is None and (FULL_DATA / "companies.csv").is_file():
        named = str(FULL_DATA)
    if named is not None and named != SAMPLE:
        return data.read(Path(named), named)
    with tempfile.TemporaryDirectory(prefix="tenantry-demo-") as folder:
        sample.write(Path(folder))
        return data.read(Path(folder), "the sample that comes with the demo")


async def _play(options: Options, report: Report, built: Stage, dataset: data.Dataset) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with report.step("catalog", "Make the catalog") as step:
        settings, step.note = await stage.found(built)
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(Control(settings, actor="demo"))
        residents = await _move_in(report, built, control, dataset)
        router = await stack.enter_async_context(stage.router_of(settings))
        await _load(report, router, residents)
        await _inspect(report, control)
        await _perform(options, report, built, control, router, residents)


async def _move_in(report: Report, built: Stage, control: Control, dataset: data.Dataset) -> list[Resident]:
    with report.step("shards", "Take the servers in as shards") as step:
        new = await stage.add_shards(control, built.servers)
        step.note = f"new: {', '.join(new)}" if new else "were there already"
    with report.step("warm", "Build homes ahead") as step:
        number = await stage.warm_up(control)
        step.note = "one schema and one database, which a tenant then only has to take"
        step.facts.update(built=number)
    with report.step("onboard", "Onboard the companies") as step:
        residents = await stage.onboard(control, dataset)
        levels = {name: sum(each.level == name for each in residents) for name in LEVELS}
        step.note = ", ".join(f"{number} {name}" for name, number in levels.items() if number)
        step.facts.update(tenants=len(residents), levels=levels)
    return residents


async def _load(report: Report, router: AsyncRouter, residents: Sequence[Resident]) -> None:
    with report.step("load", "Load each company's rows") as step:
        await stage.load_rows(router, residents)
        rows = sum(sum(resident.counts.values()) for resident in residents)
        is_new = any(resident.loaded for resident in residents)
        how = "by bulk INSERT, each company in a transaction of its own" if is_new else "were there already"
        step.note = f"{rows:,} rows {how}"
        step.facts.update(rows=rows, tenants=[_placed(resident) for resident in residents])
        step.shows.append(_homes(residents))


def _placed(resident: Resident) -> dict[str, object]:
    at = resident.tenant.placement
    assert at is not None
    return {
        "slug": resident.tenant.slug,
        "level": resident.level,
        "plan": resident.tenant.plan,
        "shard": at.shard,
        "database": at.database,
        "schema": at.schema,
        "onboarded_seconds": round(resident.created, 4),
        "loaded_seconds": round(resident.loaded, 4),
        "rows": resident.counts,
    }


def _homes(residents: Sequence[Resident]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("company", "level", "lives in"):
        table.add_column(name, no_wrap=True)
    for name in ("onboarded", "rows", "loaded"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in sorted(residents, key=lambda resident: list(LEVELS).index(resident.level)):
        at = each.tenant.placement
        assert at is not None
        made = f"{each.created * 1000:,.0f} ms" if each.created else "before"
        loaded = f"{each.loaded:.2f} s" if each.loaded else "before"
        place, rows = f"{at.shard}/{at.database}/{at.schema}", f"{sum(each.counts.values()):,}"
        table.add_row(each.tenant.slug, Text(each.level, _STYLES[each.level]), place, made, rows, loaded)
    return table


_STYLES = {"pooled": "cyan", "schema": "blue", "database": "magenta", "dedicated": "red"}


async def _inspect(report: Report, control: Control) -> None:
    with report.step("perimeter", "Inspect the walls") as step:
        sections = await perimeter.plan(control)
        for section in sections:
            for finding in (*section.plan.changes, *section.plan.findings):
                raise PerimeterBroken(str(finding), where=f"{section.shard}/{section.database}")
        schemas = sum(len(section.schemas) for section in sections)
        step.note = f"{schemas} schemas in {len(sections)} databases: nothing to mend"
        step.facts.update(databases=len(sections), schemas=schemas)


async def _perform(
    options: Options,
    report: Report,
    built: Stage,
    control: Control,
    router: AsyncRouter,
    residents: Sequence[Resident],
) -> None:
    secret = secrets.token_hex(32)
    with report.step("serve", "Serve the application") as step:
        sock = bind(options.port)
        port = sock.getsockname()[1]
        step.note = f"http://{DOMAIN}:{port}/, one process for all companies"
        step.facts.update(url=f"http://{DOMAIN}:{port}/")
    front = Front(create_app(router, secret), control, port)
    async with serving(front, sock), _client(port) as client:
        with report.step("attack", "Attack the walls") as step:
            await _attack(step, control, router, secret, client, residents)
        with report.step("visit", "Visit every company") as step:
            number = await visit_all(client, residents)
            step.note = f"{number} requests: pages are whole, figures are those of the data"
            step.facts.update(requests=number)
        if options.check:
            with report.step("change", "Change something everywhere") as step:
                number = await change_all(client, residents)
                step.note = f"{number} requests: each company sees its own change and no other"
                step.facts.update(requests=number)
            return
        report.say(*_farewell(built, port, residents))
        await _until_interrupted()


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=f"http://{ADDRESS}:{port}", timeout=30, trust_env=False) as client:
        yield client


async def _attack(
    step: Step,
    control: Control,
    router: AsyncRouter,
    secret: str,
    client: AsyncClient,
    residents: Sequence[Resident],
) -> None:
    loot = await _there_for_the_taking(control)
    app = create_vulnerable_app(router, secret)
    async with serving(app, bind(0)) as port, _client(port) as vulnerable:
        found = await Attacker(vulnerable, client, router, secret).attack(list(attacks.scenes(residents)))
    tried = sum(len(attack.outcomes) for attack in found)
    foreign = sum(outcome.answer.foreign for attack in found for outcome in attack.outcomes)
    step.facts.update(attacks=[attack.as_dict() for attack in found], tried=tried, foreign_rows=foreign, loot=loot)
    step.note = (
        f"{len(found)} attacks, {tried} attempts from {len({each.level for each in residents})} levels:"
        f" {foreign} rows of others seen"
    )
    there = f"{loot['campaigns']} campaigns of {loot['companies']} companies"
    seen = Text(f"(an operator, who gives a reason and is on record, sees {there} in the shared tables)", "dim")
    step.shows.append(Group(seen, *map(_shown, found)))
    for attack in found:
        if not attack.held:
            outcome = next((each for each in attack.outcomes if not each.held), None)
            raise NotHeld(f"the attack {attack.name!r} was not refused: {outcome}", where=PATH)


async def _there_for_the_taking(control: Control) -> dict[str, int]:
    """What an operator sees, who may see all and is on record for it: else seeing nothing would prove nothing."""
    async with all_tenants(control, MAIN, reason="demo: what the attacks could find") as conn:
        query = "SELECT count(*), count(DISTINCT company_id) FROM public.campaigns"
        row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return {"campaigns": row[0], "companies": row[1]}


def _shown(attack: Attack) -> Group:
    first = attack.outcomes[0]
    levels = ", ".join(dict.fromkeys(outcome.level for outcome in attack.outcomes))
    mark, style = ("✓", "green") if attack.held else ("✗", "red")
    word = "answered" if first.answer.refusal is None else "refused"
    return Group(
        Text.assemble((f"{mark} ", style), attack.title, (f"  {levels}", "dim")),
        Padding(Text(first.sent, "yellow", overflow="ellipsis", no_wrap=True), _BELOW, expand=False),
        Padding(Text.assemble((f"{word}: ", "dim"), (first.answer.said, style)), _BELOW, expand=False),
    )


_BELOW = (0, 0, 0, 4)


def _farewell(built: Stage, port: int, residents: Sequence[Resident]) -> list[Text]:
    slug = residents[0].tenant.slug
    width = max(len(each.tenant.slug) for each in residents)
    config = f"TENANTRY_CONFIG='{built.config}'"
    lines = [Text(""), Text.assemble("Open ", (f"http://{DOMAIN}:{port}/", "bold underline"), ", or a company:")]
    for each in residents:
        url = f"http://{each.tenant.slug}.{DOMAIN}:{port}/"
        lines.append(
            Text.assemble(
                "  ", (url, "underline"), " " * (width - len(each.tenant.slug) + 2), (each.level, _STYLES[each.level])
            )
        )
    return [
        *lines,
        Text(""),
        Text("Ask the API, and the control plane:"),
        Text(f"  curl -H 'X-Tenant: {slug}' http://{ADDRESS}:{port}/api/stats"),
        Text(f"  {config} .venv/bin/tenantry tenant list", no_wrap=True, overflow="ignore"),
        Text(""),
        Text("Ctrl-C ends it."),
    ]


async def _until_interrupted() -> None:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    await interrupted.wait()
