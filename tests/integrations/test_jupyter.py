"""The magics, in a real kernel: which cells run for whom."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from tenantry import Tenant
from tenantry.service import tenant as tenants
from tests.fixtures.house import House

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Output:
    """What a cell has shown."""

    text: str = ""
    value: str | None = None
    error: str | None = None
    status: str = ""

    def take(self, message: dict[str, Any]) -> None:
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                self.text += content["text"]
            case "execute_result":
                self.value = content["data"]["text/plain"]
            case "error":
                self.error = f"{content['ename']}: {content['evalue']}"


@dataclass
class Notebook:
    """A kernel, and what its cells say."""

    client: Any
    outputs: list[Output] = field(default_factory=list)

    def run(self, cell: str) -> Output:
        output = Output()
        reply = self.client.execute_interactive(cell, output_hook=output.take, timeout=60, store_history=False)
        output.status = reply["content"]["status"]
        self.outputs.append(output)
        return output

    def value(self, cell: str) -> Any:
        """The value of a cell's last line."""
        output = self.run(cell)
        assert output.error is None, output
        return output.value


@pytest.fixture(scope="module")
def kernel(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real kernel that has loaded the extension."""
    folder = tmp_path_factory.mktemp("k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setenv("TENANTRY_CATALOG", house.settings.catalog_dsn)
        manager = KernelManager(transport="ipc", connection_file=str(folder / "kernel.json"), ip=str(folder / "k"))
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=argv, display_name="test", language="python")
        manager.start_kernel(cwd=str(ROOT))
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(kernel: Any) -> Iterator[Notebook]:
    """A notebook that begins anew."""
    notebook = Notebook(kernel)
    assert notebook.run("%load_ext tenantry\nfrom tenantry import current_tenant, Router, AsyncRouter").error is None
    assert notebook.run("from tenantry.context import current_scope").error is None
    yield notebook
    for cell in ("%tenant --nobody", "%unload_ext tenantry", "%reset -f"):
        assert notebook.run(cell).error is None


SLUG = "current_scope() and current_scope().tenant.slug"


def test_after_a_choice_cells_run_for_the_tenant_until_another_is_made(notebook: Notebook) -> None:
    assert notebook.value("%tenant pooled-a") == "'pooled-a (rw)'"
    for _ in range(2):
        assert notebook.value(SLUG) == "'pooled-a'"
        assert notebook.value(f"import asyncio\nawait asyncio.sleep(0)\n{SLUG}") == "'pooled-a'"
        assert notebook.value(f"await asyncio.to_thread(lambda: {SLUG})") == "'pooled-a'"
    assert notebook.value("%tenant pooled-b --ro") == "'pooled-b (ro)'"
    assert notebook.value("await asyncio.sleep(0)\ncurrent_scope().tenant.slug, str(current_scope().mode)") == (
        "('pooled-b', 'ro')"
    )
    assert notebook.value("%tenant") == "'pooled-b (ro)'"
    assert notebook.value("%tenant --nobody") == "'no tenant; choose one with %tenant SLUG'"
    assert notebook.value(SLUG) is None


def test_the_rest_of_the_cell_that_chooses_runs_for_the_tenant_too(notebook: Notebook) -> None:
    assert notebook.value(f"%tenant pooled-a\n{SLUG}") == "'pooled-a'"
    assert notebook.value(f"import asyncio\n%tenant pooled-b\nawait asyncio.sleep(0)\n{SLUG}") == "'pooled-b'"


def test_a_cell_may_run_for_a_tenant_of_its_own(notebook: Notebook) -> None:
    assert notebook.value(f"%%tenant schema-a\n{SLUG}") == "'schema-a'"
    assert notebook.value(SLUG) is None
    assert notebook.run("%tenant pooled-a").error is None
    assert notebook.value(f"%%tenant schema-a --ro\nimport asyncio\nawait asyncio.sleep(0)\n{SLUG}") == "'schema-a'"
    assert notebook.value(SLUG) == "'pooled-a'"
    assert notebook.run("%%tenant schema-a\n1/0").error == "ZeroDivisionError: division by zero"
    assert notebook.value(SLUG) == "'pooled-a'"
    assert notebook.value(f"%%tenant --nobody\n{SLUG}") is None
    inner = f"get_ipython().run_cell_magic('tenant', 'pooled-b', 'print({SLUG})')\nprint({SLUG})"
    assert notebook.run(inner).text == "pooled-b\npooled-a\n"


def test_rows_land_at_the_tenant(notebook: Notebook) -> None:
    notebook.value("router = Router()")
    insert = "with router.transaction() as conn:\n    conn.execute(\"INSERT INTO orders (note) VALUES ('{}')\")"
    count = "with router.transaction() as conn:\n    [n for (n,) in conn.execute('SELECT note FROM orders')]"
    count = count.replace("    [", "    found = [") + "\nfound"
    notebook.value(f"%%tenant pooled-a\n{insert.format('a')}\nNone")
    notebook.value(f"%%tenant database-a\n{insert.format('d')}\nNone")
    assert notebook.value(f"%%tenant pooled-a\n{count}") == "['a']"
    assert notebook.value(f"%%tenant database-a\n{count}") == "['d']"
    error = notebook.run(f"%%tenant pooled-a --ro\n{insert.format('x')}").error
    assert error
    assert "read-only transaction" in error
    error = notebook.run(insert.format("x")).error
    assert error
    assert error.startswith("NoTenant: this code runs outside a tenant scope")
    notebook.run("router.close()")


def test_an_async_router_serves_cells_that_await(notebook: Notebook) -> None:
    notebook.value("router = AsyncRouter()")
    read = "async with router.transaction() as conn:\n    cursor = await conn.execute('SELECT current_user')"
    assert notebook.value(f"%%tenant pooled-b\n{read}\n(await cursor.fetchone())[0]") == "'tenantry_app'"
    assert notebook.value("await router.close()") is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%tenant nobody-has-this", "there is no tenant with the slug 'nobody-has-this'"),
        ("%tenant No_Slug", "'No_Slug' is not a slug"),
        ("%tenant pooled-a pooled-b", "%tenant [SLUG] [--ro]"),
        ("%tenant pooled-a --nobody", "%tenant [SLUG] [--ro]"),
        ("%tenant pooled-a --rw", "%tenant [SLUG] [--ro]"),
    ],
)
def test_a_wrong_choice_stops_the_cell_and_leaves_no_tenant(notebook: Notebook, cell: str, message: str) -> None:
    """Whoever has mistyped a name must not go on in the house of the tenant before."""
    notebook.value("%tenant schema-a")
    output = notebook.run(f"{cell}\nprint('it ran')")
    assert output.status == "error"
    assert output.text.startswith("UsageError: ")
    assert message in output.text
    assert "it ran" not in output.text
    assert notebook.value(SLUG) is None


@pytest.mark.parametrize(
    ("cell", "message"), [("%%tenant", "name the tenant"), ("%%tenant nobody-has-this", "there is no tenant")]
)
def test_a_wrong_choice_for_one_cell_stops_that_cell_only(notebook: Notebook, cell: str, message: str) -> None:
    notebook.value("%tenant schema-a")
    output = notebook.run(f"{cell}\nprint('it ran')")
    assert output.status == "error"
    assert message in output.text
    assert "it ran" not in output.text
    assert notebook.value(SLUG) == "'schema-a'"


def test_a_tenant_that_is_suspended_meanwhile_has_no_more_cells(
    notebook: Notebook, house: House, mover: Tenant
) -> None:
    notebook.value(f"%tenant {mover.slug}")

    async def change(suspended: bool) -> None:
        async with house.control() as control:
            await (tenants.suspend if suspended else tenants.resume)(control, mover.slug)

    asyncio.run(change(True))
    heard = (
        f"from tenantry.model import TenantState\nwhile _.find('{mover.slug}').state is not TenantState.SUSPENDED: pass"
    )
    notebook.run(f"_ = next(iter(get_ipython().tenantry._routers.values()))\n{heard}")
    output = notebook.run(f"print({SLUG})")
    assert "This cell has no tenant" in output.text
    assert "is suspended" in output.text
    assert output.text.endswith("None\n")


def test_the_cells_of_the_page_run_one_after_the_other(notebook: Notebook, house: House) -> None:
    for slug in ("acme", "globex"):
        house.create(slug)
    page = (ROOT / "docs" / "howto" / "jupyter.md").read_text("utf-8")
    cells = re.findall(r"^```ipython\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    outputs = [notebook.run(cell) for cell in cells]
    assert [output for output in outputs if output.status != "ok"] == []
    assert [output.value for output in outputs if output.value] == [
        "'acme (rw)'",
        "'globex'",
        "'no tenant; choose one with %tenant SLUG'",
    ]


def test_a_kernel_keeps_what_a_plain_cell_has_entered_and_loses_it_where_a_cell_awaits(notebook: Notebook) -> None:
    """Why the magics enter the scope anew for each cell: the day this changes, the page has to."""
    notebook.value("from contextvars import ContextVar\nseen = ContextVar('seen', default=0)\n_ = seen.set(1)")
    assert notebook.value("seen.get()") == "1"
    notebook.value("import asyncio\nawait asyncio.sleep(0)\n_ = seen.set(2)")
    assert notebook.value("seen.get()") == "1"
